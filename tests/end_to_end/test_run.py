"""The command itself: what it leaves behind, what it says, how it ends."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fewshot import load

ROOT = Path(__file__).parents[2]
SMALL = ("trainer.max_steps=6", "trainer.val_check_interval=3", "trainer.log_every_n_steps=2", "backbone.width=8",
         "task.test_episodes=20", "task.val_episodes=8", "task.meta_batch=2", "task.queries=3")  # fmt: skip


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> dict[str, str]:
    """A cache that the tests of one session share, and no trace of the user's settings."""
    cache = tmp_path_factory.getbasetemp().parent / "fewshot-cache"
    hidden = ("FEWSHOT_DATA", "WANDB_API_KEY", "WANDB_MODE", "HYDRA_FULL_ERROR")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept | {
        "FEWSHOT_CACHE": str(cache),
        "OMP_NUM_THREADS": "1",
        "HOME": str(cache),
        "PYTHONPATH": str(ROOT / "tests"),
    }


@pytest.fixture
def run(run_server, environment, tmp_path):
    def call(*arguments: str, folder: Path | None = None, small: bool = True) -> subprocess.CompletedProcess:
        where = () if "-m" in arguments or folder is None else (f"hydra.run.dir={folder}",)
        flags = [argument for argument in arguments if argument.startswith("-")]  # before all overrides
        typed = [argument for argument in arguments if argument not in flags]
        return run_server.run([*flags, *(SMALL if small else ()), *typed, *where], tmp_path, environment)

    return call


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "episodes.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def assert_one_line_error(done: subprocess.CompletedProcess, *words: str) -> None:
    assert done.returncode == 1, done.stdout + done.stderr
    text = done.stdout + done.stderr
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert all(word in line for word in words), line


@pytest.fixture(scope="session")
def finished(environment, tmp_path_factory) -> Path:
    """A small finished run of MetaGAN."""
    folder = tmp_path_factory.mktemp("finished") / "out"
    command = [sys.executable, str(ROOT / "run.py"), *SMALL, "method=metagan", f"hydra.run.dir={folder}"]
    done = subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "stdout").write_text(done.stdout)
    return folder


