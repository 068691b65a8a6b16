"""Reptile's outer step against inner loops written out by hand."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from fewshot.engines import LoopEngine, VmapEngine
from fewshot.errors import UserError
from methods_table import outer_gradient, reptile

pytestmark = pytest.mark.usefixtures("float64")


def adapted(method, episode, batches) -> dict[str, torch.Tensor]:
    """phi after one step of gradient descent on each of the batches, given as places in the support set."""
    network, params = method.classifier, dict(method.classifier.named_parameters())
    for places in batches:
        logits = functional_call(network, params, (episode.support_x[places],)).logits
        gradients = torch.autograd.grad(F.cross_entropy(logits, episode.support_y[places]), list(params.values()))
        params = {
            key: (p - 0.3 * g).detach().requires_grad_() for (key, p), g in zip(params.items(), gradients, strict=True)
        }
    return params


@pytest.mark.parametrize("engine", [LoopEngine, VmapEngine])
@pytest.mark.parametrize(
    ("batch", "batches"),
    [
        (4, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]),  # of 10, over and again
        (None, [list(range(10))] * 3),
        (99, [list(range(10))] * 3),
    ],
)
def test_the_gradient_is_the_way_back_from_the_adapted_weights(engine, batch, batches, episodes):
    torch.manual_seed(0)
    method = reptile(engine(), batch=batch, steps=3)
    ours = outer_gradient(method, episodes)
    start = dict(method.classifier.named_parameters())
    ends = [adapted(method, episodes[task], batches) for task in range(len(episodes))]
    for key, theta in start.items():
        phi = torch.stack([end[key] for end in ends]).mean(0)
        torch.testing.assert_close(ours[f"classifier.{key}"], theta - phi, rtol=1e-9, atol=1e-12)
    # SGD at rate eps is then the step of the paper.
    partial(torch.optim.SGD, lr=0.25)(method.parameters()).step()
    for key, theta in method.classifier.named_parameters():
        phi = torch.stack([end[key] for end in ends]).mean(0)
        before = ours[f"classifier.{key}"] + phi
        torch.testing.assert_close(theta, before + 0.25 * (phi - before), rtol=1e-9, atol=1e-12)


def test_at_test_a_step_sees_the_whole_support_set(episodes):
    torch.manual_seed(0)
    method = reptile(VmapEngine(), batch=4, test_steps=2).eval()
    wanted = adapted(method, episodes[0], [list(range(10))] * 2)
    logits = functional_call(method.classifier, wanted, (episodes[0].query_x,)).logits
    torch.testing.assert_close(method.logits(episodes)[0], logits, rtol=1e-9, atol=1e-10)


def test_training_moves_everything_whatever_adapts_at_test(episodes):
    gradients = []
    for adapt in ("all", "head"):
        torch.manual_seed(0)
        gradients.append(outer_gradient(reptile(VmapEngine(), adapt=adapt), episodes))
    assert all(torch.equal(value, gradients[1][key]) for key, value in gradients[0].items())


@pytest.mark.parametrize("option", ["steps", "test_steps", "batch"])
def test_numbers_below_one_are_refused(option):
    with pytest.raises(UserError, match=f"method.{option}=0: must be at least 1"):
        reptile(VmapEngine(), **{option: 0})
