"""Augmented training images: maps worked out by hand, and a pure function of a task and a place."""

import math

import pytest
import torch

from fewshot import augment, rng
from fewshot.augment import Affine, warp
from fewshot.data import EpisodeData, EpisodeSampler, Task
from fewshot.errors import UserError
from synthetic_data import synthetic_split


def mapped(affine: Affine, numbers: list[float], place: tuple[float, float]) -> tuple[float, float]:
    """Where a point of the image is seen, by numbers in (-1, 1): the inverse of the inverse."""
    matrix = affine.matrices(torch.tensor([numbers], dtype=torch.float64))[0]
    x, y = torch.linalg.solve(matrix[:, :2], torch.tensor(place, dtype=torch.float64) - matrix[:, 2])
    return float(x), float(y)


@pytest.mark.parametrize(
    ("numbers", "place", "wanted"),
    [
        ([0, 0, 0, 0, 0, 0], (0.3, -0.7), (0.3, -0.7)),
        ([1, 0, 0, 0, 0, 0], (1, 0), (math.cos(math.radians(30)), 0.5)),  # y points down: clockwise
        ([0, 0, 1, 0, 0, 0], (0.5, 0.5), (0.6, 0.5)),
        ([0, 0, 0, -1, 0, 0], (0.5, 0.5), (0.5, 0.4)),
        ([0, 1, 0, 0, 0, 0], (0.0, 0.5), (0.5, 0.5)),  # 45 degrees
        ([0, 0, 0, 0, 1, -0.5], (0.0, 0.0), (0.2, -0.1)),  # a tenth of the side, which is 2 long
        # scaled to (0.6, 0), sheared along x, turned by 30 degrees, shifted
        ([1, 1, 1, 0, 1, 0], (0.5, 0.0), (0.6 * math.cos(math.radians(30)) + 0.2, 0.3)),
    ],
)
def test_maps_by_hand(numbers, place, wanted):
    affine = Affine(degrees=30, scale=0.2, shear=45, shift=0.1)
    assert mapped(affine, numbers, place) == pytest.approx(wanted, abs=1e-6)


def test_a_quarter_turn_and_a_whole_shift_move_pixels(float64):
    x = torch.rand(1, 2, 9, 9)
    turn = Affine(degrees=90).matrices(torch.tensor([[1.0, 0, 0, 0, 0, 0]]))
    torch.testing.assert_close(warp(x, turn), torch.rot90(x, -1, (2, 3)))
    shift = Affine(shift=1 / 9).matrices(torch.tensor([[0.0, 0, 0, 0, 1, 1]]))
    seen = warp(x, shift)
    torch.testing.assert_close(seen[..., 1:, 1:], x[..., :-1, :-1])
    torch.testing.assert_close(seen[..., 0, 1:], x[..., 0, :-1])  # what comes in is the edge


def test_nothing_to_change_changes_nothing(split):
    x = torch.rand(3, 4, 1, 8, 8)
    same = Affine(0, 0, 0, 0)(x, torch.arange(3))
    torch.testing.assert_close(same, x, atol=1e-5, rtol=0)


def test_images_are_a_function_of_task_and_place():
    x, affine = torch.rand(5, 6, 1, 14, 14), Affine()
    key = torch.arange(5) * 7919
    changed = affine(x, key)
    assert torch.equal(affine(x[3:4], key[3:4])[0], changed[3])  # not of the batch
    assert torch.equal(affine(x[:, :2], key), changed[:, :2])  # not of the images after it
    same = torch.rand(14, 14).expand(5, 6, 1, 14, 14)
    apart = affine(same, key).flatten(0, 1).flatten(1)
    assert float(torch.cdist(apart, apart).fill_diagonal_(1).min()) > 1e-3  # each in its own way


def test_numbers_fill_their_ranges():
    matrices = []
    affine = Affine(degrees=0, scale=0.2, shear=0, shift=0.1)
    inner = type("Seen", (Affine,), {"matrices": lambda self, u: matrices.append(u) or Affine.matrices(self, u)})
    inner(**vars(affine))(torch.rand(40, 50, 1, 4, 4), torch.arange(40))
    (u,) = matrices
    assert u.shape == (2000, 6)
    assert float(u.min()) < -0.99
    assert float(u.max()) > 0.99
    torch.testing.assert_close(u.mean(0), torch.zeros(6), atol=0.05, rtol=0)
    torch.testing.assert_close(torch.corrcoef(u.T), torch.eye(6), atol=0.1, rtol=0)


