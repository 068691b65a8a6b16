"""Points of the plane as a data set."""

import numpy as np
import pytest
import torch

from fewshot.data import Gaussians
from fewshot.errors import UserError


def points(split) -> np.ndarray:
    """``(classes, points, 2)`` in [0, 1]."""
    return split.images.view(len(split.classes), -1, 2).numpy() / 255


def test_sizes_are_as_told_and_classes_disjoint():
    splits = Gaussians({"train": 5, "val": 3, "test": 4}, points=6).load()
    for name, classes in (("train", 5), ("val", 3), ("test", 4)):
        assert splits[name].images.shape == (6 * classes, 2, 1, 1)
        assert splits[name].images.dtype == torch.uint8
        assert splits[name].counts.tolist() == [6] * classes
    names = [label for split in splits.values() for label in split.classes]
    assert len(set(names)) == 12
    centres = np.concatenate([points(split).mean(1) for split in splits.values()])
    assert len(np.unique(centres.round(6), axis=0)) == 12


def test_a_seed_is_one_data_set():
    one, again, other = (Gaussians(seed=seed).load()["test"] for seed in (0, 0, 1))
    assert torch.equal(one.images, again.images)
    assert not torch.equal(one.images, other.images)
    assert one.digest == again.digest != other.digest  # so that runs on different classes are never paired


def test_each_class_has_the_spread_that_was_asked_for():
    """The square roots of the eigenvalues of a class's covariance are its two standard deviations."""
    found = points(Gaussians({"train": 60, "val": 1, "test": 1}, points=2000, spread=(0.01, 0.02)).load()["train"])
    deviations = np.sqrt([np.linalg.eigvalsh(np.cov(each.T)) for each in found])
    assert 0.009 < deviations.min() < 0.012 < 0.018 < deviations.max() < 0.0215
    tilts = np.array([np.cov(each.T)[0, 1] for each in found])
    assert (tilts > 0).any()
    assert (tilts < 0).any()


@pytest.mark.parametrize(
    "wrong", [{"points": 0}, {"classes": {"train": 0}}, {"spread": (0.2, 0.1)}, {"spread": (0, 1)}, {"points": 10**9}]
)
def test_sizes_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UserError):
        Gaussians(**wrong)
