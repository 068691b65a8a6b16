"""Train on all pairs of a task's images.

The pairs replace queries and prototypes.

Sohn, "Improved deep metric learning with multi-class N-pair loss objective", NIPS 2016 (``loss=n_pair``).
Laenen, Bertinetto, "On episodes, prototypical networks, and few-shot learning", NeurIPS 2021 (``loss=nca``, after
Goldberger, Roweis, Hinton, Salakhutdinov, "Neighbourhood components analysis", NIPS 2004).

With s the similarities of the support and query images of a task to each other:
    n_pair: the mean over pairs (i, p) of one class of log(1 + sum over n of other classes of e^(s_in - s_ip))
    nca:    the mean over i of -log(sum over p of its class of e^(s_ip) / sum over all j but i of e^(s_ij))
For n_pair each pair is a one-shot task, with all images of other classes to be told from; for nca one near image of
a class is enough. The network is tested as a prototypical network.

Differs from the papers:
- n_pair: similarities are the logits of the prototypical network, by default minus squared distances, not inner
  products with a penalty on their norms, and all pairs of a class are taken, not one.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods.base import Terms, accuracy
from fewshot.methods.predictor import Predictor, module_state
from fewshot.methods.protonet import ProtoNet, prototypes
from fewshot.networks import Backbone, Prediction


def n_pair(similarities: Tensor, labels: Tensor) -> Tensor:
    """Return the N-pair loss.

    The similarities are ``(M, M)``, the labels ``(M,)``.
    """
    same, itself = _same_class_and_same_image(labels)
    others = torch.where(same, -torch.inf, similarities).logsumexp(1, keepdim=True)
    pair = same & ~itself
    return torch.where(pair, F.softplus(others - similarities), 0.0).sum() / pair.sum()


def nca(similarities: Tensor, labels: Tensor) -> Tensor:
    """Return the NCA loss.

    The similarities are ``(M, M)``, the labels ``(M,)``.
    """
    same, itself = _same_class_and_same_image(labels)
    positives = torch.where(same & ~itself, similarities, -torch.inf).logsumexp(1)
    return (torch.where(itself, -torch.inf, similarities).logsumexp(1) - positives).mean()


def _same_class_and_same_image(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``(M, M)`` masks of equal classes and images."""
    number = torch.arange(len(labels), device=labels.device)
    return labels[:, None] == labels, number[:, None] == number


LOSSES = {"n_pair": n_pair, "nca": nca}


class NPair(ProtoNet):
    """Train a prototypical network on all pairs of images.

    Args:
        backbone: maps images to embeddings.
        loss: ``n_pair`` or ``nca``.
        options: see ``ProtoNet``; without a refinement.
    """

    def __init__(self, backbone: Backbone, loss: str = "n_pair", **options: Any) -> None:
        super().__init__(backbone, **options)
        if loss not in LOSSES:
            raise UserError(f"method.loss={loss}: choose one of {', '.join(LOSSES)}")
        if self.refinement is not None:
            raise UserError("method.refinement: this method is trained without prototypes; choose method=protonet")
        self.loss = LOSSES[loss]

    def task_terms(self, episode: Episode) -> Terms:
        """Return the loss and the accuracy of prototypes.

        The loss is over all images of the task.
        """
        shots = len(episode.support_x)
        labels = torch.cat([episode.support_y, episode.query_y])

        def compare(state: dict[str, Tensor], x: Tensor) -> Prediction:
            params = module_state(state, "backbone")
            features = self.forward_queries(self.backbone, params, episode.support_x, x, joint=True)
            return Prediction(self.similarities(state, features, features), features)

        state: dict[str, Tensor] = dict(self.named_parameters())
        (similarities, features), statistics = self.predict_queries(Predictor(compare, state), episode.query_x)
        loss = episode.if_labeled(self.loss(similarities, labels))
        with torch.no_grad():
            centres = prototypes(features[:shots], episode.support_y, episode.ways)
            right = accuracy(self.similarities(state, features[shots:], centres), episode.query_y)
        return {"objective": loss, "loss": loss, "accuracy": episode.if_labeled(right, float("nan"))} | statistics
