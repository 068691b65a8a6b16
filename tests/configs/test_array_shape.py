"""Shapes of arrays become settings, and contradict none that was typed."""

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from fewshot.command.array_shape import fill_array_shape
from fewshot.errors import UserError
from settings_of import CONF


def filled(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=list(overrides))
    fill_array_shape(cfg)
    return cfg


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    file = tmp_path_factory.mktemp("arrays") / "x.npz"
    np.savez(file, x=np.zeros((5, 3, 8, 8), np.uint8), y=np.arange(5))
    return f"data.root={file}"


def test_the_network_follows_the_array(root):
    cfg = filled("data=arrays", root)
    assert (cfg.data.channels, cfg.data.image_size, cfg.data.pixels) == (3, 8, True)
    assert (cfg.backbone.channels, cfg.backbone.image_size) == (3, 8)
    assert filled("data=arrays", root, "data.channels=3").data == cfg.data


def test_other_data_sets_are_left_alone():
    assert filled("data=folder").data.channels == 3


@pytest.mark.parametrize(
    ("typed", "message"),
    [("data.channels=1", "data.channels=1 contradicts .*x.npz, whose arrays have channels=3: leave data.channels out$"),
     ("data.channels=true", "data.channels=true contradicts"),
     ("data.image_size=28", "data.image_size=28 contradicts .* image_size=8"),
     ("data.pixels=false", "data.pixels=false contradicts .* pixels=true"),
     ("data.root=null", "data.root=null: name the .npz file with x and y"),
     ("data.root=5", "data.root=5: must be a text"),
     ("checkpoint=a.ckpt data.channels=9", "or take the file that the checkpoint was trained on")],
)  # fmt: skip
def test_a_contradiction_is_refused(root, typed, message):
    with pytest.raises(UserError, match=message):
        filled("data=arrays", *(() if "root" in typed else (root,)), *typed.split())
