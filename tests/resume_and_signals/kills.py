"""Kill runs at random moments, resume, and compare with whole runs.

python tests/resume_and_signals/kills.py [NUMBER [SEED]]      # twenty kills over all methods
"""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "src"))  # also as a script

from methods_table import RECIPES, TRAINED
from run_server import RUN, ForkedProcess, RunServer

METHODS = [name for name in TRAINED if name in RECIPES]
# Neither the interval of validation nor that of logging divides the budget.
SMALL = ("trainer.max_steps=14", "trainer.val_check_interval=3", "trainer.log_every_n_steps=2", "backbone.width=8",
         "task.test_episodes=20", "task.val_episodes=8", "task.meta_batch=2", "task.queries=3",
         "task.unlabeled=2")  # fmt: skip
TIMES = {"seconds", "episodes_per_second"}


def start(server: RunServer, folder: Path, *arguments: str) -> ForkedProcess:
    """Start a run in ``folder``."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return server.start([*SMALL, f"hydra.run.dir={folder}", *arguments], folder.parent, environment)


def start_python(server: RunServer, folder: Path, *arguments: str) -> subprocess.Popen:
    """Start a run in ``folder`` without the server, as a user does."""
    command = [sys.executable, str(RUN), *SMALL, f"hydra.run.dir={folder}", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder.parent, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes)


def finish(process: ForkedProcess | subprocess.Popen) -> str:
    """Return the output of a run that ends well."""
    text, _ = process.communicate(timeout=600)
    assert process.returncode == 0, text
    return text


def reference(server: RunServer, folder: Path, *arguments: str) -> float:
    """Run without a kill; return the seconds."""
    begin = time.perf_counter()
    finish(start(server, folder, *arguments))
    return time.perf_counter() - begin


def kill_and_resume(
    server: RunServer, folder: Path, after: float, *arguments: str, number: int = signal.SIGKILL
) -> str:
    """Start, kill after some seconds, resume by the same command; return the output of the second run."""
    process = start(server, folder, "resume=auto", *arguments)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    process.communicate(timeout=120)
    return finish(start(server, folder, "resume=auto", *arguments))


def assert_same(one: Path, two: Path) -> None:
    """Compare weights and test scores bit by bit, and all results but times, memory and paths."""
    for name in ("best", "last"):
        stored = [torch.load(out / f"checkpoints/{name}.ckpt", weights_only=True) for out in (one, two)]
        assert stored[0]["global_step"] == stored[1]["global_step"]
        weights = [content["state_dict"] for content in stored]
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items()), name
    for name in ("episodes.csv", "calibration.csv"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    told = [_result(out) for out in (one, two)]
    assert told[0] == told[1], {
        key: (value, told[1].get(key)) for key, value in told[0].items() if value != told[1].get(key)
    }
    curves = [_curves(out) for out in (one, two)]
    assert curves[0] == curves[1]
    assert {file.name for file in (one / "figures").iterdir()} == {file.name for file in (two / "figures").iterdir()}


def _result(out: Path) -> dict:
    told = json.loads((out / "result.json").read_text())
    del told["path"], told["peak_memory_mb"]
    told["overrides"] = [override for override in told["overrides"] if not override.startswith("hydra.run.dir")]
    told["train"] = {name: value for name, value in told["train"].items() if name not in TIMES}
    return told


def _curves(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="") as stream:
        rows = [
            {name: value for name, value in row.items() if name not in TIMES and value}
            for row in csv.DictReader(stream)
        ]
    return sorted((row for row in rows if len(row) > 1), key=lambda row: (int(row["step"]), sorted(row)))


def kill_at_random(server: RunServer, folder: Path, number: int, seed: int = 0) -> str:
    """Kill a run at a random moment, resume, and compare with a whole run."""
    method = METHODS[number % len(METHODS)]
    seconds = reference(server, folder / "whole", f"method={method}")
    after = random.Random(f"{seed} {number}").uniform(0.1, 1) * seconds
    said = kill_and_resume(server, folder / "killed", after, f"method={method}")
    assert_same(folder / "whole", folder / "killed")
    went_on = next((line for line in said.splitlines() if "going on" in line or "finished" in line), "anew")
    return f"{number + 1}. {method} killed after {after:.1f} s of {seconds:.1f}: {went_on}"


def main(kills: int = 20, seed: int = 0) -> None:
    """Print the moment of each of ``kills`` kills, a method after the other."""
    with closing(RunServer()) as server:
        for number in range(kills):
            with TemporaryDirectory() as folder:
                print(kill_at_random(server, Path(folder), number, seed), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
