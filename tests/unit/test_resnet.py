"""ResNets and DropBlock: shapes and sizes from the papers, gradients by finite differences, masks by key."""

import pytest
import torch
from test_gradients import directional_error
from torch import nn

from fewshot import rng
from fewshot.data.sampler import EpisodeSampler
from fewshot.engines import LoopEngine, VmapEngine
from fewshot.networks import conv4, resnet12, resnet18
from fewshot.networks.drop_block import DropBlock, with_task_key
from methods_table import maml, outer_gradient, protonet
from synthetic_data import synthetic_split

NETWORKS = {
    "resnet12": lambda **o: resnet12(1, 16, widths=(8, 8, 8, 8), drop_rate=0.3, block_size=1, **o),
    "resnet18": lambda **o: resnet18(1, 16, width=8, **o),
    "resnet18_small": lambda **o: resnet18(1, 16, width=8, small_images=True, **o),
}


@pytest.fixture
def tasks(float64):
    return EpisodeSampler(synthetic_split(classes=8, images=3, size=16), 5, 2, 1, seed=0)(torch.arange(2))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("engine", [LoopEngine, VmapEngine])
def test_second_order_gradients_equal_finite_differences(name, engine, tasks):
    """With weights of its own for each task, batch statistics and, in ResNet-12, squares dropped.

    The step is small: among so many ReLUs a larger one passes a kink, and the difference is no derivative.
    """
    torch.manual_seed(0)
    method = maml(engine(), network=NETWORKS[name](), steps=2, inner_rate=0.05)
    assert directional_error(method, tasks, step=1e-9) < 5e-5  # of which rounding is 1e-5


@pytest.mark.parametrize("norm", ["group", "none"])
@pytest.mark.parametrize("name", NETWORKS)
def test_engines_give_one_gradient(name, norm, tasks):
    torch.manual_seed(0)
    method = maml(LoopEngine(), network=NETWORKS[name](norm=norm))
    looped = outer_gradient(method, tasks)
    method.engine = VmapEngine(2)
    mapped = outer_gradient(method, tasks)
    for key in looped:
        assert float((looped[key] - mapped[key]).norm()) < 1e-8 * max(1e-6, float(looped[key].norm())), key


@pytest.mark.parametrize(
    ("network", "size", "features", "millions"),
    [
        # 12.42 and 11.17 are what their authors' code has without a head (11.17: torchvision's with a 7x7 stem).
        (resnet12, 84, 640, 12.424),
        (resnet18, 84, 512, 11.177),
    ],
)
def test_sizes_are_those_of_the_field(network, size, features, millions):
    backbone = network(3, size).eval()
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(millions, abs=5e-3)
    assert backbone.features == features
    assert backbone(torch.rand(2, 3, size, size)).shape == (2, features)


def test_shapes_of_the_blocks():
    x = torch.rand(2, 3, 84, 84)
    shapes = []
    for block in resnet12(3, 84, widths=(4, 8, 12, 16)).eval().layers[:4]:
        x = block(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(4, 42, 42), (8, 21, 21), (12, 10, 10), (16, 5, 5)]
    x = torch.rand(2, 3, 84, 84)
    assert resnet18(3, 84).layers[:4](x).shape[2:] == (21, 21)
    assert resnet18(3, 84, small_images=True).layers[:3](x).shape[2:] == (84, 84)


def test_conv4_has_as_many_filters_as_are_named():
    backbone = conv4(1, 28, width=[2, 3, 4, 5], stride=False, mean_over_space=False, pooled=3)
    assert [layer.weight.shape[:2] for layer in backbone.modules() if isinstance(layer, nn.Conv2d)] == [
        (2, 1), (3, 2), (4, 3), (5, 4)
    ]  # fmt: skip
    assert backbone.shape == (5, 3, 3)
    assert backbone(torch.rand(2, 1, 28, 28)).shape == (2, backbone.features)
    with pytest.raises(ValueError, match="4 blocks, but filters of 3"):
        conv4(1, 28, width=[2, 3, 4])


def test_too_small_images_are_refused():
    with pytest.raises(ValueError, match="images of 8 x 8 are too small for 4 poolings"):
        resnet12(1, 8)


class TestDropBlock:
    def masked(self, layer: DropBlock, key: int, x: torch.Tensor) -> torch.Tensor:
        with with_task_key(layer, rng.key(key)):
            return layer(x)

    def test_squares_are_dropped_at_the_rate(self):
        x = torch.ones(200, 4, 20, 20)
        dropped = self.masked(DropBlock(0.1, 3), 0, x) == 0
        # Squares overlap: the part is 0.1 less about half its square, and 0.1 ** 2 / 2 once more at the most.
        assert 0.085 < float(dropped.float().mean()) < 0.105
        # Every dropped place lies in a square of 3 x 3 all of which is dropped.
        squares = torch.nn.functional.avg_pool2d(dropped.float(), 3, 1) == 1
        covered = torch.nn.functional.max_pool2d(torch.nn.functional.pad(squares.float(), [2] * 4), 3, 1) == 1
        assert torch.equal(covered, dropped)

    def test_the_mean_stays(self):
        x = torch.rand(50, 4, 10, 10)
        out = self.masked(DropBlock(0.2, 5), 0, torch.ones_like(x))
        assert float(out.mean()) == pytest.approx(1, abs=1e-5)

    def test_masks_are_a_function_of_task_layer_and_pass(self):
        x = torch.ones(3, 2, 9, 9)
        network = torch.nn.Sequential(DropBlock(0.3, 3), DropBlock(0.3, 3))
        with with_task_key(network, rng.key(0)):
            first = [layer(x) for layer in network]
            second = network[0](x)
        torch.rand(5)
        with with_task_key(network, rng.key(0)):
            again = network[0](x)
        assert torch.equal(again, first[0])
        for other in (first[1], second, self.masked(network[0], 1, x)):
            assert not torch.equal(other, first[0])

    def test_nothing_is_dropped_in_evaluation_and_a_key_is_needed_in_training(self):
        x, layer = torch.rand(2, 3, 6, 6), DropBlock(0.5)
        with pytest.raises(RuntimeError, match="needs the key of a task"):
            layer(x)
        assert torch.equal(layer.eval()(x), x)

    def test_maps_smaller_than_a_square(self):
        out = self.masked(DropBlock(0.5, 5), 0, torch.ones(100, 3, 2, 2))
        assert out.isfinite().all()
        assert set(out.flatten(2).amax(2).unique().tolist()) == set(out.flatten(2).amin(2).unique().tolist())


def test_a_task_is_dropped_alike_whatever_is_computed_beside_it(tasks):
    torch.manual_seed(0)
    method = protonet(VmapEngine(2))
    method.backbone = NETWORKS["resnet12"]()
    method.train()
    together, alone = (method.map_tasks(method.task_terms, part)["loss"] for part in (tasks, tasks[1:]))
    torch.testing.assert_close(together[1:], alone, rtol=1e-9, atol=1e-12)
    method.backbone.layers[2].end[2].rate = 0.0
    assert not torch.allclose(method.map_tasks(method.task_terms, tasks)["loss"], together)
