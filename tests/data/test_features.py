"""Arrays of floats as a data set, such as precomputed features: no scaling, the same episodes as of pixels."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch.optim import Adam

from fewshot.callbacks import Scores
from fewshot.data import ClassBatches, EpisodeData, EpisodeSampler, Split, Task
from fewshot.engines import VmapEngine
from fewshot.errors import UserError
from fewshot.methods import ProtoNet
from fewshot.networks import mlp
from synthetic_data import synthetic_split

D = 12


class Features:
    """Vectors ``(M, D)`` about a centre for each class, of any sign and size."""

    def __init__(self, dimensions: dict[str, int] | None = None) -> None:
        self.dimensions = dict.fromkeys(("train", "val", "test"), D) | (dimensions or {})

    def load(self) -> dict[str, Split]:
        splits = {}
        for seed, (name, size) in enumerate(self.dimensions.items()):
            generator = torch.Generator().manual_seed(seed)
            centres = 40 * torch.randn(20, 1, size, generator=generator)
            x = centres + 15 * torch.randn(20, 8, size, generator=generator)
            classes = tuple(f"{name}{number}" for number in range(20))
            splits[name] = Split(f"features/{name}", x.flatten(0, 1).float(), torch.full((20,), 8), classes)
        return splits


TASK = Task(5, 1, 3, 5, 1, 3, meta_batch=4, test_episodes=40, val_episodes=0)


def test_vectors_become_images_of_one_pixel():
    split = Features().load()["train"]
    assert split.images.shape == (160, D, 1, 1)
    assert split.images.dtype == torch.float32
    same = Split("features/train", split.images, split.counts, split.classes)
    assert torch.equal(same.images, split.images)


def test_episodes_hold_the_features_themselves():
    split = Features().load()["train"]
    rows = {tuple(row) for row in split.images.flatten(1).tolist()}
    episodes = EpisodeSampler(split, 5, 2, 3, seed=0)(torch.arange(6))
    assert episodes.support_x.shape == (6, 10, D, 1, 1)
    seen = {
        tuple(row) for row in torch.cat([episodes.support_x, episodes.query_x], 1).flatten(0, 1).flatten(1).tolist()
    }
    assert seen <= rows
    assert len(seen) > 100
    scaled = EpisodeSampler(split, 5, 2, 3, seed=0, mean=3.0, std=7.0)(torch.arange(6))
    torch.testing.assert_close(scaled.support_x, (episodes.support_x - 3) / 7)
    again = EpisodeSampler(split, 5, 2, 3, seed=0)(torch.arange(6))
    assert torch.equal(again.support_x, episodes.support_x)  # nothing was changed in place
    batches = ClassBatches(split, 10, seed=0)(torch.arange(2))
    assert {tuple(row) for row in batches.query_x.flatten(0, 1).flatten(1).tolist()} <= rows


@pytest.mark.parametrize("rotations", [False, True, "random", "mirrored"])
def test_floats_in_place_of_pixels_give_the_same_episodes(rotations):
    pixels = synthetic_split()
    floats = Split(pixels.name, pixels.images.float() / 255, pixels.counts, pixels.classes)
    one, other = (
        EpisodeSampler(s, 5, 2, 3, 0, rotations, 0.4, 0.3, unlabeled=1)(torch.arange(9)).tensors()
        for s in (pixels, floats)
    )
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_double_precision(float64):
    episodes = EpisodeSampler(Features().load()["train"], 5, 1, 1, seed=0)(torch.arange(2))
    assert episodes.support_x.dtype == torch.float64


def test_a_method_learns_from_features(tmp_path):
    data = EpisodeData(Features(), TASK, 0, 20, std=40.0)
    data.setup()
    assert data.image_shape == (D, 1, 1)
    method = ProtoNet(
        mlp(*data.image_shape[:2], widths=[16]),
        engine=VmapEngine(),
        bn="transductive",
        optimizer=partial(Adam, lr=0.01),
    )
    scores = Scores()
    trainer = pl.Trainer(
        max_steps=20, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, inference_mode=False,
        enable_model_summary=False, default_root_dir=tmp_path, num_sanity_val_steps=0, limit_val_batches=0,
        enable_checkpointing=False, callbacks=[scores], use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(method, datamodule=data)
    trainer.test(method, datamodule=data, verbose=False)
    assert scores.summary().accuracy > 0.9


@pytest.mark.parametrize(
    ("images", "message"),
    [(torch.zeros(4, 2, dtype=torch.float64), "uint8 or float32, .* not torch.float64"),
     (torch.zeros(4, 2, 2), r"not torch.float32 \(4, 2, 2\)"),
     (torch.tensor([[0.0], [float("nan")], [0.0], [0.0]]), "not finite"),
     (torch.tensor([[0.0], [float("inf")], [0.0], [0.0]]), "not finite")],
)  # fmt: skip
def test_what_is_no_data_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        Split("x/train", images, torch.tensor([2, 2]), ("a", "b"))


def test_splits_of_several_shapes_are_refused():
    data = EpisodeData(Features({"test": 7}), TASK, 0, 1)
    with pytest.raises(UserError, match=r"several kinds \(train \(12, 1, 1\) torch.float32, .* test \(7, 1, 1\)"):
        data.setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rotations": True}, "data.rotations=True needs images, not features"),
     ({"augment": True}, "data.augment changes images, not features")],
)  # fmt: skip
def test_changes_of_images_are_refused_for_features(options, message):
    with pytest.raises(UserError, match=message):
        EpisodeData(Features(), TASK, 0, 1, **options).setup()
