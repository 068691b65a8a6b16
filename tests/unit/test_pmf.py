"""P>M>F: fine-tuning against gradient descent written out by hand, and colours against the authors' functions."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from fewshot import rng
from fewshot.augment import colours, weak
from fewshot.engines import LoopEngine, VmapEngine
from fewshot.errors import UserError
from fewshot.methods import PMF
from fewshot.streams import TaskStream
from methods_table import adam, embedding, protonet
from small_pretrained import network


def pmf(norm: str = "none", **options) -> PMF:
    settings = {"engine": LoopEngine(), "bn": "running", "optimizer": adam, "finetune_rate": 0.1} | options
    torch.manual_seed(0)
    return PMF(embedding(norm), **settings).eval()


def test_without_steps_it_is_a_prototypical_network_of_cosines(episodes):
    torch.manual_seed(0)
    other = protonet(LoopEngine(), norm="none", distance="cosine").eval()
    assert torch.equal(pmf().logits(episodes), other.logits(episodes))
    assert pmf().adapted_parameters == 0


@pytest.mark.usefixtures("float64")
def test_fine_tuning_is_gradient_descent(episodes):
    """The support images, changed, are classified by the means of the support images as they are."""
    episode = episodes[0]
    method = pmf(finetune_steps=3, finetune_rate=0.1)
    params = {name: p.detach().clone() for name, p in method.backbone.named_parameters()}

    def logits(params: dict[str, Tensor], x: Tensor) -> Tensor:
        support = functional_call(method.backbone, params, (episode.support_x,))
        centres = torch.stack([support[episode.support_y == c].mean(0) for c in range(episode.ways)])
        queries = functional_call(method.backbone, params, (x,))
        return 10 * F.cosine_similarity(queries[:, None], centres[None], dim=2)

    for step in range(3):
        params = {name: p.requires_grad_() for name, p in params.items()}
        loss = F.cross_entropy(logits(params, method.views(episode, step)), episode.support_y)
        gradients = torch.autograd.grad(loss, list(params.values()))
        params = {name: (p - 0.1 * g).detach() for (name, p), g in zip(params.items(), gradients, strict=True)}
    wanted = logits(params, episode.query_x)
    torch.testing.assert_close(method.predictor(episode)(episode.query_x).logits, wanted, rtol=1e-9, atol=1e-10)
    assert method.adapted_parameters == sum(p.numel() for p in params.values())
    assert all(torch.equal(a, b) for a, b in zip(pmf().parameters(), method.parameters(), strict=True))


def test_views_differ_by_step_and_task_and_are_drawn_anew_alike(episodes):
    method = pmf(finetune_steps=1)
    first = method.views(episodes[0], 0)
    assert torch.equal(first, method.views(episodes[0], 0))
    assert not torch.equal(first, method.views(episodes[0], 1))
    assert not torch.equal(first, method.views(replace(episodes[0], key=episodes[1].key), 0))


def test_training_does_not_fine_tune(episodes):
    method = pmf(finetune_steps=3).train()
    with_steps = method.map_tasks(method.task_terms, episodes)["loss"]
    assert torch.equal(with_steps, pmf().train().map_tasks(method.task_terms, episodes)["loss"])


@pytest.mark.usefixtures("float64")
def test_colours_are_those_of_the_authors():
    """``rand_brightness``, ``rand_saturation`` and ``rand_contrast`` of DiffAugment, for images of deviation 1."""
    x = torch.rand(4, 3, 5, 6)
    x = (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)
    key = rng.key(5)
    number = partial(rng.uniform, key, TaskStream.COLOURS)
    for image, changed in zip(range(4), colours(x, key, TaskStream.COLOURS), strict=True):
        brightness, saturation, contrast = (float(number(torch.tensor(image), torch.tensor(i))) for i in range(3))
        wanted = x[image] + (brightness - 0.5)
        mean = wanted.mean(0, keepdim=True)
        wanted = (wanted - mean) * (saturation * 2) + mean
        mean = wanted.mean()
        wanted = (wanted - mean) * (contrast + 0.5) + mean
        torch.testing.assert_close(changed, wanted, rtol=1e-10, atol=1e-12)


def test_views_are_shifted_too(episodes):
    method = pmf(finetune_steps=1)
    key = rng.bits(episodes[0].key, TaskStream.FINETUNING, 0)
    changed = colours(episodes[0].support_x, key, TaskStream.COLOURS)
    assert torch.equal(method.views(episodes[0], 0), weak(changed, key, TaskStream.WEAK_AUGMENTATION, 1 / 8))


def test_a_frozen_network_gives_its_features_once_and_is_fine_tuned_all_the_same(episodes):
    plain, tuned = (
        PMF(network("test_vit"), finetune_steps=steps, engine=VmapEngine(), bn="running", optimizer=adam).eval()
        for steps in (0, 2)
    )
    assert plain.feature_extractor is plain.backbone
    assert tuned.feature_extractor is None
    before = [p.clone() for p in tuned.parameters()]
    assert not torch.equal(plain.logits(episodes[:1]), tuned.logits(episodes[:1]))
    assert all(torch.equal(a, b) for a, b in zip(before, tuned.parameters(), strict=True))


def test_features_cannot_be_changed_as_images(episodes):
    with pytest.raises(UserError, match=r"method\.finetune_steps=2: needs images"):
        pmf(finetune_steps=2).fit_task(replace(episodes[0], support_x=torch.rand(10, 64, 1, 1)))
    with pytest.raises(UserError, match=r"method\.finetune_steps=-1: must be at least 0"):
        pmf(finetune_steps=-1)
