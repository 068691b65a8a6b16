"""Provide a small synthetic data set, one thread for each worker and a server of commands."""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

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
    """Return 30 synthetic classes."""
    return synthetic_split()


@pytest.fixture
def episodes(split: Split) -> Episode:
    """Return four 5-way 2-shot tasks with 3 queries per class, in the default dtype."""
    return EpisodeSampler(split, 5, 2, 3, seed=0)(torch.arange(4))


@pytest.fixture
def float64() -> Iterator[None]:
    """Compute in double precision, for comparisons with exact values."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def run_server() -> Iterator[RunServer]:
    """Provide the process that starts commands without their imports."""
    server = RunServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 25 classes of 35 photographs each."""
    archive = Path(__file__).parents[2] / "shared" / "data" / "photos" / "photos.zip"
    if not archive.exists():
        pytest.skip("needs ../shared/data/photos")
    folder = tmp_path_factory.mktemp("photos")
    with zipfile.ZipFile(archive) as stream:
        stream.extractall(folder)
    return folder
