"""Measure how far images lie from the classes of a support set.

Features are raised to the power 0.5, centred and given length 1, as in Hu, Gripon, Pateux, "Leveraging the feature
distribution in transfer-based few-shot learning", ICANN 2021. The distance to a class is Mahalanobis', with one
covariance within all classes (Lee et al., "A simple unified framework for detecting out-of-distribution samples and
adversarial attacks", NeurIPS 2018), here shrunk towards a multiple of the identity, since a support set is small.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

POWER = 0.5
SHRINKAGE = 0.5  # share of the identity in the covariance
MOST_RESIDUALS = 2000  # behind the covariance, whose inverse is of that size


@dataclass(frozen=True)
class ClassDistances:
    """Hold the class means of a support set, and the covariance within classes.

    With residuals R ``(M, D)`` of the support features from the class means, and v the mean of their variances, the
    covariance is (1 - s) R^T R / (M - N) + s v I. Its inverse needs a system of M equations only (Woodbury). Of more
    than 2,000 residuals some are left out, evenly spaced.

    Attributes:
        centre: ``(D,)``, subtracted from the raised features.
        means: ``(N, D)`` of each class.
        counts: ``(N,)`` images behind each mean.
        factor: ``(R, D)`` of R residuals, such that the covariance is factor^T factor + ``diagonal`` I.
        inner: ``(R, R)``, the inverse of I + factor factor^T / diagonal.
        diagonal: s v.
    """

    centre: Tensor
    means: Tensor
    counts: Tensor
    factor: Tensor
    inner: Tensor
    diagonal: Tensor

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, ways: int, whiten: bool = True) -> "ClassDistances":
        """Measure a support set.

        Args:
            features: ``(M, D)``.
            labels: ``(M,)``, every class in [0, ``ways``) at least once.
            ways: N.
            whiten: learn the covariance; otherwise distances are Euclidean.
        """
        raised = _raised(features)
        members = F.one_hot(labels, ways).to(raised)  # (M, N)
        counts = members.sum(0)
        centre = ((members.T @ raised) / counts[:, None]).mean(0)
        placed = F.normalize(raised - centre)
        means = (members.T @ placed) / counts[:, None]
        freedom = len(labels) - ways
        residuals = placed - means[labels]
        variance = residuals.square().sum() / max(freedom, 1) / residuals.shape[1]
        residuals = residuals[:: -(-len(residuals) // MOST_RESIDUALS)]
        identity = torch.eye(len(residuals), dtype=raised.dtype)
        if not whiten or not variance > 0:  # equal images have no variation to learn
            return cls(centre, means, counts, torch.zeros_like(residuals), identity, raised.new_ones(()))
        diagonal = SHRINKAGE * variance
        share = len(residuals) / len(labels)
        factor = residuals * ((1 - SHRINKAGE) / (freedom * share)) ** 0.5
        inner = torch.linalg.inv(identity + factor @ factor.T / diagonal)
        return cls(centre, means, counts, factor, inner, diagonal)

    def __call__(self, features: Tensor) -> Tensor:
        """Return squared distances ``(m, N)`` of features ``(m, D)``.

        A distance is divided by 1 + 1/n for a class of n images, by which the error of the class mean enlarges it. So
        distances to means of few and of many images can be compared.
        """
        placed = F.normalize(_raised(features) - self.centre)
        shadow = placed @ self.factor.T  # (m, R)
        class_shadow = self.means @ self.factor.T  # (N, R)
        own = placed.square().sum(1) - self._quadratic(shadow)
        of_classes = self.means.square().sum(1) - self._quadratic(class_shadow)
        cross = placed @ self.means.T - shadow @ self.inner @ class_shadow.T / self.diagonal
        squared = (own[:, None] - 2 * cross + of_classes) / self.diagonal
        return squared.clamp(min=0) / (1 + 1 / self.counts)

    def _quadratic(self, shadow: Tensor) -> Tensor:
        return (shadow @ self.inner * shadow).sum(1) / self.diagonal


def _raised(features: Tensor) -> Tensor:
    values = features.flatten(1).double()
    return values.sign() * values.abs().pow(POWER)
