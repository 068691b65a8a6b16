"""Checkpoints of format 1, as commit 35d2c0a wrote them, work as if written today.

``format_1/METHOD.yaml`` is the text of the settings in such a checkpoint, ``METHOD.keys`` the names of its weights.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import fewshot
from fewshot import checkpoint
from fewshot.allow_list import build
from fewshot.old_checkpoints import upgrade_settings, upgrade_weights
from fewshot.stored_settings import Resolver, parse

FOLDER = Path(__file__).parent / "format_1"
STORED = sorted(file.stem for file in FOLDER.glob("*.yaml"))
MOVED = {
    "fewshot.inner.VmapEngine": "fewshot.engines.VmapEngine",
    "fewshot.inner.learn2learn.Learn2LearnEngine": "fewshot.engines.learn2learn.Learn2LearnEngine",
    "fewshot.networks.blog.classifier_body": "fewshot.networks.keras_metagan.classifier_body",
    "fewshot.networks.blog.generator": "fewshot.networks.keras_metagan.generator",
    "fewshot.networks.blog.task_encoder": "fewshot.networks.keras_metagan.task_encoder",
    "fewshot.networks.learn2learn.omniglot_cnn": "fewshot.networks.l2l_omniglot.omniglot_cnn",
    "fewshot.networks.learn2learn.omniglot_fc": "fewshot.networks.l2l_omniglot.omniglot_fc",
    "fewshot.parallel.TaskParallel": "fewshot.distributed.TaskParallel",
    "fewshot.loggers.wandb_logger": "fewshot.loggers.Wandb",
    "fewshot.methods.MAML": "fewshot.methods.MAML",
    "torch.optim.Adam": "torch.optim.Adam",
}


def text(name: str) -> str:
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("old", MOVED)
def test_names_that_moved_are_found(old: str) -> None:
    assert upgrade_settings({"x": {"_target_": old}}) == {"x": {"_target_": MOVED[old]}}
    assert upgrade_settings({"x": {"_target_": MOVED[old]}}) == {"x": {"_target_": MOVED[old]}}


@pytest.mark.parametrize("name", STORED)
def test_an_old_checkpoint_is_read_and_built(name: str, tmp_path: Path) -> None:
    """Its weights, under the old names, are those of the method that is built."""
    settings = upgrade_settings(parse(text(name)))
    torch.manual_seed(0)
    method = build(Resolver(settings).resolve(settings["method"], ("method",)))
    old_names = (FOLDER / f"{name}.keys").read_text().split()
    new_names = upgrade_weights(dict.fromkeys(old_names), settings["method"])
    for layer in method.modules():
        if isinstance(layer, checkpoint.ClassHead):
            layer.resize(12)
    state = method.state_dict()
    assert list(new_names) == list(state)
    if name != "protonet" and name != "relation":
        assert old_names != list(state)
    file = tmp_path / "old.ckpt"
    weights = dict(zip(old_names, state.values(), strict=True))
    torch.save({"state_dict": weights, "recipe": text(name)}, file)
    loaded = fewshot.load(file)
    assert type(loaded.method) is type(method)
    assert loaded.invert  # which format 1 left to the name of the data set
    assert all(torch.equal(value, state[key]) for key, value in loaded.method.state_dict().items())


def test_choices_and_overrides_name_the_host() -> None:
    content = parse(text("metagan"))
    assert content["choices"]["method@method.classifier"] == "maml"
    content["typed"] += [
        "method@method.classifier=maml",
        "method.classifier.steps=1",
        "+method.classifier.rank=${method.classifier.steps}",
    ]
    settings = upgrade_settings(content)
    assert settings["choices"]["method@method.host"] == "maml"
    assert settings["method"]["host"]["_target_"] == "fewshot.methods.MAML"
    assert settings["typed"][-3:] == [
        "method@method.host=maml", "method.host.steps=1", "+method.host.rank=${method.host.steps}",
    ]  # fmt: skip
    assert "compile" not in settings["engine"]
    assert upgrade_settings(settings) == settings


def test_an_old_run_goes_on(tiny_run: Path, run_server: Any, tmp_path: Path) -> None:
    """Its settings with the old names, in the checkpoint and in the run's folder; ended as the run of today."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    content = torch.load(tiny_run / "checkpoints/last.ckpt", weights_only=True)
    del content["format"]
    old = content.pop("settings").replace("fewshot.engines.", "fewshot.inner.")
    assert "fewshot.inner." in old
    content["recipe"] = old
    for name in ("last", "best"):
        torch.save(content, run / f"checkpoints/{name}.ckpt")
    (run / ".hydra").mkdir()
    config = (tiny_run / ".hydra/config.yaml").read_text().replace("fewshot.engines.", "fewshot.inner.")
    (run / ".hydra/config.yaml").write_text(config)
    (run / ".hydra/overrides.yaml").write_text((tiny_run / ".hydra/overrides.yaml").read_text())
    done = run_server.run([f"resume={run}", "trainer.max_steps=4"], tmp_path, os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    after = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert (after["format"], after["global_step"]) == (2, 4)
    assert "recipe" not in after
    assert yaml.safe_load(after["settings"])["engine"]["_target_"].startswith("fewshot.engines.")


@pytest.mark.parametrize(("sizes", "change"), [([0.8, 1.2], 0.2), ([1, 1], 0), ([0.5, 1.2], [0.5, 1.2]), (0.1, 0.1)])
def test_sizes_of_augmented_images_are_largest_changes(sizes: Any, change: Any) -> None:
    strong = {"_target_": "fewshot.augment.strong", "_partial_": True, "scale": sizes}
    assert upgrade_settings({"strong": strong}) == {"strong": strong | {"scale": change}}
