"""Networks take rows of numbers, or say which networks do."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate

import fewshot.command.run_folder  # noqa: F401 - resolvers of conf/config.yaml
from fewshot.networks import identity
from settings_of import CONF

D = 9


def build(name: str):
    overrides = [f"backbone={name}", "data.image_size=1", f"data.channels={D}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("config", overrides=overrides).backbone)


@pytest.mark.parametrize("name", ["identity", "mlp", "l2l_fc"])
def test_networks_without_convolutions_take_features(name):
    network = build(name)
    assert network.eval()(torch.rand(3, D, 1, 1)).shape == (3, network.features)


@pytest.mark.parametrize(
    "name",
    ["blog", "conv4", "conv4_fine", "conv4_pool", "conv4_pool3", "conv4_relation", "l2l_cnn", "resnet12", "resnet18"],
)
def test_networks_of_convolutions_refuse_features(name):
    with pytest.raises(InstantiationException, match="choose backbone=mlp or backbone=identity"):
        build(name)


def test_the_identity_changes_nothing():
    x = torch.rand(3, 2, 5, 5)
    network = identity(2, 5)
    assert torch.equal(network(x), x.flatten(1))
    assert (network.features, network.shape, list(network.parameters())) == (50, (2, 5, 5), [])
