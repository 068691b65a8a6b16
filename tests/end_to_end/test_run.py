"""Run the command itself: its files, its messages, its exit status."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict
from PIL import Image

from fewshot import load
from fewshot.command import run_folder
from fewshot.command.paths import expand_folders
from fewshot.command.run_folder import ChooseFolder
from fewshot.errors import UserError

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


def files_below(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("name=",), "name=: must be the name of a folder"),
        (("name=null",), "name=null: must be the name of a folder"),
        (("name=../elsewhere",), "name=../elsewhere: must be the name of a folder"),
        (("-m", "name=", "seed=0,1"), "name=: must be the name of a folder"),
        (("resume=/x.ckpt",), "resume=/x.ckpt: in no run's checkpoints/; checkpoint=/x.ckpt begins a new run"),
        (("resume=Downloads/x.ckpt",), "resume=Downloads/x.ckpt: in no run's checkpoints/"),
        (("resume=Downloads/checkpoints/x.ckpt",), "in no run's checkpoints/"),
        (("resume=Downloads",), "resume=Downloads: not the folder of a run"),
        (("resume=Downloads/nested",), "resume=Downloads/nested: no checkpoint there"),
        (("data=folder", "data.root=/tmp/a=b"), """quote it for Hydra too: 'data.root="/tmp/a=b"'"""),
        (("data=folder", "data.root=/tmp/a(b"), """quote it for Hydra too: 'data.root="/tmp/a(b"'"""),
        (("data=folder", "data.root=/tmp/a,b"), """quote it for Hydra too: 'data.root="/tmp/a,b"'"""),
        (("data=folder", "data.root=/tmp/#é"), """quote it for Hydra too: 'data.root="/tmp/#é"'"""),
        (("method",), "method: must be KEY=VALUE"),
        (("task=null",), "Config group override must be a string or a list"),
    ],
)  # fmt: skip
def test_mistakes_that_are_found_before_a_folder_is_made(finished, run, tmp_path, arguments, words):
    (tmp_path / "Downloads/checkpoints").mkdir(parents=True)
    for place in ("", "checkpoints/"):
        shutil.copy(finished / "checkpoints/best.ckpt", tmp_path / f"Downloads/{place}x.ckpt")
    before = files_below(tmp_path)
    assert_one_line_error(run(*arguments), words)
    assert files_below(tmp_path) == before


def test_the_advice_on_quotes_is_right(run, tmp_path):
    assert_one_line_error(run("data=folder", 'data.root="/tmp/a=b,(#é"'), "/tmp/a=b,(#é is no folder")
    assert_one_line_error(run("data=folder", "data.root=~/nowhere"), "fewshot-cache/nowhere is no folder")


def test_runs_that_are_not_named_get_folders_of_their_own(run, tmp_path):
    """Also those that start at one time, here in one year; so do sweeps."""
    typed = ("method=nearest", "figures=false", "name=${now:%Y}", "task.val_episodes=0")
    for _ in range(2):
        assert run(*typed).returncode == 0
        assert run("-m", *typed).returncode == 0
    runs = sorted(file.parent for file in (tmp_path / "outputs").glob("*/result.json"))
    sweeps = sorted(file.parents[1] for file in (tmp_path / "multirun").glob("*/0/result.json"))
    for folders in (runs, sweeps):
        first, second = folders
        assert second.name == f"{first.name}-2"
        assert sorted(path.name for path in first.iterdir()) == sorted(path.name for path in second.iterdir())


def claimed(folder: Path, kind: str) -> str:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=["name=${now:%Y}"], return_hydra_config=True)
    with open_dict(cfg):
        cfg.hydra[kind].dir = f"{folder}/${{name}}"
    getattr(ChooseFolder(), {"run": "on_run_start", "sweep": "on_multirun_start"}[kind])(cfg)
    if kind == "sweep":
        assert f"hydra.sweep.dir={cfg.hydra.sweep.dir}" in cfg.hydra.overrides.hydra
    return cfg.hydra[kind].dir


@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_a_free_folder_is_claimed_at_once(tmp_path, kind):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: run_folder._claim(tmp_path / "raced"), range(40)))
    assert len(set(folders)) == 40
    assert [claimed(tmp_path, kind)[-2:] for _ in range(3)][1:] == ["-2", "-3"]


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_run_whose_best_weights_are_lost_is_not_trained_on(finished, run, tmp_path, damage):
    out = tmp_path / "lost"
    shutil.copytree(finished, out)
    best = out / "checkpoints/best.ckpt"
    best.unlink() if damage == "missing" else best.write_bytes(best.read_bytes()[:900])
    before = files_below(out / "checkpoints")
    done = run(f"resume={out}", "trainer.max_steps=8", small=False)
    assert_one_line_error(done, "best.ckpt", "nothing to score", f"checkpoint={out / 'checkpoints/last.ckpt'} name=")
    assert files_below(out / "checkpoints") == before
    advised = (f"checkpoint={out / 'checkpoints/last.ckpt'}", "name=new", "trainer.max_steps=2", "figures=false")
    assert run(*advised, small=False).returncode == 0
    assert result(tmp_path / "outputs/new")["train"]["steps"] == 2


def write_images(root: Path, images: int = 6) -> None:
    for number in range(9):
        folder = root / f"class{number}"
        folder.mkdir(parents=True)
        for image in range(images):
            pixels = torch.randint(0, 255, (8, 8), generator=torch.Generator().manual_seed(100 * number + image))
            Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / f"{image}.png")


def test_a_run_goes_on_after_its_images_have_moved(run, run_server, environment, tmp_path):
    """Also from another directory than that to which a relative ``data.root`` belongs."""
    write_images(tmp_path / "images")
    write_images(tmp_path / "others", images=5)
    small = ("task.ways=2", "task.train_ways=2", "task.queries=2", "task.train_queries=2", "figures=false",
             "data.image_size=8", "data.channels=1", "task.val_episodes=2", "task.test_episodes=4",
             "data.shares={train: 3, val: 3, test: 3}", "backbone=mlp", "backbone.widths=[8]")  # fmt: skip
    out = tmp_path / "out"
    typed = ("data=folder", "data.root=images", *small, "trainer.max_steps=2")
    done = run(*typed, folder=out, small=False)
    assert done.returncode == 0, done.stdout + done.stderr
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run_server.run([f"resume={out}", "trainer.max_steps=3"], elsewhere, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    moved = tmp_path / "moved"
    (tmp_path / "images").rename(moved)
    resume = (f"resume={out}", "trainer.max_steps=4")
    assert_one_line_error(run(*resume, small=False), "images is no folder", "data.root=DIR")
    other = run(*resume, f"data.root={tmp_path / 'others'}", small=False)
    assert_one_line_error(other, "holds a run on other images: train.images is 18 there and 15 here")
    done = run(*resume, "data.root=moved", small=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = result(out)
    assert told["train"]["steps"] == 4
    assert f"root: {moved}" in (out / ".hydra/config.yaml").read_text()
    done = run(*resume, "data.root=moved", small=False)
    assert "is finished: nothing to do" in done.stdout


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    cfg = OmegaConf.create({"cache_dir": "~/.cache/fewshot", "data_dir": "data"})
    with pytest.raises(UserError, match=r"cache_dir=~/.cache/fewshot: this user has no home folder: .*FEWSHOT_CACHE"):
        expand_folders(cfg)
    cfg.cache_dir = ""
    monkeypatch.setenv("HOME", "/home/me")
    expand_folders(cfg)
    assert (cfg.cache_dir, cfg.data_dir) == ("/home/me/.cache/fewshot", "data")
