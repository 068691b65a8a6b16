"""List every method once: the rows of the contract tests. A new method is one new row.

All other lists of methods in the tests are derived from these rows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fewshot.data import Task
from fewshot.engines import Engine
from fewshot.methods import (
    MAML,
    PMF,
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
    Ridge,
    SimpleShot,
    SoftKMeans,
)
from fewshot.networks import Backbone, BatchNorm, ClassHead, Generator, TaskEncoder, conv4, mlp
from fewshot.schedule import constant, cosine

SIZE, WAYS = 8, 5
adam = partial(torch.optim.Adam, lr=1e-2)


def backbone(norm: str = "batch", **options) -> Backbone:
    """Return the network of methods that adapt: 8 features, the mean over space."""
    return conv4(1, SIZE, width=8, depth=2, stride=True, norm=norm, **options)


def pixels() -> Backbone:
    """Return a network of no parameters, as of features that are computed before."""
    return Backbone(SIZE**2, torch.nn.Flatten())


def embedding(norm: str = "batch", **options) -> Backbone:
    """Return the network of methods that compare embeddings: 32 features, flattened."""
    return conv4(1, SIZE, width=8, depth=2, stride=False, mean_over_space=False, norm=norm, **options)


def maml(engine: Engine, norm: str = "batch", bn: str = "transductive", network=None, **options) -> MAML:
    settings = {"inner_rate": 0.3, "steps": 2, "test_steps": 3} | options
    network = network or backbone(norm)
    return MAML(network, WAYS, engine=engine, bn=bn, optimizer=adam, **settings)


def protonet(engine: Engine, norm: str = "batch", bn: str = "running", **options) -> ProtoNet:
    return ProtoNet(embedding(norm), engine=engine, bn=bn, optimizer=adam, **options)


def pmf(engine: Engine, **options) -> PMF:
    settings = {"finetune_steps": 2, "finetune_rate": 0.01} | options
    return PMF(embedding(), engine=engine, bn="running", optimizer=adam, **settings)


def n_pair(engine: Engine, **options) -> NPair:
    return NPair(embedding(), engine=engine, optimizer=adam, **{"bn": "running", "scale": 0.1} | options)


def relation(engine: Engine, norm: str = "batch", bn: str = "transductive", **options) -> RelationNet:
    return RelationNet(embedding(norm, pooled=1), norm, engine=engine, bn=bn, optimizer=adam, **options)


def matching(engine: Engine, norm: str = "batch", bn: str = "running", **options) -> MatchingNet:
    # Cosines of so few features learn slowly: a larger rate, and its decay.
    faster = partial(torch.optim.Adam, lr=3e-2)
    return MatchingNet(embedding(norm), engine=engine, bn=bn, optimizer=faster, schedule=cosine, **options)


def baseline(engine: Engine, norm: str = "batch", bn: str = "running", network=None, **options) -> Baseline:
    settings = {"inner_rate": 0.1, "test_steps": 10, "optimizer": adam} | options
    return Baseline(network or embedding(norm), WAYS, engine=engine, bn=bn, **settings)


def simpleshot(engine: Engine, network: Backbone | None = None, **options) -> SimpleShot:
    return SimpleShot(network or embedding(), **{"engine": engine, "bn": "running", "optimizer": adam} | options)


def ridge(engine: Engine, network: Backbone | None = None, **options) -> Ridge:
    return Ridge(network or embedding(), **{"engine": engine, "bn": "running", "optimizer": adam} | options)


def reptile(engine: Engine, norm: str = "batch", bn: str = "transductive", **options) -> Reptile:
    settings = {"inner_rate": 0.3, "steps": 3, "test_steps": 5, "batch": 4} | options
    return Reptile(backbone(norm), WAYS, engine=engine, bn=bn, optimizer=partial(torch.optim.SGD, lr=1.0), **settings)


def metagan(host: Callable[..., Method], engine: Engine, host_options: dict | None = None, **options) -> MetaGAN:
    wrapped = host(engine, **(host_options or {}))
    encoder, generator = TaskEncoder(1, SIZE, width=4, features=12), Generator(1, SIZE, 12, noise=6, width=4)
    settings = {"inner_real": 0.5, "inner_fake": 0.5, "outer_real": 0.5, "outer_fake": 0.5} | options
    return MetaGAN(wrapped, encoder, generator, partial(torch.optim.Adam, lr=1e-3), constant, **settings)


@dataclass(frozen=True)
class Row:
    """Describe a method to the contract tests; the tests check every claim.

    Attributes:
        name: the name of the recipe in conf/method, where the method has a recipe.
        make: builds the method for an engine.
        any_ways: predicts tasks of any number of classes, whatever the training tasks had.
        permutes_labels: permuted class numbers permute the predictions, and change nothing else.
        transductive: under ``bn=transductive`` the prediction of a query image depends on the other query images.
        ordered: the prediction depends on the order of the support images.
        keeps_running_statistics: training keeps running averages whatever ``bn`` is.
        adapts: gradient steps fit a task in evaluation.
        needs_unlabelled: a task without unlabelled images is refused.
        trains: has parameters to train.
        on_minibatches: trains on minibatches of all training classes, not on tasks.
        hosts_metagan: MetaGAN can wrap the method; the table then makes a row ``metagan_<name>``.
        metagan_options: what MetaGAN needs around this method.
        constant: parameters that the loss cannot depend on, whatever the data.
        host: of a row of MetaGAN, the name of the wrapped row.
        generated: the table made the row from its host's.
    """

    name: str
    make: Callable[[Engine], Method]
    any_ways: bool = True
    permutes_labels: bool = True
    transductive: bool = True
    ordered: bool = False
    keeps_running_statistics: bool = False
    adapts: bool = False
    needs_unlabelled: bool = False
    trains: bool = True
    on_minibatches: bool = False
    hosts_metagan: bool = False
    metagan_options: Mapping[str, Any] = field(default_factory=dict)
    constant: frozenset[str] = frozenset()
    host: str | None = None
    generated: bool = False

    @property
    def long(self) -> bool:
        """Return whether tests of minutes run by default; a generated row without a recipe differs in its host only."""
        return not self.generated or self.name in RECIPES


# conf/method, where every name is a row.
RECIPES = sorted(file.stem for file in (Path(__file__).parents[1] / "conf" / "method").glob("*.yaml"))

# Methods that adapt a network of N outputs, and methods that compare embeddings.
ADAPTS: dict[str, Any] = {"any_ways": False, "permutes_labels": False, "adapts": True}
HOSTS: dict[str, Any] = {"hosts_metagan": True}
EMBEDS = HOSTS | {"keeps_running_statistics": True}
PRETRAINS: dict[str, Any] = {"keeps_running_statistics": True, "on_minibatches": True}
# The same on features of no network.
FROZEN: dict[str, Any] = {"transductive": False, "trains": False, "on_minibatches": True}
# Fakes that weigh little, for hosts whose own loss is small (squared error) or falls slowly.
LIGHT = {"outer_real": 0.03, "outer_fake": 0.03}
# Distances and cosines have no zero of their own.
LEARNED = {"fake_logit": "learned"}

ROWS = [
    Row("maml", maml, **ADAPTS, **HOSTS),
    Row("maml_mlp", lambda engine: maml(engine, network=mlp(1, SIZE, (16, 8))), **ADAPTS, **HOSTS),
    Row("fomaml", partial(maml, second_order=False), **ADAPTS, **HOSTS),
    Row("anil", partial(maml, adapt="head"), **ADAPTS, **HOSTS),
    Row("boil", partial(maml, adapt="body"), **ADAPTS, **HOSTS),
    Row("meta_sgd", partial(maml, learn_rates=True), **ADAPTS, **HOSTS),
    Row("maml_lora", partial(maml, adapt="lora", rank=2), **ADAPTS, **HOSTS),
    Row(
        "maml_pseudo",
        # About half of a fresh classifier's predictions are surer than this, after one step.
        lambda engine: maml(engine, pseudo_labels=PseudoLabels(threshold=0.204)),
        needs_unlabelled=True,
        **ADAPTS,
        **HOSTS,
    ),
    Row("protonet", protonet, metagan_options=LEARNED, **EMBEDS),
    Row("protonet_cosine", partial(protonet, distance="cosine"), metagan_options=LEARNED, **EMBEDS),
    Row(
        "soft_kmeans",
        lambda engine: protonet(engine, refinement=SoftKMeans(steps=2)),
        needs_unlabelled=True,
        metagan_options=LEARNED,
        **EMBEDS,
    ),
    Row(
        "masked_soft_kmeans",
        lambda engine: protonet(engine, refinement=MaskedSoftKMeans()),
        needs_unlabelled=True,
        metagan_options=LEARNED,
        **EMBEDS,
    ),
    Row("pmf", pmf, metagan_options=LEARNED | LIGHT, **EMBEDS | {"adapts": True, "ordered": True}),
    Row("n_pair", n_pair, keeps_running_statistics=True),
    Row("nca_cosine", partial(n_pair, loss="nca", distance="cosine", scale=10.0), keeps_running_statistics=True),
    Row("relation", relation, metagan_options=LIGHT, **HOSTS),
    Row(
        "relation_ce",
        partial(relation, loss="cross_entropy"),
        constant=frozenset({"relation.head.10.bias"}),  # one number added to every score: a softmax ignores it
        metagan_options=LIGHT,
        **HOSTS,
    ),
    Row("matching", matching, metagan_options=LEARNED | LIGHT, **EMBEDS),
    Row(
        "matching_full_context",
        partial(matching, full_context=True, processing_steps=3),
        ordered=True,
        metagan_options=LEARNED | LIGHT,
        **EMBEDS,
    ),
    Row("baseline", baseline, adapts=True, **PRETRAINS),
    Row("baseline_pp", partial(baseline, head="cosine", schedule=cosine), adapts=True, **PRETRAINS),
    Row(
        "logistic",
        partial(baseline, solver="logistic", normalise=True, regularisation=0.1, schedule=cosine),
        **PRETRAINS,
    ),
    Row("simpleshot", simpleshot, **PRETRAINS),
    Row("simpleshot_power", partial(simpleshot, power=0.5, centre="support", metric="cosine"), **PRETRAINS),
    Row("simpleshot_frozen", lambda engine: simpleshot(engine, pixels()), **FROZEN),
    Row("logistic_frozen", lambda engine: baseline(engine, network=pixels(), solver="logistic"), **FROZEN),
    Row("ridge", ridge, **EMBEDS),
    Row("reptile", reptile, **ADAPTS),
    Row("nearest", lambda engine: NearestNeighbour(engine=engine, bn="transductive"), transductive=False, trains=False),
]


def around(host: Row, name: str | None = None, **options: Any) -> Row:
    """Return the row of MetaGAN around a host: the host's claims, with MetaGAN's own."""
    settings = {**host.metagan_options, **options}
    make = partial(metagan, host.make, **settings)
    return replace(
        host, name=name or f"metagan_{host.name}", make=make, hosts_metagan=False, metagan_options={},
        constant=frozenset(), host=host.name, generated=name is None,
    )  # fmt: skip


MAML_ROW = ROWS[0]
ROWS += [
    around(MAML_ROW, "metagan"),
    around(MAML_ROW, "metagan_features", generator_loss="feature_matching", fake_logit="learned"),
    *(around(row) for row in ROWS[1:] if row.hosts_metagan),
]
METHODS: dict[str, Row] = {row.name: row for row in ROWS}
TRAINED = [row.name for row in ROWS if row.trains]


def build(name: str, engine: Engine, seed: int = 0) -> Method:
    """Build the method of a row, with weights from a seed."""
    torch.manual_seed(seed)
    return METHODS[name].make(engine)


def training_task(name: str, task: Task) -> Task:
    """Return ``task`` with the training that a method needs."""
    return replace(task, train_batch=16) if METHODS[name].on_minibatches else task


def with_head(method: Method, classes: int = 30) -> Method:
    """Give a method as many outputs as ``synthetic_split`` has classes, where the data says how many."""
    for layer in method.modules():
        if isinstance(layer, ClassHead):
            layer.resize(classes)
    return method


def outer_gradient(method: Method, episodes) -> dict[str, torch.Tensor]:
    """Return the gradient that a training step would hand to the optimisers."""
    method.train()
    with_head(method)
    method.prepare(episodes)
    method.zero_grad()
    for chunk in method.chunks(episodes):
        (method.map_tasks(method.task_terms, chunk)["objective"].sum() / len(episodes)).backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in method.named_parameters()}


def objective(method: Method, episodes) -> torch.Tensor:
    """Return the mean objective over tasks."""
    method.train()
    return torch.cat([method.map_tasks(method.task_terms, c)["objective"] for c in method.chunks(episodes)]).mean()


def cancelled(method: Method) -> set[str]:
    """Return the biases that cannot matter: batch statistics take away what a bias adds before a batch norm.

    So do learned rates of these biases. Layers stand in the order of their definition, which is the order of the pass.
    """
    found, before = set(), None
    for name, layer in method.named_modules():
        if isinstance(layer, BatchNorm) and before:
            found.add(f"{before}.bias")
        before = name if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear) else before
    for name, layer in method.named_modules():
        if isinstance(layer, MAML) and len(layer.rates):
            prefix = f"{name}." if name else ""
            rated = layer.adapted.initial(dict(layer.classifier.named_parameters()))
            found |= {
                f"{prefix}rates.{number}" for number, key in enumerate(rated) if f"{prefix}classifier.{key}" in found
            }
    return found