def test_a_run_leaves_what_the_design_lists(finished):
    files = ["result.json", "episodes.csv", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt"]
    files += ["calibration.csv", "figures/test_episodes.png"]
    files += ["figures/learning_curves.png", "figures/generated.png", ".hydra/config.yaml"]
    files += [f"figures/{name}" for name in ("confusion.png", "confusion.csv", "embedding.png")]
    files += ["figures/inner_steps.png", "figures/inner_steps.csv"]
    assert not [name for name in files if not (finished / name).is_file()]
    told = result(finished)
    assert (told["method"], told["data"], told["seed"], told["bn"]) == ("metagan", "glyphs", 0, "transductive")
    assert (told["task"]["ways"], told["task"]["shots"], told["task"]["queries"]) == (5, 1, 3)
    assert told["train"]["steps"] == 6  # meta-batches, though two optimisers stepped
    assert told["train"]["episodes"] == 12
    assert told["test"]["episodes"] == 20
    assert told["peak_memory_mb"] > 50
    accuracies = [float(row["accuracy"]) for row in rows(finished)]
    assert told["test"]["accuracy"] == pytest.approx(sum(accuracies) / 20, abs=1e-9)
    header = (finished / "metrics.csv").read_text().splitlines()[0].split(",")
    terms = ("ce_loss", "real_loss", "fake_loss", "generator_loss", "real_accuracy", "fake_accuracy")
    assert {f"train/{term}" for term in terms} | {"val/accuracy", "episodes", "seconds"} <= set(header)
    last = (finished / "stdout").read_text().strip().splitlines()[-1]
    assert f"test accuracy {100 * told['test']['accuracy']:.2f}% ± " in last
    assert str(finished) in last


def test_a_checkpoint_scored_again_gives_the_same_number(finished, run, tmp_path):
    again = tmp_path / "again"
    best = finished / "checkpoints/best.ckpt"
    done = run(f"checkpoint={best}", "train=false", "figures=false", folder=again, small=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert result(again)["test"] == result(finished)["test"]
    assert result(again)["val"]["accuracy"] == pytest.approx(result(finished)["val"]["accuracy"])
    assert result(again)["method"] == "metagan"
    assert rows(again) == rows(finished)
    # What is typed replaces what the checkpoint says.
    done = run(f"checkpoint={best}", "train=false", "task=5w5s", "task.test_episodes=10", "bn=running",
               "figures=false", folder=tmp_path / "other", small=False)  # fmt: skip
    told = result(tmp_path / "other")
    assert (told["task"]["shots"], told["task"]["queries"], told["test"]["episodes"]) == (5, 15, 10)
    assert (told["bn"], told["bn_statistics_estimated"]) == ("running", True)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("method=protonet", ("method=protonet contradicts the checkpoint", "method=metagan")),
        ("backbone=mlp", ("backbone=mlp contradicts the checkpoint",)),
        ("backbone.width=16", ("backbone.width=16 contradicts the checkpoint",)),
        ("task.ways=7", ("another network or number of classes",)),
        ("data.root=images", ("data.root: the chosen data has no such setting", "type data=NAME too")),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(finished, run, tmp_path, typed, words):
    best = finished / "checkpoints/best.ckpt"
    assert_one_line_error(run(f"checkpoint={best}", "train=false", typed, folder=tmp_path / "o", small=False), *words)


@pytest.mark.parametrize("arguments", [("method=nearest",), ("method=protonet", "backbone=mlp", "backbone.widths=[]")])
def test_a_method_with_nothing_to_train_says_so_and_leaves_a_checkpoint(run, tmp_path, arguments):
    out = tmp_path / "out"
    small = [setting for setting in SMALL if not setting.startswith("backbone")]
    done = run(*small, *arguments, folder=out, small=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "no parameter to train" in line]
    assert "trainer.max_steps" in line
    assert result(out)["train"]["steps"] == 0
    assert result(out)["checkpoint"] == "checkpoints/best.ckpt"
    assert {file.name for file in (out / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    again = tmp_path / "again"
    done = run(f"checkpoint={out}/checkpoints/best.ckpt", "train=false", folder=again, small=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no parameter to train" not in done.stdout
    assert result(again)["test"] == result(out)["test"]
    learner = load(out / "checkpoints/last.ckpt")
    images = torch.rand(10, 1, learner.image_size, learner.image_size, generator=torch.Generator().manual_seed(0))
    assert learner.fit(images, list(range(10)))(images) == list(range(10))


def test_a_damaged_checkpoint_is_refused(finished, run, tmp_path):
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes((finished / "checkpoints/best.ckpt").read_bytes()[:5000])
    assert_one_line_error(run(f"checkpoint={damaged}", "train=false", small=False), "not a readable checkpoint")


def test_the_same_command_twice_is_the_same_run(finished, run, tmp_path):
    twin = tmp_path / "twin"
    assert run("method=metagan", folder=twin).returncode == 0
    one, two = (torch.load(f / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for f in (finished, twin))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    a, b = result(finished), result(twin)
    for told in (a, b):
        del told["path"], told["peak_memory_mb"], told["train"]["seconds"], told["train"]["episodes_per_second"]
    assert a == b
    assert rows(twin) == rows(finished)


def test_a_sweep_goes_on_after_a_failure_and_reports(finished, run, tmp_path):
    sweep = tmp_path / "sweep"
    done = run("-m", "method=protonet,nearest", "task.ways=5,999", "seed=3", f"hydra.sweep.dir={sweep}")
    assert done.returncode == 1, done.stdout + done.stderr
    report = (sweep / "report.md").read_text()
    assert report.count("999 ways") == 2
    assert "nearest" in report
    with (sweep / "report.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert len(table) == 4
    files = ("accuracies.png", "report.html", "report.tex", "figures/validation.png", "figures/calibration.png")
    assert not [name for name in files if not (sweep / name).is_file()]
    # Test episodes are the same whatever the method, the training seed and the batch.
    prints = [[row["fingerprint"] for row in rows(f)] for f in (finished, sweep / "0", sweep / "2")]
    assert prints[0] == prints[1] == prints[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("task.ways=999",), ("999 ways", "glyphs/val has")),
        (("task.queries=30",), ("1 shots + 30 queries", "20 images", "lower task.shots or task.queries")),
        (("bn=sometimes",), ("bn=sometimes: choose one of",)),
        (("method=maml", "method.inner_rate=banana"), ("method.inner_rate=banana: must be a number of at least 0",)),
        (("trainer.max_steps=abc",), ("trainer.max_steps=abc: must be a whole number",)),
        (("method=maml", "method.adapt=tail"), ("method.adapt=tail: choose one of",)),
        (("method=maml", "task.train_ways=7"), ("5 outputs, but a task has 7 ways",)),
        (("data=omniglot", "+data.dataset.download=false"), ("images_background.zip",)),
        (("method=maml", "method.inner_rate=1e30"), ("not finite at step 0",)),
    ],
)  # fmt: skip
def test_mistakes_get_one_line(run, tmp_path, arguments, words):
    assert_one_line_error(run(*arguments, folder=tmp_path / "out"), *words)


def test_an_unknown_method_gets_hydras_message(run):
    done = run("method=nosuch")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "protonet" in done.stderr


def test_an_output_folder_that_cannot_be_made(run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = run(folder=tmp_path / "file" / "out")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert "file" in done.stderr


def test_a_diverging_loss_keeps_the_last_good_checkpoint(run, tmp_path):
    """The rate explodes after the first validation: its checkpoint stays, and holds finite weights."""
    out = tmp_path / "out"
    done = run("method=protonet", "method.schedule._target_=failing_callback.after_three", folder=out)
    assert_one_line_error(done, "not finite at step")
    weights = torch.load(out / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in weights.values())


def test_ctrl_c_leaves_a_checkpoint_and_130(run_server, environment, tmp_path):
    out = tmp_path / "out"
    process = run_server.start([*SMALL, "trainer.max_steps=100000", f"hydra.run.dir={out}"], tmp_path, environment)
    deadline = time.time() + 120
    while not (out / "checkpoints/last.ckpt").exists() and time.time() < deadline:
        time.sleep(0.2)
    before = (out / "checkpoints/last.ckpt").stat().st_mtime_ns
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert (out / "checkpoints/last.ckpt").stat().st_mtime_ns > before
    assert torch.load(out / "checkpoints/last.ckpt", weights_only=True)["global_step"] > 0
