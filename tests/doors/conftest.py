"""A small finished run, and its checkpoint changed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

TINY = (
    "data=gaussians", "backbone=mlp", "backbone.widths=[4]", "trainer.max_steps=2", "trainer.val_check_interval=1",
    "trainer.log_every_n_steps=1", "task.test_episodes=4", "task.val_episodes=2", "task.meta_batch=1",
    "task.queries=2", "task.train_ways=5", "figures=false",
)  # fmt: skip


@pytest.fixture(scope="session")
def tiny_run(run_server, tmp_path_factory) -> Path:
    """The folder of a finished run of prototypical networks on points of the plane."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    done = run_server.run([*TINY, f"hydra.run.dir={folder}"], folder.parent, os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def changed(tiny_run, tmp_path) -> Callable[..., Path]:
    """Copy the run, and change the content of its checkpoint; the file."""

    def make(change: Callable[[dict[str, Any]], object], name: str = "changed") -> Path:
        folder = tmp_path / name
        shutil.copytree(tiny_run, folder)
        (folder / "checkpoints/previous.ckpt").unlink()
        (folder / "result.json").unlink()
        content = torch.load(tiny_run / "checkpoints/last.ckpt", weights_only=True)
        replaced = change(content)
        file = folder / "checkpoints/last.ckpt"
        torch.save(replaced if isinstance(replaced, dict | list) else content, file)
        return file

    return make
