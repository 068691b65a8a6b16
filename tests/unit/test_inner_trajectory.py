"""Predictions after each inner step are those of fits of so many steps."""

from functools import partial

import pytest
import torch

from fewshot.data import EpisodeSampler
from fewshot.engines import LoopEngine, VmapEngine
from fewshot.engines.learn2learn import Learn2LearnEngine
from fewshot.methods.inner_trajectory import adapting_method, logits_by_step
from methods_table import ROWS, WAYS, build
from synthetic_data import synthetic_split

ADAPTING = [row.name for row in ROWS if row.adapts and not row.generated]
STEPS = (0, 1, 3, 6)


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def episodes():
    sampler = EpisodeSampler(synthetic_split(), WAYS, shots=1, queries=2, seed=0, unlabeled=2)
    return sampler(torch.arange(3))


def one_rate(name):
    """Whether the method has one inner rate, the only kind that learn2learn knows."""
    return name != "meta_sgd"


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        (name, engine)
        for name in ADAPTING
        for engine in ("vmap", "loop", "learn2learn")
        if engine != "learn2learn" or one_rate(name)
    ],
)
def test_a_trajectory_passes_through_the_fits_of_every_length(name, engine):
    engine = {"vmap": partial(VmapEngine, 2), "loop": LoopEngine, "learn2learn": Learn2LearnEngine}[engine]()
    method = build(name, engine).eval()
    host, tasks, state = adapting_method(method), episodes(), torch.get_rng_state()
    before = host.test_steps
    with torch.no_grad():
        found = logits_by_step(method, tasks, STEPS)
        assert torch.equal(torch.get_rng_state(), state)
        assert (host.test_steps, host.engine) == (before, engine)
        assert found.shape == (3, len(STEPS), 2 * WAYS, WAYS)
        for place, steps in enumerate(STEPS):
            host.test_steps = steps
            torch.testing.assert_close(found[:, place], method.logits(tasks), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(found[:, 0], found[:, -1])


@pytest.mark.parametrize("name", [row.name for row in ROWS if not row.adapts])
def test_methods_without_an_inner_loop_have_none(name):
    assert adapting_method(build(name, VmapEngine())) is None


def test_a_failure_on_the_way_leaves_the_method_as_it_was(monkeypatch):
    engine = LoopEngine()
    method = build("maml", engine).eval()
    monkeypatch.setattr(method, "predictor", lambda episode: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        logits_by_step(method, episodes(), STEPS)
    assert (method.test_steps, method.engine) == (3, engine)
