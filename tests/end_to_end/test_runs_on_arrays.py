"""Features of any field: train on rows of an ``.npz`` file, and label other rows."""

import json
import os
import re

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_iris
from sklearn.neighbors import NearestCentroid

import fewshot
from fewshot.classify import main
from fewshot.errors import UserError

DIGITS = (
    "data=arrays", "data.root=digits.npz", "data.shares={train:0.4,val:0.3,test:0.3}", "task=3w5s",
    "task.train_ways=3", "trainer.max_steps=60", "trainer.val_check_interval=60", "trainer.log_every_n_steps=60",
    "task.test_episodes=30", "task.val_episodes=10", "figures=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(run_server, tmp_path_factory):
    """Return a function that runs a command beside digits.npz, and returns its status, last line and folder."""
    folder = tmp_path_factory.mktemp("arrays")
    digits = load_digits()
    np.savez(folder / "digits.npz", x=digits.data, y=digits.target)
    np.savez_compressed(folder / "images.npz", x=digits.images[:, None].astype(np.float32), y=digits.target.astype(str))
    pixels = (digits.images * 255 / 16).astype(np.uint8)
    np.savez(folder / "pixels.npz", x=pixels[:, None].repeat(4, axis=1), y=digits.target)
    iris = load_iris()
    np.savez(folder / "iris.npz", x=iris.data, y=iris.target_names[iris.target])

    def command(name: str, *arguments: str):
        done = run_server.run([*arguments, f"hydra.run.dir={folder}/{name}"], folder, os.environ)
        assert "Traceback" not in done.stderr
        return done.returncode, [*done.stdout.splitlines(), *done.stderr.splitlines()][-1], folder / name

    return command


@pytest.fixture(scope="module")
def trained(run):
    """Return the folder of a prototypical network that was trained on digits as rows of 64 numbers."""
    status, line, folder = run("trained", *DIGITS, "method=protonet", "backbone=mlp")
    assert status == 0, line
    return folder


def result(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize(
    ("method", "least"),
    [("maml backbone=mlp", 0.6), ("maml backbone=identity data.std=16", 0.6),
     ("nearest", 0.8), ("ridge backbone=identity", 0.8)],
)  # fmt: skip
@pytest.mark.thorough
def test_methods_are_above_chance(run, method, least):
    status, line, folder = run(re.sub(r"\W", "_", method), *DIGITS, *f"method={method}".split())
    assert status == 0, line
    assert result(folder)["test"]["accuracy"] > least


@pytest.mark.filterwarnings("ignore:self.within_class_std_dev_")
@pytest.mark.thorough
def test_class_means_of_features_are_those_of_scikit_learn(run):
    """Where nothing is trained, a task is nearest centroids on the rows themselves."""
    status, line, folder = run("identity", *DIGITS, "method=protonet", "backbone=identity")
    assert status == 0, line
    learner = fewshot.load(folder / "checkpoints" / "best.ckpt")
    x, y = load_digits(return_X_y=True)
    fitted = learner.fit(x[:100], y[:100])
    assert fitted(x[100:300]) == NearestCentroid().fit(x[:100], y[:100]).predict(x[100:300]).tolist()


@pytest.mark.thorough
def test_images_of_any_numbers_and_channels_are_trained_on(run):
    for file, more in (("images", ()), ("pixels", ("figures=true",))):
        root = [setting if "root" not in setting else f"data.root={file}.npz" for setting in DIGITS]
        status, line, folder = run(file, *root, *more, "method=protonet", "backbone.depth=3", "backbone.width=16")
        assert status == 0, line
        assert result(folder)["test"]["accuracy"] > 0.5
    learner = fewshot.load(folder / "checkpoints" / "best.ckpt")
    pixels = np.load(folder.parent / "pixels.npz")["x"][:20]
    assert learner.read(pixels).dtype == torch.uint8
    with pytest.raises(UserError, match="takes arrays of 4 channels, not image files"):
        learner.read(["a.png"])


def test_a_trained_network_labels_rows(trained):
    assert result(trained)["test"]["accuracy"] > 0.5
    learner = fewshot.load(trained / "checkpoints" / "best.ckpt")
    x, y = load_digits(return_X_y=True)
    fitted = learner.fit(x[:100], y[:100])
    assert np.mean(np.array(fitted(x[100:400])) == y[100:400]) > 0.5
    assert torch.equal(fitted.probabilities(x[100:130]), fitted.probabilities(torch.as_tensor(x[100:130])))
    embedding = learner.method.backbone.eval()(torch.as_tensor(x[:5], dtype=torch.float32)[:, :, None, None])
    assert torch.equal(embedding, learner.method.backbone(learner.pixels(x[:5])))  # used without scaling
    with pytest.raises(UserError, match="views=2 changes images, not features"):
        learner.fit(x[:100], y[:100], views=2)
    with pytest.raises(UserError, match=r"the rows are \(100, 63\), but the network takes \(M, 64\)"):
        learner.fit(x[:100, 1:], y[:100])


def test_images_are_refused_by_a_network_of_features(trained, tmp_path, capsys):
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    checkpoint = trained / "checkpoints" / "best.ckpt"
    assert main([f"checkpoint={checkpoint}", f"support={tmp_path}", f"query={tmp_path}"]) == 1
    assert "error: this network takes features, not image files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "typed", "message"),
    [("iris", "data.root=iris.npz", "3 ways, but arrays/train has 1 class.*: a task needs at least 2, add classes"),
     ("absent", "data.root=nowhere.npz", "nowhere.npz cannot be read"),
     ("convolving", "backbone=conv4", "the data are features or points .*: choose backbone=mlp or backbone=identity")],
)  # fmt: skip
def test_mistakes_end_in_one_line(run, name, typed, message):
    settings = dict(setting.split("=", 1) for setting in (*DIGITS, "backbone=mlp", typed))
    status, line, _ = run(name, *(f"{key}={value}" for key, value in settings.items()))
    assert status == 1
    assert line.startswith("error: ")
    assert re.search(message, line), line


@pytest.mark.thorough
def test_a_checkpoint_goes_with_rows_of_its_own_shape(run, trained):
    again = f"checkpoint={trained}/checkpoints/best.ckpt", "train=false"
    status, line, folder = run("again", *again)
    assert status == 0, line
    assert result(folder)["test"]["accuracy"] == result(trained)["test"]["accuracy"]
    status, line, _ = run("other", *again, "data=arrays", "data.root=iris.npz")
    assert status == 1
    assert "is of another network" in line
    status, line, _ = run("another", *again, "++data.root=iris.npz")
    assert status == 1
    assert "data.channels=64 contradicts" in line
