"""Check which layers a backbone may have: others are one line, and accepted ones have right second derivatives."""

import pytest
import torch
from test_gradients import directional_error
from torch import nn

from fewshot.data.sampler import EpisodeSampler
from fewshot.engines import LoopEngine, VmapEngine
from fewshot.errors import UserError
from fewshot.methods import ProtoNet
from fewshot.networks import Backbone, BatchNorm, DropBlock, GroupNorm
from fewshot.networks.convolution import Conv2d
from methods_table import adam, maml, metagan, protonet
from synthetic_data import synthetic_split

CHANNELS, SIDE = 4, 4


class DropPath(nn.Module):
    """Stand for the layer of that name in other libraries."""


class StochasticDepth(nn.Module):
    """Stand for the layer of that name in other libraries."""


REFUSED = {
    "use fewshot.networks.BatchNorm": [
        nn.BatchNorm1d(CHANNELS), nn.BatchNorm2d(CHANNELS), nn.BatchNorm3d(CHANNELS), nn.SyncBatchNorm(CHANNELS),
        nn.BatchNorm2d(CHANNELS, track_running_stats=False), nn.LazyBatchNorm2d(),
    ],
    "leave out track_running_stats": [
        nn.InstanceNorm1d(CHANNELS, track_running_stats=True), nn.InstanceNorm2d(CHANNELS, track_running_stats=True),
    ],
    "use fewshot.networks.GroupNorm, with the same arguments": [nn.GroupNorm(2, CHANNELS)],
    "use fewshot.networks.DropBlock": [
        nn.Dropout(), nn.Dropout1d(), nn.Dropout2d(), nn.Dropout3d(), nn.AlphaDropout(), nn.FeatureAlphaDropout(),
        nn.RReLU(), nn.FractionalMaxPool2d(2, output_size=2), DropPath(), StochasticDepth(),
    ],
}  # fmt: skip
ACCEPTED = {
    "BatchNorm": lambda: BatchNorm(CHANNELS),
    "GroupNorm": lambda: GroupNorm(2, CHANNELS),
    "GroupNorm of one group": lambda: GroupNorm(1, CHANNELS),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(CHANNELS),
    "affine InstanceNorm2d": lambda: nn.InstanceNorm2d(CHANNELS, affine=True),
    "LayerNorm": lambda: nn.LayerNorm((CHANNELS, SIDE, SIDE)),
    "RMSNorm": lambda: nn.RMSNorm((CHANNELS, SIDE, SIDE)),
    "LocalResponseNorm": lambda: nn.LocalResponseNorm(2),
    "DropBlock": lambda: DropBlock(0.3, 2),
    "PReLU": nn.PReLU,
    "GELU": nn.GELU,
}


def network(layer: nn.Module) -> Backbone:
    convolution = Conv2d(1, CHANNELS, 3, stride=2, padding=1)
    layers = nn.Sequential(convolution, nn.Sequential(layer), nn.Softplus(), nn.Flatten())
    return Backbone(CHANNELS * SIDE * SIDE, layers, (CHANNELS, SIDE, SIDE))


@pytest.mark.parametrize(
    ("advice", "layer"),
    [pytest.param(a, layer, id=type(layer).__name__) for a, layers in REFUSED.items() for layer in layers],
)
def test_refused_layers_are_one_line_that_says_what_to_use(advice, layer):
    for build in (
        lambda: maml(VmapEngine(), network=network(layer)),
        lambda: ProtoNet(network(layer), engine=LoopEngine(), bn="running", optimizer=adam),
        lambda: ProtoNet(network(layer).layers, engine=LoopEngine(), bn="running", optimizer=adam),  # no Backbone
    ):
        with pytest.raises(UserError, match=advice) as caught:
            build()
        assert "\n" not in str(caught.value)
        assert f"1.0, {type(layer).__name__}:" in str(caught.value)


def test_metagan_refuses_them_in_its_own_networks():
    method = metagan(protonet, VmapEngine())
    with pytest.raises(UserError, match=r"the network has the layer 1, Dropout: .* use fewshot.networks.DropBlock"):
        method.encoder = nn.Sequential(nn.Flatten(), nn.Dropout(0.1))


@pytest.mark.parametrize("engine", [LoopEngine, VmapEngine])
@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_layers_equal_finite_differences(name, engine, float64):
    """The gradient through two inner steps, whose gradients the scale and shift of each task are part of."""
    tasks = EpisodeSampler(synthetic_split(), 5, 2, 3, seed=0)(torch.arange(3))
    torch.manual_seed(0)
    method = maml(engine(), network=network(ACCEPTED[name]()), steps=2)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    assert directional_error(method, tasks) < 1e-6
