"""Adaptation through pretrained networks, a ViT and a convolutional one: against rules by name and finite differences.

Networks are small and random. Their activations are smooth, so that differences have a limit; no weight is 0.
"""

import pytest
import timm
import torch
from torch import nn

from fewshot.data.sampler import EpisodeSampler
from fewshot.engines import LoopEngine, VmapEngine
from fewshot.methods import MAML, Baseline
from fewshot.networks.timm_backbone import wrap_timm
from methods_table import WAYS, adam, objective, outer_gradient
from small_pretrained import network
from synthetic_data import synthetic_split

pytestmark = pytest.mark.usefixtures("float64")

NETWORKS = ("test_vit", "test_efficientnet")
ADAPT = ("head", "norm", "bias", "lora", "all")
RANK = 2


def maml(name: str, engine, frozen: bool = True, **options) -> MAML:
    settings = {"inner_rate": 0.02, "steps": 2, "test_steps": 2, "bn": "transductive", "optimizer": adam} | options
    return MAML(network(name, frozen), WAYS, engine=engine, **settings)


def baseline(name: str, engine, **options) -> Baseline:
    settings = {"inner_rate": 0.05, "test_steps": 3, "bn": "running", "optimizer": adam} | options
    return Baseline(network(name), WAYS, engine=engine, **settings)


MAKE = {
    "maml": maml,
    "fomaml": lambda *given, **options: maml(*given, second_order=False, **options),
    "baseline": baseline,
}


def moves(adapt: str, name: str, value: torch.Tensor) -> bool:
    """Tell by the name whether a parameter of a network should change."""
    return {
        "all": True,
        "head": False,
        "norm": "norm" in name or ".bn" in name,
        "bias": name.endswith(".bias"),
        "lora": name.endswith(".weight") and value.ndim > 1 and "conv_dw" not in name,
    }[adapt]


@pytest.fixture
def tasks(float64):
    return EpisodeSampler(synthetic_split(), WAYS, 1, 1, seed=0)(torch.arange(2))


@pytest.mark.parametrize("method", MAKE)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("adapt", ADAPT)
def test_only_the_counted_parameters_move(adapt, name, method, tasks):
    learner = MAKE[method](name, VmapEngine(), adapt=adapt, rank=RANK).eval()
    before = {key: value.detach().clone() for key, value in learner.classifier.named_parameters()}
    after = learner.predictor(tasks[0]).state
    body = [key for key in before if key.startswith("backbone.")]
    changed = {key for key in body if not torch.equal(before[key], after[key])}
    assert changed == {key for key in body if moves(adapt, key, before[key])}
    count = sum(value.numel() for key, value in after.items() if key.startswith("head."))
    for key in changed:
        difference = (after[key] - before[key]).detach().flatten(1) if adapt == "lora" else after[key]
        count += RANK * sum(difference.shape) if adapt == "lora" else difference.numel()
        assert adapt != "lora" or torch.linalg.matrix_rank(difference, atol=1e-13) <= RANK
    assert learner.adapted_parameters == count
    assert learner.adapts_backbone == (adapt != "head")
    assert all(torch.equal(before[key], value) for key, value in learner.classifier.named_parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_lora_starts_at_the_unadapted_network(name, tasks):
    learner = maml(name, LoopEngine(), adapt="lora")
    params = dict(learner.classifier.named_parameters())
    full = learner.adapted.merge(params, learner.adapted.initial(params))
    assert full.keys() == params.keys()
    assert all(torch.equal(full[key], value) for key, value in params.items())


def slope_error(method: MAML, tasks) -> float:
    """Relative error of the outer gradient along a random direction of what is trained, against a difference."""
    gradient = outer_gradient(method, tasks)
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    torch.manual_seed(1)
    direction = {name: torch.randn_like(p) for name, p in trained.items()}
    values = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for name, p in trained.items():
                p += step * direction[name]
        values.append(float(objective(method, tasks).detach()))
    analytic = sum(float((gradient[name] * direction[name]).sum()) for name in trained)
    return abs((values[0] - values[1]) / 2e-6 - analytic) / abs(analytic)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("adapt", ADAPT)
def test_second_order_equals_finite_differences(adapt, name, tasks):
    """Where the outer loop trains the network."""
    method = maml(name, LoopEngine(), frozen=False, adapt=adapt, rank=RANK)
    assert slope_error(method, tasks) < 1e-5
    looped = outer_gradient(method, tasks)
    method.engine = VmapEngine(2)
    mapped = outer_gradient(method, tasks)
    for key in looped:
        assert float((looped[key] - mapped[key]).norm()) < 1e-9 * max(1e-3, float(looped[key].norm())), key


@pytest.mark.parametrize(
    ("name", "adapt", "engine"),
    [
        ("test_vit", "lora", LoopEngine()),
        ("test_vit", "all", VmapEngine(2)),
        ("test_efficientnet", "norm", LoopEngine(checkpoint=True)),
    ],
)
def test_a_frozen_network_adapts_and_is_not_trained(adapt, name, engine, tasks):
    method = maml(name, engine, adapt=adapt, rank=RANK, learn_rates=True)
    assert slope_error(method, tasks) < 1e-5
    assert all(p.grad is None for p in method.classifier.backbone.parameters())
    assert float(method.classifier.head.weight.grad.norm()) > 0
    assert all(float(rate.grad.norm()) > 0 for rate in method.rates)


@pytest.mark.parametrize("name", [*NETWORKS, "test_efficientnet_gn"])
def test_first_order_is_the_same_in_every_engine(name, tasks):
    method = maml(name, LoopEngine(), frozen=False, second_order=False)
    looped = outer_gradient(method, tasks)
    method.engine = VmapEngine(2)
    mapped = outer_gradient(method, tasks)
    for key in looped:
        assert float((looped[key] - mapped[key]).norm()) < 1e-9 * max(1e-3, float(looped[key].norm())), key


def test_own_group_norms_give_what_timm_gives():
    torch.manual_seed(0)
    built = timm.create_model("test_efficientnet_gn", num_classes=0).eval()
    for layer in built.modules():
        if isinstance(layer, nn.GroupNorm):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    x = torch.rand(2, 3, 32, 32)
    wanted = built(x).detach()
    names = list(built.state_dict())
    backbone = wrap_timm(built, "gn", frozen=True, image_size=32)
    assert list(built.state_dict()) == names
    torch.testing.assert_close(backbone.layers(x), wanted, rtol=1e-10, atol=1e-10)


def test_one_task_at_a_time_goes_through_a_large_network(tasks):
    method = maml("test_vit", VmapEngine())
    assert [len(chunk) for chunk in method.chunks(tasks)] == [1, 1]
    method.engine = VmapEngine(2)
    assert [len(chunk) for chunk in method.chunks(tasks)] == [2]
