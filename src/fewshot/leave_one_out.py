"""Learn from left-out support images how far to trust a method.

The method is fitted to a part of the support set, and labels the rest. All images are left out once. The logits of
left-out images give a temperature (Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", ICML
2017), and their distances from the nearest class give the distance of images that belong to no class.
"""

import logging
from collections.abc import Callable
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
FEW_FITS = 10  # of a method whose fit takes long
MANY_FITS = 100  # of a method that only sees features
LARGE = 300  # images, above which a fit on features takes long
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


def learn_trust(fit: Fit, labels: Tensor, ways: int, cheap: bool, unknown: float | None) -> Trust:
    """Leave support images out and see what becomes of them.

    Args:
        fit: the method.
        labels: ``(M,)`` of the support images, in [0, N).
        ways: N.
        cheap: a fit takes milliseconds.
        unknown: the fraction of images of known classes that may be called unknown; None: no image is.

    Raises:
        UserError: ``unknown`` is given, and no class has two images.
    """
    everything = torch.arange(len(labels))
    fold = folds(labels, most_folds(labels, cheap))
    left_out = int((fold >= 0).sum())
    if unknown is not None and not left_out:
        raise UserError(f"unknown={unknown:g} leaves images out to learn a limit: give two images of a class or more")
    parts = [(everything[fold != place], everything[fold == place]) for place in sorted(set(fold.tolist()) - {-1})]
    whiten = all(len(kept) > ways for kept, _ in parts)
    features = fit(everything)(everything)[1]
    distances = ClassDistances.fit(features, labels, ways, whiten)
    if not parts:
        return Trust(1.0, 0, distances)
    logits, truth, nearest = [], [], []
    for kept, rest in parts:
        predict = fit(kept)
        of_rest, rest_features = predict(rest)
        logits.append(of_rest)
        truth.append(labels[rest])
        nearest.append(ClassDistances.fit(predict(kept)[1], labels[kept], ways, whiten)(rest_features).amin(1))
    squared = torch.cat(nearest)
    limit = None
    if unknown is not None:
        limit = float(squared.quantile(1 - unknown))
        if left_out < ENOUGH:
            log.warning(
                "unknown=%g rests on %d support images: with fewer than %d the rate is rough", unknown, left_out, ENOUGH
            )
    typical = float(squared.median())
    return Trust(best_temperature(torch.cat(logits, 1), torch.cat(truth)), left_out, distances, typical or 1.0, limit)


def most_folds(labels: Tensor, cheap: bool) -> int:
    """Return how many times a method is fitted."""
    if cheap:
        return MANY_FITS if len(labels) <= LARGE else FEW_FITS
    return min(max(int(labels.bincount().max()), 4), FEW_FITS)


def folds(labels: Tensor, most: int) -> Tensor:
    """Return the fold ``(M,)`` in which each image is left out.

    Images of a class are in different folds, as far as there are folds. The only image of a class has fold -1: the
    image is never left out.
    """
    alone = labels.bincount()[labels] == 1
    order = labels.argsort(stable=True)
    order = order[~alone[order]]
    fold = torch.full_like(labels, -1)
    fold[order] = torch.arange(len(order)) % most
    return fold


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
    miss = 1 / (count + 2)
    targets = F.one_hot(labels, ways).double() * (1 - miss - miss / (ways - 1)) + miss / (ways - 1)

    def loss(logarithm: float) -> float:
        views = (logits / torch.tensor(logarithm).double().exp()).log_softmax(-1)
        mean = views.logsumexp(0) - torch.tensor(len(views)).double().log()
        mean = mean.clamp(min=LEAST)  # a class of probability 0 would be infinitely wrong at any temperature
        return float(-(targets * mean).sum(-1).mean())

    bound = float(torch.tensor(LARGEST).log())
    found = minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-4})
    return float(torch.tensor(float(found.x)).double().exp())
