"""Batch normalisation against torch's own, and the three protocols."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fewshot.networks.norm_layers import BatchNorm, Statistics, make_norm, normalising, recording


@pytest.fixture
def layer(float64) -> BatchNorm:
    layer = BatchNorm(4)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-1, 2, 4))
        layer.bias.copy_(torch.linspace(1, -1, 4))
    return layer


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (6, 4)])
def test_equals_torch_in_training(layer, shape):
    x = torch.randn(shape)
    wanted = F.batch_norm(x, None, None, layer.weight, layer.bias, training=True)
    torch.testing.assert_close(layer(x), wanted)


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (6, 4)])
def test_recording_and_running_equal_torch(layer, shape):
    torch.manual_seed(0)
    x = torch.randn(shape) * 3 + 1
    with recording(layer) as seen:
        layer(x)
    ((mean, var),) = seen[0]
    over = (0, *range(2, x.ndim))
    torch.testing.assert_close(mean, x.mean(over))
    torch.testing.assert_close(var, x.var(over, correction=0))
    layer.update(mean, var)
    with normalising(layer, Statistics.RUNNING):
        ours = layer(x)
    torch.testing.assert_close(ours, F.batch_norm(x, mean, var, layer.weight, layer.bias, training=False))


def test_running_average_moves_by_the_momentum(layer):
    one, three = torch.ones(4), 3 * torch.ones(4)
    layer.update(one, one)
    layer.update(three, three)
    torch.testing.assert_close(layer.running_mean, 0.9 * one + 0.1 * three)
    assert int(layer.updates) == 2


def test_support_statistics_are_those_of_the_first_images(layer):
    x = torch.randn(7, 4, 3, 3)
    with normalising(layer, 5 / len(x)):
        ours = layer(x)
    mean, var = x[:5].mean((0, 2, 3)), x[:5].var((0, 2, 3), correction=0)
    torch.testing.assert_close(ours, F.batch_norm(x, mean, var, layer.weight, layer.bias, training=False))
    changed = x.clone()
    changed[6] += 10
    with normalising(layer, 5 / len(x)):
        assert torch.equal(layer(changed)[:6], ours[:6])


def test_source_is_put_back_after_an_error(layer):
    with pytest.raises(RuntimeError), normalising(nn.Sequential(layer), Statistics.RUNNING):
        raise RuntimeError
    assert layer.source is Statistics.BATCH


def test_unknown_norm_and_odd_groups_are_refused():
    with pytest.raises(ValueError, match="choose one of"):
        make_norm("instance", 8)
    with pytest.raises(ValueError, match="multiple of 8"):
        make_norm("group", 12)
