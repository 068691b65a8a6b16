"""Learn from left-out support images how far to trust a method.

The method is fitted to a part of the support set, and labels the rest. All images are left out once. The logits of
left-out images give a temperature (Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", ICML
2017), and their distances from the nearest class give the distance of images that belong to no class.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from fewshot.class_distances import ClassDistances
from fewshot.errors import UserError

log = logging.getLogger(__name__)
UNKNOWN = "unknown"  # the label of images of no class
LEAST = -1e3  # logarithm of a probability
LARGEST = 1e3  # temperature, and one over the smallest
MOST_FITS = 10
MANY = 100  # covariances of a small support set
LARGE = 300  # images
ENOUGH = 20  # left-out images behind a threshold

# Fit to the images with these places; return logits (V, m, N) of V views and features (m, D) of other places.
Fit = Callable[[Tensor], Callable[[Tensor], tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Trust:
    """Hold how far to trust a fitted method.

    Attributes:
        temperature: logits are divided by the temperature before the softmax.
        left_out: how many support images the temperature and ``typical`` rest on; 0: these are 1.
        distances: of images from the classes.
        typical: the median of the squared distances of left-out images.
        limit: images whose squared distance is larger are unknown; None: no image is.
    """

    temperature: float
    left_out: int
    distances: ClassDistances
    typical: float = 1.0
    limit: float | None = None

    def knownness(self, features: Tensor) -> Tensor:
        """Return the knownness ``(m,)`` of features ``(m, D)``.

        The knownness is minus the squared distance from the nearest class, where left-out support images have -1 in the
        middle.
        """
        return -self.distances(features).amin(1) / self.typical

    def is_unknown(self, knownness: Tensor) -> Tensor:
        """Tell which images belong to no class."""
        if self.limit is None:
            return torch.zeros_like(knownness, dtype=torch.bool)
        return -knownness * self.typical > self.limit


def learn_trust(fit: Fit, labels: Tensor, ways: int, frozen: bool, unknown: float | None) -> Trust:
    """Leave support images out and see what becomes of them.

    Args:
        fit: the method.
        labels: ``(M,)`` of the support images, in [0, N).
        ways: N.
        frozen: the features are the same in each fit.
        unknown: the fraction of images of known classes that may be called unknown; None: no image is.

    Raises:
        UserError: ``unknown`` is given, and no class has two images.
    """
    everything = torch.arange(len(labels))
    parts = list(in_folds(labels, min(int(labels.bincount().max()), MOST_FITS), stratified=True))
    left_out = sum(len(rest) for _, rest in parts)
    if unknown is not None and not left_out:
        raise UserError(f"unknown={unknown:g} leaves images out to learn a limit: give two images of a class or more")
    features = fit(everything)(everything)[1]
    if not parts:
        return Trust(1.0, 0, ClassDistances.fit(features, labels, ways))
    asked = [(kept, rest, fit(kept)) for kept, rest in parts]
    temperature = best_temperature(
        torch.cat([predict(rest)[0] for _, rest, predict in asked], 1), labels[torch.cat([rest for _, rest in parts])]
    )
    if frozen:
        parts = list(in_folds(labels, MANY if len(labels) <= LARGE else MOST_FITS, stratified=False))
    whiten = all(len(kept) > ways for kept, _ in parts)
    if frozen:
        nearest = [
            ClassDistances.fit(features[kept], labels[kept], ways, whiten)(features[rest]).amin(1)
            for kept, rest in parts
        ]
    else:
        nearest = [
            ClassDistances.fit(predict(kept)[1], labels[kept], ways, whiten)(predict(rest)[1]).amin(1)
            for kept, rest, predict in asked
        ]
    squared = torch.cat(nearest)
    limit = None
    if unknown is not None:
        limit = float(squared.quantile(1 - unknown))
        if left_out < ENOUGH:
            log.warning(
                "unknown=%g rests on %d support images: with fewer than %d the rate is rough", unknown, left_out, ENOUGH
            )
    distances = ClassDistances.fit(features, labels, ways, whiten)
    return Trust(temperature, left_out, distances, float(squared.median()) or 1.0, limit)


def in_folds(labels: Tensor, most: int, stratified: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the places of kept images and of left-out images.

    Each image is left out once, except the only image of a class, which never is.

    Args:
        labels: ``(M,)``.
        most: folds, at least 2 and at most M.
        stratified: leave out as many images of each class as possible, so that no class has fewer than others;
            otherwise images of as few classes as possible, which leaves the other classes whole.
    """
    counts = labels.bincount()
    order = labels.argsort(stable=True)
    alone = counts[labels[order]] == 1
    start = (counts.cumsum(0) - counts)[labels[order]]
    place = torch.arange(len(order)) - start if stratified else (~alone).cumsum(0) - 1
    fold = torch.empty_like(labels)
    fold[order] = torch.where(alone, -1, place % max(most, 2))
    everything = torch.arange(len(labels))
    for number in range(int(fold.max()) + 1):
        yield everything[fold != number], everything[fold == number]


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature with the best likelihood of left-out images.

    The targets are not 1 and 0 but as for one more image that may be wrong (Platt, "Probabilistic outputs for support
    vector machines", 1999): otherwise a set without a mistake would have temperature 0.

    Args:
        logits: ``(V, n, N)`` of V views, whose probabilities are averaged.
        labels: ``(n,)``.
    """
    logits = logits.double()
    count, ways = logits.shape[1:]
    miss = 0.25 / (count + 0.5)
    targets = F.one_hot(labels, ways).double() * (1 - miss - miss / (ways - 1)) + miss / (ways - 1)

    def loss(logarithm: float) -> float:
        views = (logits / torch.tensor(logarithm).double().exp()).log_softmax(-1)
        mean = views.logsumexp(0) - torch.tensor(len(views)).double().log()
        mean = mean.clamp(min=LEAST)  # a class of probability 0 would be infinitely wrong at any temperature
        return float(-(targets * mean).sum(-1).mean())

    bound = float(torch.tensor(LARGEST).log())
    found = minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-4})
    return float(torch.tensor(float(found.x)).double().exp())
