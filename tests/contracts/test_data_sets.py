"""Check every data set of conf/data that needs no folders of files against the same rules."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import fewshot.command.run_folder  # noqa: F401 - resolvers of conf/config.yaml
from fewshot.command.array_shape import fill_array_shape
from fewshot.data import EpisodeData, Task
from fewshot.data.split import assert_disjoint

CONF = Path(__file__).parents[2] / "conf"


def composed(data: str, *more: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=[f"data={data}", *more])


# A data set with a root reads files of its own; tests/data makes such files.
MADE = [
    file.stem for file in sorted((CONF / "data").glob("*.yaml")) if "root" not in composed(file.stem).data.dataset
]  # fmt: skip


@pytest.fixture(params=[*MADE, "arrays of features", "arrays of values", "arrays of pixels"], scope="module")
def cfg(request, tmp_path_factory):
    if request.param in MADE:
        return composed(request.param)
    file = tmp_path_factory.mktemp("arrays") / "made.npz"
    random = np.random.default_rng(0)
    shape, kind = {"features": ((7,), "f8"), "values": ((2, 5, 5), "f2"), "pixels": ((3, 4, 4), "u1")}[
        request.param.split()[-1]
    ]
    np.savez(file, x=random.uniform(0, 256, (1000, *shape)).astype(kind), y=random.permutation(1000) % 50)
    cfg = composed("arrays", f"data.root={file}")
    fill_array_shape(cfg)
    return cfg


@pytest.fixture(scope="module")
def splits(cfg):
    return instantiate(cfg.data.dataset).load()


def test_splits_share_no_class(splits):
    assert set(splits) == {"train", "val", "test"}
    assert_disjoint({name: split.classes for name, split in splits.items()})


def test_images_are_as_the_config_says(cfg, splits):
    for split in splits.values():
        assert split.images.shape[1:] == (cfg.data.channels, cfg.data.image_size, cfg.data.image_size)


def test_names_say_data_set_and_split(cfg, splits):
    assert [split.name for split in splits.values()] == [f"{cfg.data.name}/{name}" for name in splits]


def test_a_second_load_is_the_same(cfg, splits):
    again = instantiate(cfg.data.dataset).load()
    for name, split in splits.items():
        assert again[name].classes == split.classes
        assert again[name].digest == split.digest
        assert torch.equal(again[name].images, split.images)


def test_no_image_is_in_two_classes(cfg, splits):
    """Points of the plane, images of one pixel, may coincide."""
    for split in splits.values():
        owners = torch.arange(len(split.classes)).repeat_interleave(split.counts)
        _, which = split.images.flatten(1).unique(dim=0, return_inverse=True)
        pairs = torch.stack([which, owners]).unique(dim=1)
        shared = (pairs[0].bincount() > 1).any()
        assert not shared or cfg.data.image_size == 1


def test_episodes_are_drawn_and_normalised(cfg):
    """Draw training tasks and test tasks; pixels stay within the bounds that mean and deviation of the config set."""
    data = EpisodeData(instantiate(cfg.data.dataset), Task(**cfg.task), 0, 1, mean=cfg.data.mean, std=cfg.data.std)
    data.setup()
    for name in ("train", "val", "test"):
        episodes = data.sampler(name)(torch.arange(4))
        assert episodes.support_x.isfinite().all()
        if data.splits[name].images.dtype == torch.uint8:  # other values are used without scaling
            assert episodes.query_x.abs().max() <= max(cfg.data.mean, 1 - cfg.data.mean) / cfg.data.std + 1e-6
        assert episodes.query_x.flatten(2).std(-1).max() > 0
