"""What an inner loop moves, and nothing else: against rules and gradient descent written out by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fewshot.engines import LoopEngine, VmapEngine
from fewshot.errors import UserError
from fewshot.methods.adapt import ADAPT, AdaptedParameters
from fewshot.networks.norm_layers import Statistics, normalising
from methods_table import WAYS, baseline, maml, metagan, reptile

pytestmark = pytest.mark.usefixtures("float64")

RANK = 2
METHODS = {
    "maml": lambda **o: maml(VmapEngine(), **o),
    "maml_group": lambda **o: maml(LoopEngine(), norm="group", **o),
    "reptile": lambda **o: reptile(VmapEngine(), **o),
    "baseline": lambda **o: baseline(VmapEngine(), **o),
    "baseline_pp": lambda **o: baseline(LoopEngine(), head="cosine", **o),
}


def made(name: str, **options):
    torch.manual_seed(0)
    method = METHODS[name](**options).eval()
    nn.init.normal_(method.classifier.head.weight)
    return method


def moves(adapt: str, name: str, params: dict[str, torch.Tensor]) -> bool:
    """Whether a parameter of a backbone of convolutions and norms should change."""
    layer, kind = name.rsplit(".", 1)
    convolution = params[f"{layer}.weight"].ndim == 4
    return {
        "all": True, "body": True, "head": False, "norm": not convolution, "bias": kind == "bias",
        "lora": convolution and kind == "weight",
    }[adapt]  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("adapt", ADAPT)
def test_only_the_counted_parameters_change(name, adapt, episodes):
    if (name, adapt) == ("baseline", "body"):
        with pytest.raises(UserError, match=r"method.adapt=body: a linear head starts at 0"):
            made(name, adapt=adapt)
        return
    method = made(name, adapt=adapt, rank=RANK)
    before = {key: value.detach().clone() for key, value in method.classifier.named_parameters()}
    after = method.predictor(episodes[0]).state
    body = [key for key in before if key.startswith("backbone.")]
    changed = {key for key in body if not torch.equal(before[key], after[key])}
    wanted = {key for key in body if moves(adapt, key, before)}
    # Before batch statistics a bias changes nothing, and only rounding moves it.
    assert {key for key in wanted if not key.endswith("bias")} <= changed <= wanted
    head = {key: value for key, value in after.items() if key.startswith("head.")}
    if not name.startswith("baseline"):  # whose head is another one
        assert all(torch.equal(before[key], value) == (adapt == "body") for key, value in head.items())
    count = 0 if adapt == "body" else sum(value.numel() for value in head.values())
    for key in wanted:
        difference = (after[key] - before[key]).detach()
        if adapt == "lora":
            assert torch.linalg.matrix_rank(difference.flatten(1), rtol=1e-8) == RANK
            count += RANK * sum(difference.flatten(1).shape)
        else:
            count += difference.numel()
    assert method.adapted_parameters == count
    assert all(torch.equal(before[key], value) for key, value in method.classifier.named_parameters())


def test_metagan_counts_its_classifiers():
    assert metagan(maml, VmapEngine()).adapted_parameters == maml(VmapEngine()).adapted_parameters > 0


@pytest.mark.parametrize("name", METHODS)
def test_the_head_alone_is_gradient_descent_over_frozen_features(name, episodes):
    """Written out with the gradient of the cross-entropy: (p - y) f, for cosines with that of the cosine."""
    method = made(name, adapt="head")
    episode, steps, rate = episodes[1], method.test_steps, method.inner_rate
    backbone, head = method.classifier.backbone, method.classifier.head
    average = Statistics.RUNNING if name.startswith("baseline") else Statistics.BATCH
    with torch.no_grad(), normalising(backbone, average):
        support, queries = backbone(episode.support_x), backbone(episode.query_x)
        one_hot = F.one_hot(episode.support_y, WAYS).double()
        if name == "baseline_pp":
            support, queries = (x / x.norm(dim=1, keepdim=True) for x in (support, queries))
            weight, log_scale = one_hot.T @ support / one_hot.sum(0)[:, None], head.log_scale.detach().clone()
        else:
            new = name == "baseline"
            weight = torch.zeros(WAYS, support.shape[1]) if new else head.weight.clone()
            bias = torch.zeros(WAYS) if new else head.bias.clone()
        for _ in range(steps):
            if name == "baseline_pp":
                length = weight.norm(dim=1, keepdim=True)
                cosine = support @ (weight / length).T
                error = ((log_scale.exp() * cosine).softmax(1) - one_hot) / len(support)
                to_direction = log_scale.exp() * error.T @ support
                along = (to_direction * weight).sum(1, keepdim=True) * weight / length**2
                weight = weight - rate * (to_direction - along) / length
                log_scale = log_scale - rate * log_scale.exp() * (error * cosine).sum()
            else:
                error = ((support @ weight.T + bias).softmax(1) - one_hot) / len(support)
                weight, bias = weight - rate * error.T @ support, bias - rate * error.sum(0)
        if name == "baseline_pp":
            wanted = log_scale.exp() * queries @ (weight / weight.norm(dim=1, keepdim=True)).T
        else:
            wanted = queries @ weight.T + bias
        torch.testing.assert_close(method.logits(episodes)[1], wanted, rtol=1e-10, atol=1e-10)


class TestLowRank:
    @pytest.fixture
    def learner(self, float64):
        torch.manual_seed(0)
        return maml(VmapEngine()).classifier

    def test_starts_at_the_unadapted_network(self, learner):
        params = dict(learner.named_parameters())
        adapted = AdaptedParameters(learner, "lora", 3)
        full = adapted.merge(params, adapted.initial(params))
        assert full.keys() == params.keys()
        assert all(torch.equal(full[key], value) for key, value in params.items())

    def test_the_first_step_is_projected_gradient_descent(self, learner, episodes):
        """W - rate * G A' A, with A of rows about as long as 1."""
        method = made("maml", adapt="lora", rank=3, test_steps=1)
        episode, key = episodes[0], "backbone.layers.3.weight"
        weight = method.classifier.get_parameter(key)
        a = method.adapted.initial(dict(method.classifier.named_parameters()))[f"{key}.A"]
        loss = F.cross_entropy(method.classifier(episode.support_x).logits, episode.support_y)
        (gradient,) = torch.autograd.grad(loss, weight)
        wanted = weight - 0.3 * (gradient.flatten(1) @ a.T @ a).view_as(weight)
        torch.testing.assert_close(method.predictor(episode).state[key], wanted, rtol=1e-10, atol=1e-12)
        assert a.norm(dim=1).sub(1).abs().max() < 0.5

    def test_nothing_of_it_is_saved_and_it_is_always_the_same(self, learner):
        first, second = (
            AdaptedParameters(learner, "lora", 3),
            AdaptedParameters(maml(VmapEngine()).classifier, "lora", 3),
        )
        assert not first.state_dict()
        params = dict(learner.named_parameters())
        assert all(torch.equal(value, second.initial(params)[key]) for key, value in first.initial(params).items())
        starts = [value for key, value in first.initial(params).items() if key.endswith(".A")]
        assert not torch.equal(starts[0][:, :4], starts[1][:, :4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapt": "tail"}, "method.adapt=tail: choose one of all, head, body, norm, bias, lora"),
        ({"adapt": "lora", "rank": 0}, "method.rank=0: must be at least 1"),
        ({"adapt": "norm", "norm": "none"}, "method.adapt=norm, but the backbone has nothing of it"),
    ],
)
def test_mistakes_are_one_line(options, message):
    with pytest.raises(UserError, match=message):
        maml(VmapEngine(), **options)


def test_a_checkpoint_is_tested_with_another_setting(episodes):
    """As pretraining once and comparing what adapts needs: the weights are those of the network alone."""
    torch.manual_seed(0)
    trained = reptile(VmapEngine())
    for adapt in ADAPT:
        other = reptile(VmapEngine(), adapt=adapt)
        other.load_state_dict(trained.state_dict())
