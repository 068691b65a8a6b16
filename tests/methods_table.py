"""Every method once: the rows of the contract tests. A new method is one new row."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from fewshot.data import Task
from fewshot.engines import Engine
from fewshot.methods import (
    MAML,
    Baseline,
    MaskedSoftKMeans,
    MatchingNet,
    MetaGAN,
    Method,
    NearestNeighbour,
    NPair,
    ProtoNet,
    PseudoLabels,
    RelationNet,
    Reptile,
    SoftKMeans,
)
from fewshot.networks import ClassHead, Generator, TaskEncoder, conv4, mlp
from fewshot.schedule import constant, cosine

SIZE, WAYS = 8, 5
adam = partial(torch.optim.Adam, lr=1e-2)
# Fakes that weigh little, for hosts whose own loss is small (squared error) or falls slowly.
LIGHT = {"outer_real": 0.03, "outer_fake": 0.03}


def backbone(norm: str = "batch"):
    return conv4(1, SIZE, width=8, depth=2, stride=True, norm=norm)


def maml(engine: Engine, norm: str = "batch", bn: str = "transductive", network=None, **options) -> MAML:
    settings = {"inner_rate": 0.3, "steps": 2, "test_steps": 3} | options
    network = network or backbone(norm)
    return MAML(network, WAYS, engine=engine, bn=bn, optimizer=adam, **settings)


def protonet(engine: Engine, norm: str = "batch", bn: str = "running", **options) -> ProtoNet:
    network = conv4(1, SIZE, width=8, depth=2, stride=False, mean_over_space=False, norm=norm)
    return ProtoNet(network, engine=engine, bn=bn, optimizer=adam, **options)


def n_pair(engine: Engine, **options) -> NPair:
    network = conv4(1, SIZE, width=8, depth=2, stride=False, mean_over_space=False)
    return NPair(network, engine=engine, optimizer=adam, **{"bn": "running", "scale": 0.1} | options)


def relation(engine: Engine, norm: str = "batch", bn: str = "transductive", **options) -> RelationNet:
    network = conv4(1, SIZE, width=8, depth=2, stride=False, mean_over_space=False, norm=norm, pooled=1)
    return RelationNet(network, norm, engine=engine, bn=bn, optimizer=adam, **options)


def matching(engine: Engine, norm: str = "batch", bn: str = "running", **options) -> MatchingNet:
    network = conv4(1, SIZE, width=8, depth=2, stride=False, mean_over_space=False, norm=norm)
    # Cosines of so few features learn slowly: a larger rate, and its decay.
    faster = partial(torch.optim.Adam, lr=3e-2)
    return MatchingNet(network, engine=engine, bn=bn, optimizer=faster, schedule=cosine, **options)


def baseline(engine: Engine, norm: str = "batch", bn: str = "running", **options) -> Baseline:
    network = conv4(1, SIZE, width=8, depth=2, stride=False, mean_over_space=False, norm=norm)
    settings = {"inner_rate": 0.1, "test_steps": 10, "optimizer": adam} | options
    return Baseline(network, WAYS, engine=engine, bn=bn, **settings)


def reptile(engine: Engine, norm: str = "batch", bn: str = "transductive", **options) -> Reptile:
    settings = {"inner_rate": 0.3, "steps": 3, "test_steps": 5, "batch": 4} | options
    return Reptile(backbone(norm), WAYS, engine=engine, bn=bn, optimizer=partial(torch.optim.SGD, lr=1.0), **settings)


def metagan(host: Callable[..., Method], engine: Engine, host_options: dict | None = None, **options) -> MetaGAN:
    wrapped = host(engine, **(host_options or {}))
    encoder, generator = TaskEncoder(1, SIZE, width=4, features=12), Generator(1, SIZE, 12, noise=6, width=4)
    settings = {"inner_real": 0.5, "inner_fake": 0.5, "outer_real": 0.5, "outer_fake": 0.5} | options
    return MetaGAN(wrapped, encoder, generator, partial(torch.optim.Adam, lr=1e-3), constant, **settings)


METHODS: dict[str, Callable[[Engine], Method]] = {
    "maml": maml,
    "maml_mlp": lambda engine: maml(engine, network=mlp(1, SIZE, (16, 8))),
    "fomaml": partial(maml, second_order=False),
    "anil": partial(maml, adapt="head"),
    "boil": partial(maml, adapt="body"),
    "meta_sgd": partial(maml, learn_rates=True),
    "maml_lora": partial(maml, adapt="lora", rank=2),
    # About half of a fresh classifier's predictions are surer than this, after one step.
    "maml_pseudo": lambda engine: maml(engine, pseudo_labels=PseudoLabels(threshold=0.204)),
    "protonet": protonet,
    "protonet_cosine": partial(protonet, distance="cosine"),
    "soft_kmeans": lambda engine: protonet(engine, refinement=SoftKMeans(steps=2)),
    "masked_soft_kmeans": lambda engine: protonet(engine, refinement=MaskedSoftKMeans()),
    "n_pair": n_pair,
    "nca_cosine": partial(n_pair, loss="nca", distance="cosine", scale=10.0),
    "relation": relation,
    "relation_ce": partial(relation, loss="cross_entropy"),
    "matching": matching,
    "matching_full_context": partial(matching, full_context=True, processing_steps=3),
    "metagan": partial(metagan, maml),
    "metagan_features": partial(metagan, maml, generator_loss="feature_matching", fake_logit="learned"),
    "metagan_fomaml": partial(metagan, partial(maml, second_order=False)),
    "metagan_protonet": partial(metagan, protonet, fake_logit="learned"),
    "metagan_relation": partial(metagan, relation, **LIGHT),
    "metagan_matching": partial(metagan, matching, fake_logit="learned", **LIGHT),
    "baseline": baseline,
    "baseline_pp": partial(baseline, head="cosine", schedule=cosine),
    "reptile": reptile,
    "nearest": lambda engine: NearestNeighbour(engine=engine, bn="transductive"),
}
TRAINED = [name for name in METHODS if name != "nearest"]


def build(name: str, engine: Engine, seed: int = 0) -> Method:
    torch.manual_seed(seed)
    return METHODS[name](engine)


def training_task(name: str, task: Task) -> Task:
    """``task`` with the training that a method needs."""
    return replace(task, train_batch=16) if name.startswith("baseline") else task


def with_head(method: Method, classes: int = 30) -> Method:
    """With as many outputs as ``synthetic_split`` has classes, where a method learns that from its data."""
    for layer in method.modules():
        if isinstance(layer, ClassHead):
            layer.resize(classes)
    return method


def outer_gradient(method: Method, episodes) -> dict[str, torch.Tensor]:
    """The gradient that a training step would hand to the optimisers."""
    method.train()
    with_head(method)
    method.prepare(episodes)
    method.zero_grad()
    for chunk in method.chunks(episodes):
        (method.each(method.task_terms, chunk)["objective"].sum() / len(episodes)).backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in method.named_parameters()}


def objective(method: Method, episodes) -> torch.Tensor:
    """The mean objective over tasks."""
    method.train()
    return torch.cat([method.each(method.task_terms, c)["objective"] for c in method.chunks(episodes)]).mean()
