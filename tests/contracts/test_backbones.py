"""Check every backbone of conf/backbone against the same rules, with the smallest of tasks."""

import math
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import fewshot.command.run_folder  # noqa: F401 - resolvers of conf/config.yaml
from fewshot.data import EpisodeSampler
from fewshot.engines import LoopEngine, VmapEngine
from fewshot.methods import MAML
from methods_table import adam, outer_gradient
from synthetic_data import synthetic_split

CONF = Path(__file__).parents[2] / "conf"
# transformers lies apart from the other packages: tests/unit/test_transformers_backbone.py
NAMES = sorted(file.stem for file in (CONF / "backbone").glob("*.yaml") if file.stem != "transformers")
SIZE = 28
SMALL = ("backbone.frozen=false", f"backbone.image_size={SIZE}")
TYPED = {
    "timm": ("backbone.name=test_resnet", "backbone.weights=null", *SMALL),
    "efficientnet_lite0": ("backbone.weights=null", *SMALL),
}
# Millions of parameters: at every run tests/unit/test_resnet.py and test_through_pretrained.py check smaller networks.
LARGE = ("resnet12", "resnet18", "efficientnet_lite0")


def build(name: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[f"backbone={name}", f"data.image_size={SIZE}", *TYPED.get(name, ())])
    torch.manual_seed(0)
    return instantiate(cfg.backbone)


@pytest.mark.parametrize("name", NAMES)
def test_features_are_as_many_as_the_backbone_says(name):
    backbone = build(name)
    x = torch.rand(3, 1, SIZE, SIZE)
    features = backbone.eval()(x)
    assert features.shape == (3, backbone.features)
    assert math.prod(backbone.shape) == backbone.features
    assert features.isfinite().all()
    assert not torch.equal(features[0], features[1])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.thorough) if name in LARGE else name for name in NAMES]
)
def test_engines_give_one_second_order_gradient(name, float64):
    """MAML's outer gradient of two 3-way tasks, one after another and together; it reaches every filter and matrix.

    Biases are left out: the BatchNorm after a bias takes it away, and leaves rounding noise as its gradient.
    """
    tasks = EpisodeSampler(synthetic_split(6, 3, SIZE), 3, 1, 1, seed=0)(torch.arange(2))
    method = MAML(build(name), 3, 0.05, 1, 1, engine=LoopEngine(), bn="transductive", optimizer=adam)
    looped = outer_gradient(method, tasks)
    method.engine = VmapEngine(2)
    mapped = outer_gradient(method, tasks)
    largest = max(float(value.abs().max()) for value in looped.values())
    for key in looped:
        assert float((looped[key] - mapped[key]).norm()) <= 1e-8 * float(looped[key].norm()) + 1e-12, key
        assert looped[key].ndim == 1 or float(looped[key].abs().max()) > 1e-9 * largest, key
