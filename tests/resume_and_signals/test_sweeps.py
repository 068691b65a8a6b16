"""Sweeps in parallel, and searches that are killed."""

import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path

import optuna
import pytest
import torch

from fewshot.command import devices
from run_server import ForkedProcess

SMALL = ("trainer.max_steps=4", "trainer.val_check_interval=2", "backbone.width=8", "task.test_episodes=8",
         "task.val_episodes=8", "task.meta_batch=2", "task.queries=3", "figures=false", "name=sweep")  # fmt: skip
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
OPTUNA = ("hydra/sweeper=optuna", "method.optimizer.lr=tag(log, interval(1e-4, 1e-1))", "task.train_ways=range(5, 9)")


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    cache = tmp_path_factory.getbasetemp().parent / "fewshot-cache"
    shared = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return shared | {"FEWSHOT_CACHE": str(cache)}


@pytest.fixture
def sweep(run_server, environment, tmp_path):
    def call(*arguments: str) -> subprocess.CompletedProcess:
        return run_server.run(("-m", *SMALL, *arguments), tmp_path, environment)

    return call


@pytest.fixture
def started(run_server, environment, tmp_path):
    def call(*arguments: str) -> ForkedProcess:
        return run_server.start(("-m", *SMALL, *arguments), tmp_path, environment)

    return call


def results(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in (folder / "multirun/sweep").glob("*/result.json")}


@pytest.mark.thorough
def test_runs_in_parallel_share_the_cores_and_are_not_repeated(sweep, tmp_path):
    """One that fails stops neither the others nor the report."""
    arguments = (*JOBLIB, "method=protonet,nearest", "task.ways=5,999")
    done = sweep(*arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "schema" not in done.stderr
    assert done.stdout.count("error: ") == 2
    assert "#1 error: " in done.stdout
    finished = results(tmp_path)
    told = {json.loads(file.read_text())["method"]: json.loads(file.read_text()) for file in finished}
    assert set(told) == {"protonet", "nearest"}
    if not torch.cuda.is_available():
        share = max(1, len(os.sched_getaffinity(0)) // 2)
        assert told["protonet"]["device"] == f"cpu ({share} threads)"
    report = tmp_path / "multirun/sweep/report.html"
    assert "999 ways" in report.read_text()
    done = sweep(*arguments, "hydra.launcher.n_jobs=1")  # saves the imports of two workers
    assert done.stdout.count("is finished: nothing to do") == 2
    assert results(tmp_path) == finished


@pytest.mark.thorough
def test_a_signal_stops_all_workers_with_their_checkpoints(started, tmp_path):
    process = started(*JOBLIB, "seed=0,1,2", "trainer.max_steps=100000")
    assert process.stdout is not None
    waits = {"#0 step", "#1 step"}
    for line in process.stdout:
        waits -= {line[:7]}
        if not waits:
            process.terminate()
            break
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 143, text
    assert text.count("stopped by SIGTERM") == 2
    assert "Traceback" not in text
    folder = tmp_path / "multirun/sweep"
    assert {file.parents[1].name for file in folder.glob("*/checkpoints/last.ckpt")} == {"0", "1"}
    assert not list(folder.glob("*/result.json"))


@pytest.mark.thorough
def test_a_killed_worker_ends_its_own_run_only(started, sweep, tmp_path):
    """The table names the killed run; started again, the sweep goes on with it."""
    runs = ("method=protonet,nearest", "seed=0,1", "trainer.max_steps=30", "trainer.val_check_interval=10")
    process = started(*JOBLIB, *runs)
    folder = tmp_path / "multirun/sweep"
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("#0 step 20"):
            os.kill(int((folder / "0/.lock").read_text()), signal.SIGKILL)
    assert process.wait(300) == 1
    assert "Traceback" not in "".join(lines)
    (error,) = [line for line in lines if "error: " in line]
    assert "#0 error: " in error
    assert "its process was killed" in error
    assert all(setting in error for setting in ("method=protonet", "seed=0"))
    finished = results(tmp_path)
    assert {file.parent.name for file in finished} == {"1", "2", "3"}
    assert "its process was killed" in (folder / "report.csv").read_text()
    done = sweep("hydra/launcher=basic", *runs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on from step" in done.stdout
    assert results(tmp_path).items() >= finished.items()
    assert len(results(tmp_path)) == 4
    assert not (folder / "0/error.txt").exists()


@pytest.mark.thorough
def test_a_killed_search_runs_the_trials_that_are_missing(started, sweep, tmp_path):
    total = ("hydra.sweeper.n_trials=4",)
    process = started(*OPTUNA, *total)
    assert process.stdout is not None
    tested = 0
    for line in process.stdout:
        tested += line.startswith("test accuracy")
        if tested == 2:
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.communicate(timeout=60)
    finished = results(tmp_path)
    assert len(finished) in (2, 3)
    done = sweep(*OPTUNA, *total)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 trials are complete" in done.stdout
    assert results(tmp_path).items() >= finished.items()
    storage = f"sqlite:///{tmp_path / 'multirun/sweep/study.db'}"
    study = optuna.load_study(study_name="search", storage=storage)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    accuracies = [json.loads(file.read_text())["val"]["accuracy"] for file in results(tmp_path)]
    assert max(accuracies) == study.best_value
    done = sweep(*OPTUNA, *total, "trainer.max_steps=6")
    assert done.returncode == 1
    assert "trainer.max_steps is 4 there and 6 here; choose another name" in done.stderr
    assert "Traceback" not in done.stderr


def test_submitit_runs_the_same_command(sweep, tmp_path):
    done = sweep("hydra/launcher=submitit_local", "method=nearest")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(results(tmp_path)) == 1
    assert (tmp_path / "multirun/sweep/report.html").is_file()
    (output,) = (tmp_path / "multirun/sweep/.submitit").glob("*/*.out")
    assert "test accuracy" in output.read_text()


@pytest.mark.parametrize(
    ("wanted", "jobs", "gpus", "cores", "count"),
    [(-1, 4, 0, 16, 4), (-1, 40, 0, 16, 16), (-1, 40, 1, 16, 16), (-1, 40, 8, 16, 8), (-2, 40, 0, 16, 15),
     (3, 40, 8, 16, 3), (3, 1, 0, 16, 1), (-9, 5, 0, 2, 1)],
)  # fmt: skip
def test_there_are_no_more_workers_than_jobs_or_gpus(wanted, jobs, gpus, cores, count):
    assert devices.workers(wanted, jobs, gpus, cores) == count


def test_each_process_claims_a_gpu_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,MIG-a/b")
    gpus = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    assert devices.claim(gpus[:1], 0) is None
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,MIG-a/b"
    assert [devices.claim(gpus, number) for number in (5, 5, 5, 6)] == ["2", "MIG-a/b", "MIG-a/b", "2"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    assert devices.gpus() == ["4", "5", "7"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert devices.gpus() == ["0", "1", "2"]
