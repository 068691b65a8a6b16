"""MetaGAN's settings: which images its real term sees, who is trained, what encodes a task, which hosts it takes."""

import itertools
from dataclasses import replace
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from fewshot.data import EpisodeData, EpisodeSampler, Task
from fewshot.engines import VmapEngine
from fewshot.errors import UserError
from fewshot.methods import MetaGAN, NearestNeighbour, ProtoNet
from fewshot.methods.gan_losses import fake_loss, real_loss
from fewshot.methods.metagan import pixel_variance
from fewshot.networks import Generator, TaskEncoder, identity
from fewshot.networks.gan import Aggregation
from methods_table import maml, metagan, protonet
from synthetic_data import synthetic_split


@pytest.fixture
def tasks(float64):
    """Tasks with unlabelled images for both loops."""
    return EpisodeSampler(synthetic_split(), 5, 1, 2, seed=0, unlabeled=2, unlabeled_query=3, distractors=1)(
        torch.arange(3)
    )


def test_outer_real_term_is_over_unlabelled_query_images_else_unlabelled_ones_else_the_query(tasks):
    torch.manual_seed(0)
    method = metagan(protonet, VmapEngine(), fake_logit="learned").train()
    method.prepare(tasks)
    task = tasks[0]
    predict = method.fit_task(task)
    for given, images in (
        (task, task.unlabeled_query_x),
        (replace(task, unlabeled_query_x=None), task.unlabeled_x),
        (replace(task, unlabeled_query_x=None, unlabeled_x=None), task.query_x),
    ):
        wanted = real_loss(method.real_log_odds(predict(images)))
        torch.testing.assert_close(method.task_terms(given)["real_loss"], wanted)


def test_inner_real_term_is_over_unlabelled_images(tasks):
    """One inner step written out: the gradient of CE + real + fake on the support set and the unlabelled images."""
    torch.manual_seed(0)
    method = metagan(maml, VmapEngine(), host_options={"steps": 1}, inner_real=0.7, inner_fake=0.3).train()
    task, host = tasks[0], method.host
    network = host.classifier
    support, unlabeled = network(task.support_x), network(task.unlabeled_x)
    fakes = network(method.generate(task, None, stream=0).detach())
    loss = F.cross_entropy(support.logits, task.support_y)
    loss = loss + 0.7 * F.softplus(-unlabeled.logits.logsumexp(1)).mean()
    loss = loss + 0.3 * F.softplus(fakes.logits.logsumexp(1)).mean()
    with torch.no_grad():
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter -= 0.3 * gradient
    wanted = network(task.query_x).logits
    with torch.no_grad():
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter += 0.3 * gradient
    torch.testing.assert_close(method.fit_task(task)(task.query_x).logits, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("host", [maml, protonet])
def test_a_task_without_labels_has_the_real_and_fake_terms_only(host, tasks):
    torch.manual_seed(0)
    method = metagan(host, VmapEngine()).train()
    task = replace(tasks[0], labeled=torch.tensor(False))
    terms = method.task_terms(task)
    assert float(terms["ce_loss"].detach()) == 0
    assert terms["accuracy"].isnan()
    predict = method.fit_task(task)
    fakes = method.generate(task, None, stream=1)
    wanted = 0.5 * real_loss(method.real_log_odds(predict(task.unlabeled_query_x))) + 0.5 * fake_loss(
        method.real_log_odds(predict(fakes))
    )
    torch.testing.assert_close(terms["loss"], wanted)


def train(method, tmp_path, **task):
    class Data:
        def load(self):
            return {name: synthetic_split(name=name, seed=n) for n, name in enumerate(("train", "val", "test"))}

    numbers = Task(5, 1, 2, 5, 1, 2, meta_batch=2, **task)
    trainer = pl.Trainer(
        max_steps=6, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, limit_val_batches=0, enable_checkpointing=False, inference_mode=False,
    )  # fmt: skip
    trainer.fit(method, datamodule=EpisodeData(Data(), numbers, seed=0, steps=10))


@pytest.mark.parametrize(("every", "moves"), [(0, 0), (1, 6), (2, 3), (4, 2)])
def test_the_generator_is_trained_every_so_many_steps(every, moves, tmp_path):
    method = metagan(protonet, VmapEngine(), generator_every=every)
    seen = [method.generator.dense.weight.detach().clone()]
    update = method.update

    def watched(optimizers, step):
        update(optimizers, step)
        seen.append(method.generator.dense.weight.detach().clone())

    method.update = watched
    train(method, tmp_path)
    assert sum(not torch.equal(a, b) for a, b in itertools.pairwise(seen)) == moves


def test_training_goes_on_through_tasks_without_labels(tmp_path):
    method = metagan(maml, VmapEngine())
    before = [p.detach().clone() for p in method.parameters()]
    train(method, tmp_path, unlabeled_tasks=0.7, train_unlabeled=2, train_distractors=1)
    assert all(p.isfinite().all() for p in method.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, method.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["mean", "max", "attention"])
def test_codes_of_a_set_are_put_together_whatever_their_order(kind, float64):
    torch.manual_seed(0)
    aggregate, codes = Aggregation(4, kind), torch.randn(6, 4)
    torch.testing.assert_close(aggregate(codes), aggregate(codes[torch.randperm(6)]))
    if kind == "attention":
        weights = [float((code * aggregate.score.weight[0]).sum().detach().exp()) for code in codes]
        wanted = sum(w * c for w, c in zip(weights, codes, strict=True)) / sum(weights)
    else:
        wanted = codes.mean(0) if kind == "mean" else codes.max(0).values
    torch.testing.assert_close(aggregate(codes), wanted)
    assert TaskEncoder(1, 8, width=4, features=12, aggregation=kind)(torch.rand(5, 1, 8, 8)).shape == (12,)


def test_diversity_is_0_for_one_image_and_1_for_images_like_the_real_ones(tasks):
    images = tasks.query_x[0]
    assert float(pixel_variance(images[:1].expand(7, -1, -1, -1))) < 1e-30
    by_hand = (images - images.mean(0, keepdim=True)).pow(2).mean()
    torch.testing.assert_close(pixel_variance(images), by_hand)


def test_hosts_without_the_interface_are_refused():
    parts = TaskEncoder(1, 8, width=4, features=12), Generator(1, 8, 12, noise=6, width=4)
    optimizer = partial(torch.optim.Adam, lr=1e-3)
    schedule = partial(float)
    for host, message in (
        (NearestNeighbour(engine=VmapEngine(), bn="transductive"), "NearestNeighbour learns no features"),
        (torch.nn.Linear(2, 2), "Linear cannot be the host of MetaGAN"),
        (metagan(maml, VmapEngine()), "MetaGAN cannot be the host of MetaGAN"),
        (ProtoNet(identity(1, 8), engine=VmapEngine(), bn="running", optimizer=optimizer), "no parameter to train"),
    ):
        with pytest.raises(UserError, match=message):
            MetaGAN(host, *parts, optimizer, schedule)


@pytest.mark.parametrize(
    ("setting", "value"), [("generator_every", -1), ("inner_fakes", 0), ("fake_logit", "none"), ("generator_loss", "l")]
)
def test_settings_are_checked(setting, value):
    with pytest.raises(UserError, match=f"method.{setting}={value}"):
        metagan(maml, VmapEngine(), **{setting: value})
    with pytest.raises(UserError, match=r"method.encoder.aggregation=sum"):
        Aggregation(4, "sum")
