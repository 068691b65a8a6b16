"""Runs on a network that comes trained: features once, the same scores without them, mistakes in one line."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

import fewshot

# Seven classes of eight photographs.
PHOTOS = (
    "data=folder", "data.root=photos", "data.shares={train:2,test:5}", "backbone=efficientnet_lite0", "task=5w1s",
    "task.queries=4", "task.test_episodes=30", "task.val_episodes=0", "figures=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(photos, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    for label in sorted(photos.iterdir())[:7]:
        (folder / "photos" / label.name).mkdir(parents=True)
        for file in sorted(label.iterdir())[:8]:
            shutil.copy(file, folder / "photos" / label.name)
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    return dict(os.environ) | {"FEWSHOT_CACHE": str(tmp_path_factory.mktemp("cache")), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def run(run_server, folder, environment):
    def command(name: str, *arguments: str):
        done = run_server.run([*arguments, f"hydra.run.dir={folder}/{name}"], folder, environment)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr, folder / name

    return command


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def finished(run):
    status, text, folder = run("finished", *PHOTOS, "method=protonet", "data.channels=1", "data.mean=0.3")
    assert status == 0, text
    return folder, text


def test_a_run_computes_features_once_and_says_what_it_ignores(finished, run):
    folder, text = finished
    assert "features are computed once, by efficientnet_lite0" in text
    assert "data.channels=1: efficientnet_lite0 takes colours, so grey images are converted" in text
    assert "data.mean=0.3: not used, since efficientnet_lite0 brings its own preprocessing" in text
    assert "no parameter to train" in text
    told = result(folder)
    assert (told["bn"], told["pretrained"]) == ("frozen", "efficientnet_lite0")
    assert told["test"]["accuracy"] > 0.6
    status, text, again = run("again", *PHOTOS, "method=protonet")
    assert status == 0
    assert "computed once" not in text
    assert result(again)["test"] == told["test"]


@pytest.mark.thorough
def test_scores_are_the_same_without_features(finished, run):
    status, text, direct = run("direct", *PHOTOS, "method=protonet", "data.features=false", "task.test_episodes=6")
    assert status == 0, text
    assert "features of efficientnet_lite0 are computed anew in each task: data.features=false" in text
    once, anew = ((path / "episodes.csv").read_text().splitlines()[:7] for path in (finished[0], direct))
    assert once == anew


def test_the_checkpoint_scores_again_and_labels_files(finished, run, folder):
    out, _ = finished
    checkpoint = f"{out}/checkpoints/last.ckpt"
    status, text, again = run("scored", f"checkpoint={checkpoint}", "train=false")
    assert status == 0, text
    assert result(again)["test"] == result(out)["test"]
    files = sorted((folder / "photos").glob("*/*.jpg"))
    labels = [file.parent.name for file in files]
    support = [place for place in range(len(files)) if place % 8 < 3]
    queries = [place for place in range(len(files)) if place % 8 >= 3]
    predict = fewshot.load(checkpoint).fit([files[place] for place in support], [labels[place] for place in support])
    predicted = predict([files[place] for place in queries])
    right = [told == labels[place] for told, place in zip(predicted, queries, strict=True)]
    assert sum(right) / len(right) > 0.85


def test_a_checkpoint_reads_no_weights_that_its_settings_name(finished, tmp_path):
    content = torch.load(finished[0] / "checkpoints/last.ckpt", weights_only=True)
    content["settings"] = content["settings"].replace("weights: package", f"weights: {tmp_path}/absent.pth")
    torch.save(content, tmp_path / "other.ckpt")
    assert fewshot.load(tmp_path / "other.ckpt").method.network.features == 1280


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("method=relation",), "method.norm follows backbone.norm, which backbone=efficientnet_lite0 does not have"),
        (("backbone=timm", "backbone.name=resnet81"), "timm has no such network; the nearest names are"),
        (("backbone=timm",), "backbone.name=null: name a network of timm"),
        (("backbone=timm", "backbone.name=resnet18", "backbone.weights=absent.pth"), "no such file; must be a"),
        (("backbone.weights=hub",), "backbone.weights=hub: choose package or null"),
        (("backbone.crop=2",), "backbone.crop=2: must be a number above 0 to 1"),
        (("method=metagan_protonet",), "the host of MetaGAN has no parameter to train"),
    ],
)
def test_mistakes_get_one_line(run, arguments, words):
    status, text, _ = run("mistake", *PHOTOS, *arguments)
    assert status == 1
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert words in line


def journal_has_images(cache: Path) -> bool:
    """Return whether the journal of a computation has a line after its first."""
    return any(journal.read_text().count("\n") > 1 for journal in cache.glob(".*features*.journal"))


@pytest.mark.thorough
def test_a_killed_computation_goes_on(run_server, folder, environment, tmp_path):
    cold = environment | {"FEWSHOT_CACHE": str(tmp_path)}
    arguments = [*PHOTOS, "method=protonet", "data.shares={train:1,test:6}", f"hydra.run.dir={tmp_path}/out"]
    arguments += ["data.root=" + str(folder / "photos")]
    for label in sorted((folder / "photos").iterdir()):
        for file in sorted(label.iterdir()):
            for copy in range(3):
                shutil.copy(file, label / f"copy{copy}_{file.name}")
    try:
        process = run_server.start(arguments, folder, cold)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not journal_has_images(tmp_path):
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
        assert not list(tmp_path.glob("*features*.json"))
        done = run_server.run(arguments, folder, cold)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "have their features already: going on" in done.stdout + done.stderr
    finally:
        for file in (folder / "photos").glob("*/copy*"):
            file.unlink()