def test_training_only_and_labels_stay(split):
    class Data:
        def load(self):
            return {name: synthetic_split(name=name, seed=n) for n, name in enumerate(("train", "val", "test"))}

    task = Task(
        ways=5, shots=1, queries=3, train_ways=6, train_shots=2, train_queries=1, meta_batch=2, train_unlabeled=2
    )
    plain, augmented = (EpisodeData(Data(), task, 0, 10, mean=0.5, std=0.5, augment=a) for a in (False, True))
    for data in (plain, augmented):
        data.setup()
    index = torch.arange(6)
    for name in ("val", "test"):
        pairs = (data.sampler(name)(index).tensors() for data in (plain, augmented))
        for one, other in zip(*(pair.values() for pair in pairs), strict=True):
            assert torch.equal(one, other)
    one, other = (data.sampler("train")(index).tensors() for data in (plain, augmented))
    for name in one:
        assert torch.equal(one[name], other[name]) != name.endswith("_x"), name
    calibration = [next(data.calibration(4, torch.device("cpu"))).support_x for data in (plain, augmented)]
    assert torch.equal(*calibration)
    # The edge that comes in and the normalisation agree: still within the range of the images.
    assert float(other["support_x"].min()) >= -1 - 1e-6
    # Support, query and unlabelled images are changed by numbers of their own.
    sampler = EpisodeSampler(synthetic_split(), 5, 1, 1, seed=0, augment=Affine())
    x = torch.rand(8, 8).expand(1, 5, 1, 8, 8)
    seen = [Affine()(x, rng.bits(torch.tensor([1]), 12, stream)) for stream in (2, 3, 5)]
    assert len({tuple(images.flatten().tolist()) for images in seen}) == 3
    alone, together = sampler(torch.tensor([3])), sampler(torch.arange(5))
    assert torch.equal(alone.query_x[0], together.query_x[3])


@pytest.mark.parametrize(
    ("setting", "message"),
    [("yes", "data.augment=yes: choose true, false, or"), ({"angle": 3}, "numbers for degrees, scale, shear, shift"),
     ({"degrees": -3}, "data.augment.degrees=-3"), ({"scale": 1}, "data.augment.scale=1"),
     ({"shift": "far"}, "data.augment.shift=far"), ({"shear": True}, "data.augment.shear=True"), (3, "data.augment=3")],
)  # fmt: skip
def test_settings_are_checked(setting, message):
    with pytest.raises(UserError, match=message):
        Affine.from_setting(setting)


def test_settings():
    assert Affine.from_setting(None) is None
    assert Affine.from_setting(False) is None
    assert Affine.from_setting(True) == Affine()
    assert Affine.from_setting({"degrees": 5}) == Affine(degrees=5)


def test_numbers_are_those_of_earlier_versions():
    """Recorded before the augmentations came into one file: results depend on each of these."""
    u = torch.tensor([[0.3, -0.2, 0.5, -0.7, 0.1, 0.9]], dtype=torch.float64)
    wanted = [0.906183566264076, 0.07928078912159962, -0.023138723833692466,
              -0.06085576307319051, 1.161197133435551, -0.14842740625495382]  # fmt: skip
    assert Affine().matrices(u).flatten().tolist() == pytest.approx(wanted, rel=1e-12)
    x, key = torch.arange(64, dtype=torch.float64).view(1, 1, 8, 8) / 64, rng.key(5)
    for changed, row in (
        (augment.strong(x, key, 2), [0.33138436563880364, 0.3342587182309024, 0.35403670670874715,
                                     0.37381469518659194]),
        (augment.weak(x, key, 2, shift=0.25), [0.375, 0.390625, 0.40625, 0.421875]),
        (Affine()(x[None], key[None])[0], [0.49968554657496445, 0.49395159119133264, 0.48821763580770067,
                                           0.4824836804240687]),
    ):  # fmt: skip
        assert changed[0, 0, 3, :4].tolist() == pytest.approx(row, rel=1e-9)


@pytest.mark.parametrize("scale", [(0.8, 1.2), 1.0, -0.1, True, "far"])
def test_scale_is_one_number_everywhere(scale):
    with pytest.raises(UserError, match="must be the largest change of a size, from 0 to below 1"):
        augment.strong(torch.rand(1, 1, 4, 4), rng.key(0), 0, scale=scale)
