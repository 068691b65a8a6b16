"""Outer gradients against the truth from outside: finite differences, and an inner loop written out by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from fewshot.data.sampler import EpisodeSampler
from fewshot.engines import LoopEngine, VmapEngine
from fewshot.methods.adapt import ADAPT
from fewshot.networks import mlp
from fewshot.networks.norm_layers import NORMS
from methods_table import SIZE, maml, objective, outer_gradient, protonet
from synthetic_data import synthetic_split

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def tasks(float64):
    return EpisodeSampler(synthetic_split(), 5, 2, 3, seed=0)(torch.arange(3))


def directional_error(method, tasks, seed: int = 0, step: float = 1e-6) -> float:
    """Relative error of the gradient along a random direction, against a central difference."""
    gradient = outer_gradient(method, tasks)
    generator = torch.Generator().manual_seed(seed)
    direction = {
        name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in method.named_parameters()
    }
    analytic = sum(float((gradient[name] * direction[name]).sum()) for name in gradient)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for name, p in method.named_parameters():
                p += sign * step * direction[name]
        values.append(float(objective(method, tasks).detach()))
        with torch.no_grad():
            for name, p in method.named_parameters():
                p -= sign * step * direction[name]
    return abs((values[0] - values[1]) / (2 * step) - analytic) / abs(analytic)


@pytest.mark.parametrize("engine", [LoopEngine, VmapEngine])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("steps", [1, 3])
def test_maml_equals_finite_differences(norm, steps, engine, tasks):
    torch.manual_seed(0)
    method = maml(engine(), norm=norm, steps=steps)
    assert directional_error(method, tasks) < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        *({"adapt": what} for what in ADAPT),
        {"learn_rates": True},
        {"learn_rates": True, "adapt": "lora", "rank": 2},
        {"bn": "support"},
    ],
)
def test_maml_options_equal_finite_differences(options, tasks):
    torch.manual_seed(0)
    assert directional_error(maml(VmapEngine(), **options), tasks) < 1e-6


def test_fully_connected_network_equals_finite_differences(tasks):
    torch.manual_seed(0)
    assert directional_error(maml(VmapEngine(), network=mlp(1, SIZE, (16, 8))), tasks) < 1e-6


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_protonet_equals_finite_differences(distance, tasks):
    torch.manual_seed(0)
    assert directional_error(protonet(VmapEngine(), distance=distance), tasks) < 1e-6


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("second_order", [True, False])
def test_engines_give_one_gradient(norm, second_order, tasks):
    torch.manual_seed(0)
    method = maml(LoopEngine(), norm=norm, second_order=second_order)
    looped = outer_gradient(method, tasks)
    method.engine = VmapEngine(2)
    mapped = outer_gradient(method, tasks)
    for name in looped:
        assert float((looped[name] - mapped[name]).norm()) < 1e-8 * max(1e-6, float(looped[name].norm())), name


@pytest.mark.parametrize("second_order", [True, False])
def test_maml_equals_the_inner_loop_written_out(second_order, tasks):
    """Two steps of gradient descent per task with torch.autograd, nothing of the framework in between."""
    torch.manual_seed(0)
    method = maml(VmapEngine(), second_order=second_order, steps=2)
    ours = outer_gradient(method, tasks)
    network, start = method.classifier, dict(method.classifier.named_parameters())
    total = dict.fromkeys(start, 0.0)
    for task in range(len(tasks)):
        episode, params = tasks[task], dict(start)
        for _ in range(2):
            loss = F.cross_entropy(functional_call(network, params, (episode.support_x,)).logits, episode.support_y)
            gradients = torch.autograd.grad(loss, list(params.values()), create_graph=second_order)
            params = {key: p - 0.3 * g for (key, p), g in zip(params.items(), gradients, strict=True)}
            if not second_order:
                params = {key: p.detach().requires_grad_() for key, p in params.items()}
        outer = F.cross_entropy(functional_call(network, params, (episode.query_x,)).logits, episode.query_y)
        wanted = list((start if second_order else params).values())
        for key, g in zip(start, torch.autograd.grad(outer, wanted), strict=True):
            total[key] = total[key] + g / len(tasks)
    for key, value in total.items():
        torch.testing.assert_close(ours[f"classifier.{key}"], value, rtol=1e-8, atol=1e-12)


def test_orders_differ(tasks):
    """The gradients above would agree trivially if second order were first order."""
    torch.manual_seed(0)
    method = maml(VmapEngine())
    second = outer_gradient(method, tasks)
    method.second_order = False
    first = outer_gradient(method, tasks)
    name = "classifier.backbone.layers.0.weight"
    assert float((first[name] - second[name]).norm()) > 1e-3 * float(second[name].norm())
