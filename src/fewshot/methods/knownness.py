"""Compute how well a method knows images.

The knownness ``(M,)`` of images is computed from their logits ``(M, N)``, and is higher for images of the classes of
the task than for others:

- ``probability``: the largest probability (Hendrycks and Gimpel 2017), as its log-odds, which have the same order and
  do not round to 1;
- ``energy``: minus the free energy, the logsumexp of the logits (Liu et al. 2020);
- ``logit``: the largest logit (Hendrycks et al. 2022): of a method that compares queries with prototypes, minus the
  distance to the nearest prototype;
- ``real``: of MetaGAN, the log-odds that an image is real.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from fewshot.engines.engine import TaskFunction
from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods.bn_protocol import BatchNormProtocol
from fewshot.networks import Prediction
from fewshot.open_set import KNOWNNESS


class OpenSetProtocol(BatchNormProtocol):
    """Give a method a knownness of images.

    Attributes:
        knownness_score: the method's own score, until ``choose_knownness``.
    """

    knownness_score = "energy"

    @abstractmethod
    def map_tasks(self, function: TaskFunction, episodes: Episode) -> dict[str, Tensor]:
        """Apply a function to tasks and stack outputs."""

    def choose_knownness(self, score: str) -> None:
        """Choose the score; ``auto`` keeps the method's own.

        Raises:
            UserError: the method does not have the score.
        """
        if score == "real" and self.knownness_score != "real":
            raise UserError(f"task.knownness=real: only MetaGAN has it; choose one of {', '.join(KNOWNNESS[:-1])}")
        if score != "auto":
            self.knownness_score = score

    def knownness(self, prediction: Prediction) -> Tensor:
        """Return the knownness ``(M,)`` of images."""
        return score_logits(prediction.logits, self.knownness_score)

    def open_set(self, episodes: Episode) -> dict[str, Tensor]:
        """Return query logits ``(B, N*Q, N)`` and knownness ``(B, N*Q+U*Q)``.

        Unknown images come last. The logits are of the query images alone, so that unknown images change no label. The
        knownness is of one pass over all images, so that under ``bn=transductive`` no statistics of its own tell an
        unknown image.
        """

        def both(episode: Episode) -> dict[str, Tensor]:
            assert episode.unknown_x is not None
            predict = self.predictor(episode)
            together = predict(torch.cat([episode.query_x, episode.unknown_x]))
            return {"logits": predict(episode.query_x).logits, "knownness": self.knownness(together)}

        done = [self.map_tasks(both, chunk) for chunk in self.chunks(episodes)]
        return {name: torch.cat([terms[name] for terms in done]) for name in done[0]}


def score_logits(logits: Tensor, score: str) -> Tensor:
    """Return the knownness ``(M,)`` of logits ``(M, N)``."""
    if score == "energy":
        return logits.logsumexp(-1)
    if score == "logit":
        return logits.amax(-1)
    assert score == "probability", score
    first = logits.argmax(-1, keepdim=True)
    others = torch.where(torch.arange(logits.shape[-1], device=logits.device) == first, -torch.inf, logits)
    return logits.amax(-1) - others.logsumexp(-1)
