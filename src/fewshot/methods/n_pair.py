"""Every image of a training task compared with every other, in place of queries with prototypes.

Sohn, "Improved deep metric learning with multi-class N-pair loss objective", NIPS 2016 (``loss=n_pair``).
Laenen, Bertinetto, "On episodes, prototypical networks, and few-shot learning", NeurIPS 2021 (``loss=nca``, after
Goldberger, Roweis, Hinton, Salakhutdinov, "Neighbourhood components analysis", NIPS 2004).

With s the similarities of the support and query images of a task to each other:
    n_pair: the mean over pairs (i, p) of one class of log(1 + sum over n of other classes of e^(s_in - s_ip))
    nca:    the mean over i of -log(sum over p of its class of e^(s_ip) / sum over all j but i of e^(s_ij))
For n_pair each pair is a one-shot task, with all images of other classes to be told from; for nca one near image of
a class is enough. The network is tested as a prototypical network.

Differs from the papers:
- n_pair: similarities are those of the prototypical network, minus squared distances by default, not inner products
  with a penalty on their norms, and all pairs of a class are taken, not one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods.base import Terms, accuracy
from fewshot.methods.predictor import Predictor, part
from fewshot.methods.protonet import ProtoNet, prototypes
from fewshot.networks import Backbone, Prediction


def n_pair(similarities: Tensor, labels: Tensor) -> Tensor:
    """The mean over all pairs of a class; of ``(M, M)`` and ``(M,)``."""
    same, itself = _relations(labels)
    others = torch.where(same, -torch.inf, similarities).logsumexp(1, keepdim=True)
    pair = same & ~itself
    return torch.where(pair, F.softplus(others - similarities), 0.0).sum() / pair.sum()


def nca(similarities: Tensor, labels: Tensor) -> Tensor:
    """The mean over all images; of ``(M, M)`` and ``(M,)``."""
    same, itself = _relations(labels)
    positives = torch.where(same & ~itself, similarities, -torch.inf).logsumexp(1)
    return (torch.where(itself, -torch.inf, similarities).logsumexp(1) - positives).mean()


def _relations(labels: Tensor) -> tuple[Tensor, Tensor]:
    """``(M, M)`` bool: of one class; the same image."""
    number = torch.arange(len(labels), device=labels.device)
    return labels[:, None] == labels, number[:, None] == number


LOSSES = {"n_pair": n_pair, "nca": nca}


class NPair(ProtoNet):
    """A prototypical network trained on all pairs of images.

    Args:
        backbone: images to embeddings.
        loss: ``n_pair`` or ``nca``.
        options: see ``ProtoNet``; without a refinement.
    """

    def __init__(self, backbone: Backbone, loss: str = "n_pair", **options) -> None:
        super().__init__(backbone, **options)
        if loss not in LOSSES:
            raise UserError(f"method.loss={loss}: choose one of {', '.join(LOSSES)}")
        if self.refinement is not None:
            raise UserError("method.refinement: this method is trained without prototypes; choose method=protonet")
        self.loss = LOSSES[loss]

    def task_terms(self, episode: Episode) -> Terms:
        shots, labels = len(episode.support_x), torch.cat([episode.support_y, episode.query_y])

        def compare(state: dict[str, Tensor], x: Tensor) -> Prediction:
            features = self.run(self.backbone, part(state, "backbone"), episode.support_x, x, joint=True)
            return Prediction(self.similarities(state, features, features), features)

        state: dict[str, Tensor] = dict(self.named_parameters())
        (similarities, features), statistics = self.classify(Predictor(compare, state), episode.query_x)
        loss = episode.if_labeled(self.loss(similarities, labels))
        with torch.no_grad():
            centres = prototypes(features[:shots], episode.support_y, episode.ways)
            right = accuracy(self.similarities(state, features[shots:], centres), episode.query_y)
        return {"objective": loss, "loss": loss, "accuracy": episode.if_labeled(right, float("nan"))} | statistics
