"""Kill runs at random moments, go on with them, and compare with runs that nobody killed.

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
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "src"))  # also as a script

from methods_table import RECIPES, TRAINED

ROOT = Path(__file__).parents[2]
METHODS = [name for name in TRAINED if name in RECIPES]
# Neither the interval of validation nor that of logging divides the budget.
SMALL = ("trainer.max_steps=14", "trainer.val_check_interval=3", "trainer.log_every_n_steps=2", "backbone.width=8",
         "task.test_episodes=20", "task.val_episodes=8", "task.meta_batch=2", "task.queries=3",
         "task.unlabeled=2")  # fmt: skip
TIMES = {"seconds", "episodes_per_second"}


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = (sys.executable, str(ROOT / "run.py"), *SMALL, f"hydra.run.dir={folder}", *arguments)
    return subprocess.Popen(
        command, cwd=folder.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen) -> str:
    text, _ = process.communicate(timeout=600)
    assert process.returncode == 0, text
    return text


def reference(folder: Path, *arguments: str) -> float:
    """A run that nobody kills; its seconds."""
    begin = time.perf_counter()
    finish(start(folder, *arguments))
    return time.perf_counter() - begin


def kill_and_resume(folder: Path, after: float, *arguments: str, number: int = signal.SIGKILL) -> str:
    """Start, kill ``after`` so many seconds, go on with the same command; what the second run said."""
    process = start(folder, "resume=auto", *arguments)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    process.communicate(timeout=120)
    return finish(start(folder, "resume=auto", *arguments))


def assert_same(one: Path, two: Path) -> None:
    """Bit-equal weights and test scores; all else but times, memory and paths; the curves."""
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


def main(number: int = 20, seed: int = 0) -> None:
    draw = random.Random(seed)
    with TemporaryDirectory() as temporary:
        seconds: dict[str, float] = {}
        for kill in range(number):
            method = METHODS[kill % len(METHODS)]
            plain = Path(temporary) / method
            if method not in seconds:
                seconds[method] = reference(plain, f"method={method}")
            after = draw.uniform(0.3, 1) * seconds[method]  # importing takes the first third
            killed = Path(temporary) / f"{method}-{kill}"
            said = kill_and_resume(killed, after, f"method={method}")
            assert_same(plain, killed)
            went_on = next((line for line in said.splitlines() if "going on" in line or "finished" in line), "anew")
            print(f"{kill + 1}. {method} killed after {after:.1f} s of {seconds[method]:.1f}: {went_on}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
