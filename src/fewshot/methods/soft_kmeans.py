"""Refine prototypes by unlabelled images, with soft k-means.

Ren, Triantafillou, Ravi, Snell, Swersky, Tenenbaum, Larochelle, Zemel, "Meta-learning for semi-supervised
few-shot classification", ICLR 2018: sections "Prototypical networks with soft k-means" and "Prototypical
networks with masked soft k-means".

An unlabelled image with embedding h_j belongs to class c in part, and moves its prototype p_c:
    z_jc = softmax_c(-||h_j - p_c||^2)
    p~_c = (sum of the support embeddings of c + sum_j h_j z_jc m_jc) / (their count + sum_j z_jc m_jc)
with m = 1 in the plain form. The masked form leaves out far images, such as images of distractor classes:
    d~_jc = d_jc / mean_j d_jc, where d_jc = ||h_j - p_c||^2
    m_jc = sigmoid(-gamma_c (d~_jc - beta_c)), with beta_c, gamma_c = MLP(statistics over j of d~_jc)

Differs from the paper:
- beta and gamma are exponentials of the MLP's outputs and its inputs pass no gradient, as in the authors'
  code; that code multiplies by the mask twice, this once, as the paper says;
- the form with one more cluster for distractors is left out.
"""

import torch
from torch import Tensor, nn

from fewshot.errors import UserError
from fewshot.methods.protonet import squared_distances


class SoftKMeans(nn.Module):
    """Refine prototypes by ``steps`` of soft k-means.

    Input: prototypes ``(N, D)``, support images a class ``(N,)``, embeddings of unlabelled images ``(U, D)``.
    Output: prototypes ``(N, D)``.
    """

    def __init__(self, steps: int = 1) -> None:
        super().__init__()
        if steps < 1:
            raise UserError(f"method.refinement.steps={steps}: must be at least 1")
        self.steps = steps

    def forward(self, prototypes: Tensor, counts: Tensor, unlabeled: Tensor) -> Tensor:
        """Return the refined prototypes ``(N, D)``."""
        refined = prototypes
        for _ in range(self.steps):
            weights = (-squared_distances(unlabeled, refined)).softmax(1)
            refined = _weighted_means(prototypes, counts, unlabeled, weights)
        return refined


class MaskedSoftKMeans(nn.Module):
    """Refine prototypes by one step with masks.

    Each class masks far images. Shapes are as for ``SoftKMeans``.

    Args:
        hidden: units of the MLP.
    """

    def __init__(self, hidden: int = 20) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(5, hidden), nn.Tanh(), nn.Linear(hidden, 2))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):  # beta and gamma start near 1
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    def forward(self, prototypes: Tensor, counts: Tensor, unlabeled: Tensor) -> Tensor:
        """Return the refined prototypes ``(N, D)``."""
        distances = squared_distances(unlabeled, prototypes).clamp(min=0)  # below 0 by rounding only
        weights = (-distances).softmax(1) * self.mask(distances)
        return _weighted_means(prototypes, counts, unlabeled, weights)

    def mask(self, distances: Tensor) -> Tensor:
        """Return the mask m in (0, 1).

        The mask and the distances are ``(U, N)``.
        """
        mean = distances.mean(0)
        relative = distances / torch.where(mean > 0, mean, 1.0)
        beta, gamma = self.mlp(distance_statistics(relative).detach()).exp().unbind(1)
        return torch.sigmoid(-gamma * (relative - beta))


def distance_statistics(x: Tensor) -> Tensor:
    """Return five statistics of distances.

    Minimum, maximum, variance, skewness and excess kurtosis over rows are ``(N, 5)``. The rows ``(U, N)`` are the
    population, not a sample. Equal rows have skewness 0.
    """
    variance, mean = torch.var_mean(x, 0, correction=0)
    standard = (x - mean) / torch.where(variance > 0, variance, 1.0).sqrt()
    skewness = standard.pow(3).mean(0)
    kurtosis = standard.pow(4).mean(0) - 3
    return torch.stack([x.amin(0), x.amax(0), variance, skewness, kurtosis], dim=1)


def _weighted_means(prototypes: Tensor, counts: Tensor, unlabeled: Tensor, weights: Tensor) -> Tensor:
    """Return weighted means of each class.

    The means are over support images and weighted unlabelled images.
    """
    total = counts[:, None] * prototypes + weights.T @ unlabeled
    return total / (counts + weights.sum(0))[:, None]
