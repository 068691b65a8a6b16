"""Engines: learn2learn's own inner loop is the reference; what their settings promise."""

import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from benchmarks.tensor_memory import tensor_peak_mb
from packaging.requirements import Requirement

from fewshot.data.sampler import EpisodeSampler
from fewshot.engines import Engine, LoopEngine, VmapEngine, gradient
from fewshot.engines.learn2learn import Learn2LearnEngine
from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods import MAML
from fewshot.networks import conv4, mlp
from methods_table import SIZE, build, maml, metagan, objective, outer_gradient
from synthetic_data import synthetic_split

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tasks(float64):
    return EpisodeSampler(synthetic_split(), 5, 2, 3, seed=0)(torch.arange(3))


def same_gradients(make, one: Engine, two: Engine, tasks) -> None:
    torch.manual_seed(0)
    a = outer_gradient(make(one), tasks)
    torch.manual_seed(0)
    b = outer_gradient(make(two), tasks)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-8, atol=1e-12, msg=name)


@pytest.mark.parametrize("engine", [LoopEngine, VmapEngine])
@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("options", [{}, {"adapt": "head"}, {"adapt": "body"}, {"steps": 5}, {"norm": "none"}])
def test_outer_gradients_equal_those_of_learn2learn(options, second_order, engine, tasks):
    same_gradients(
        lambda e: maml(e, second_order=second_order, **options), engine(), Learn2LearnEngine(), tasks
    )  # fmt: skip


def test_metagan_and_the_fully_connected_network_too(tasks):
    same_gradients(lambda e: metagan(maml, e), VmapEngine(), Learn2LearnEngine(), tasks)
    same_gradients(lambda e: maml(e, network=mlp(1, SIZE, (16, 8))), VmapEngine(), Learn2LearnEngine(), tasks)


def test_tasks_are_evaluated_alike_without_gradients(tasks):
    torch.manual_seed(0)
    method = maml(Learn2LearnEngine()).eval()
    with torch.no_grad():
        theirs = method.logits(tasks)
        method.engine = VmapEngine()
        torch.testing.assert_close(method.logits(tasks), theirs, rtol=1e-8, atol=1e-12)
    assert not theirs.requires_grad


def test_learn2learn_knows_one_rate(tasks):
    with pytest.raises(UserError, match="engine=learn2learn takes one inner rate"):
        objective(maml(Learn2LearnEngine(), learn_rates=True), tasks)


def test_learn2learn_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "learn2learn", None)
    with pytest.raises(UserError, match=r"pip install --no-deps -r requirements-learn2learn.txt"):
        Learn2LearnEngine()


def test_stand_ins_do_not_stay():
    """What learn2learn imports and nobody uses must not pass for installed afterwards."""
    code = """
import importlib.util, sys
from fewshot.engines.learn2learn import UNUSED, load_learn2learn
here = {name for name in UNUSED if importlib.util.find_spec(name)}
load_learn2learn()
assert {name for name in UNUSED if name in sys.modules} <= here
assert {name for name in UNUSED if importlib.util.find_spec(name)} == here
"""
    tree = os.environ | {"PYTHONPATH": str(ROOT / "src")}  # not an installed package
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, env=tree)


@pytest.mark.parametrize("module", ["torch._C._functorch", "torch._functorch.pyfunctorch"])
def test_a_torch_without_the_names_that_vmap_needs_is_one_line(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, ModuleType(module))
    with pytest.raises(ImportError, match=r"^fewshot works with torch 2.13 and 2.14, but .* 'torch>=2.13,<2.15'$"):
        runpy.run_path(gradient.__file__)


def test_the_bounds_of_torch_hold_the_pinned_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (bounds,) = (Requirement(text) for text in project["dependencies"] if Requirement(text).name == "torch")
    (pinned,) = re.findall(r"^torch==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert {bound.operator for bound in bounds.specifier} == {">=", "<"}
    assert pinned in bounds.specifier


@pytest.mark.parametrize("engine", [LoopEngine, VmapEngine])
def test_checkpointed_steps_give_the_same_gradients(engine, tasks):
    same_gradients(lambda e: maml(e, steps=3), engine(checkpoint=True), engine(), tasks)


def peak(steps: int, **settings) -> float:
    """The most that tensors hold at once in a meta-step of four tasks, in MB."""
    engine = VmapEngine(checkpoint=settings.pop("checkpoint", False))
    x, y = torch.rand(4, 10, 1, 28, 28), torch.arange(10).remainder(5).expand(4, 10).contiguous()
    episodes = Episode(5, x, y, x, y, torch.arange(4), torch.arange(4))
    method = MAML(conv4(1, 28), 5, 0.1, steps, steps, engine=engine, bn="transductive", **settings)

    def step() -> None:
        for chunk in method.chunks(episodes):
            engine.map_tasks(method.task_terms, chunk)["objective"].sum().backward()

    return tensor_peak_mb(step)


def test_first_order_memory_does_not_grow_with_steps():
    assert peak(10, second_order=False) < 1.1 * peak(1, second_order=False)


def test_checkpoints_save_memory_under_second_order():
    of_one = peak(10) / 4  # checkpoints take one task at a time
    assert peak(10, checkpoint=True) < 0.5 * of_one


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk": 0}, "engine.chunk=0: must be at least 1"),
        ({"chunk": 4, "checkpoint": True}, "engine.checkpoint=true takes one task at a time"),
    ],
)
def test_settings_that_cannot_be_had_are_one_line(settings, message):
    with pytest.raises(UserError, match=message):
        VmapEngine(**settings)


def test_automatic_chunk_follows_the_size_of_a_task():
    def chunk(images: int, size: int) -> int:
        episode = EpisodeSampler(synthetic_split(), 5, 2, 3, seed=0)(torch.arange(2))
        x = torch.zeros(2, images, 1, size, size)
        return VmapEngine().default_chunk(episode.with_tensors({"support_x": x, "query_x": x}), adapts=True)

    assert chunk(5, 28) == 32
    assert chunk(50, 28) == 10
    assert chunk(20, 84) == 2
    assert chunk(500, 84) == 1


@pytest.mark.parametrize("name", ["maml", "protonet"])
@pytest.mark.parametrize("within", [True, False])
def test_lower_precision_does_not_mix_types(name, within, tasks):
    """Under autocast a convolution and its gradients, taken in it or after it, see one type; statistics full ones."""
    torch.set_default_dtype(torch.float32)
    episodes = tasks.with_tensors({k: v.float() if v.is_floating_point() else v for k, v in tasks.tensors().items()})
    full = outer_gradient(build(name, VmapEngine()), episodes)
    method = build(name, VmapEngine()).train()
    with torch.autocast("cpu", dtype=torch.float16):
        loss = objective(method, episodes)
        if within:
            loss.backward()
    if not within:
        loss.backward()
    weight = next(key for key in full if key.endswith("layers.0.weight"))
    low = dict(method.named_parameters())[weight].grad
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, full[weight], rtol=0.2, atol=0.02 * float(full[weight].abs().max()))
