"""Label images by a method that is fitted to a support set."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewshot import rng
from fewshot.augment import Affine
from fewshot.data.any_images import Images
from fewshot.leave_one_out import UNKNOWN, Trust
from fewshot.methods.predictor import Predictor
from fewshot.passes import AT_ONCE
from fewshot.streams import FixedSeed, ViewStream


def view(x: Tensor, number: int, together: bool) -> Tensor:
    """Return one view of images.

    Images are ``(M, C, S, S)``. View 0 is unchanged; the other views are changed a little.
    """
    if number == 0:
        return x
    key = rng.key(number)
    if together:  # no image's view depends on its place among the others
        return Affine()(x[:, None], rng.bits(key, ViewStream.QUERY).expand(len(x)))[:, 0]
    return Affine()(x[None], rng.bits(key, ViewStream.SUPPORT)[None])[0]


@dataclass(frozen=True)
class Scores:
    """Hold what a fitted method says about images.

    Attributes:
        probabilities: ``(M, N)``, columns as the classes.
        knownness: ``(M,)``: the lower, the less an image looks like any class; nan without distances.
        unknown: ``(M,)`` bool, the images of no class.
    """

    probabilities: Tensor
    knownness: Tensor
    unknown: Tensor


@dataclass(frozen=True)
class FittedLearner:
    """Label images with the support set's classes.

    Attributes:
        classes: the labels, sorted.
        predictors: one for each view of the images.
        read: images of any kind to pixels.
        normalise: pixels as the network takes these.
        limit_memory: a context in which predictors are called.
        encode: normalised images as predictors take these: unchanged, or features of a frozen network.
        trust: calibrates probabilities and tells unknown images; None: neither.
    """

    classes: list[Hashable]
    predictors: Sequence[Predictor]
    read: Callable[[Images], Tensor]
    normalise: Callable[[Tensor], Tensor]
    limit_memory: Callable[[], Any] = ExitStack
    encode: Callable[[Tensor], Tensor] = lambda x: x
    trust: Trust | None = None

    def __call__(self, images: Images) -> list[Hashable]:
        """Return the label of each image.

        With ``unknown``, images of no class have the label ``"unknown"``.
        """
        return self.labels(self.scores(images))

    def labels(self, scores: Scores) -> list[Hashable]:
        """Return the label of each image that has scores."""
        places = scores.probabilities.argmax(1).tolist()
        return [
            UNKNOWN if unknown else self.classes[place]
            for place, unknown in zip(places, scores.unknown.tolist(), strict=True)
        ]

    def probabilities(self, images: Images) -> Tensor:
        """Return probabilities ``(M, N)``, columns as ``classes``."""
        return self.scores(images).probabilities

    def knownness(self, images: Images) -> Tensor:
        """Return how well each image ``(M,)`` fits the support set.

        See ``fewshot.leave_one_out.Trust``; nan if the learner was fitted with ``calibrate=False``.
        """
        return self.scores(images).knownness

    def scores(self, images: Images) -> Scores:
        """Return probabilities and knownness.

        Of very many images a few hundred go together, in a fixed random order: where BatchNorm sees the batch, a
        folder sorted by class must not be cut into pieces of one class.
        """
        x = self.read(images)
        order = rng.bits(rng.key(FixedSeed.QUERY_ORDER), torch.arange(len(x))).argsort()
        parts = order.tensor_split(-(-len(x) // AT_ONCE)) if len(x) else ()
        probabilities = torch.empty(len(x), len(self.classes))
        knownness = torch.full((len(x),), torch.nan, dtype=torch.float64)
        temperature = self.trust.temperature if self.trust else 1.0
        with torch.no_grad(), self.limit_memory():
            for part in parts:
                views = []
                for number, (logits, features) in enumerate(self._views(self.normalise(x[part]))):
                    views.append((logits / temperature).softmax(1))
                    if self.trust and number == 0:
                        knownness[part] = self.trust.knownness(features)
                probabilities[part] = torch.stack(views).mean(0).float()
        unknown = self.trust.is_unknown(knownness) if self.trust else torch.zeros(len(x), dtype=torch.bool)
        return Scores(probabilities, knownness, unknown)

    def _views(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the logits and features of each view."""
        for number, predictor in enumerate(self.predictors):
            prediction = predictor(self.encode(view(x, number, together=True)))
            yield prediction.logits, prediction.features
