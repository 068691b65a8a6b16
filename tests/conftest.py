"""Fixtures for all tests: a small made-up data set, one thread a worker, no cache of the user's."""

import os

# Two workers with all cores each would wait for one another; before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from fewshot.threads import waiting_variables

os.environ.update(waiting_variables(os.environ))

import pytest
import torch

from fewshot.data.sampler import EpisodeSampler
from fewshot.data.split import Split
from fewshot.episode import Episode
from run_server import RunServer
from synthetic_data import synthetic_split

torch.set_num_threads(1)


@pytest.fixture
def split() -> Split:
    return synthetic_split()


@pytest.fixture
def episodes(split: Split) -> Episode:
    """Four 5-way 2-shot tasks with 3 queries a class, in the default dtype."""
    return EpisodeSampler(split, 5, 2, 3, seed=0)(torch.arange(4))


@pytest.fixture
def float64():
    """Everything in double precision, for comparisons with the truth."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def run_server():
    """Runs the command; see ``RunServer.run``."""
    held = RunServer()
    yield held
    held.close()
