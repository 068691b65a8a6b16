"""A checkpoint is data from a stranger: it builds nothing foreign, writes nowhere else, and ends in one line."""

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from changed_settings import with_settings

import fewshot
from fewshot import checkpoint
from fewshot.errors import UserError

Change = Callable[[dict[str, Any]], object]


def weight(value: Callable[[torch.Tensor], object]) -> Change:
    def change(content: dict[str, Any]) -> None:
        name = next(name for name, tensor in content["state_dict"].items() if tensor.is_floating_point())
        content["state_dict"][name] = value(content["state_dict"][name])

    return change


def put(**values: object) -> Change:
    return lambda content: content.update(values)


DOUBLING = "a0: xx\n" + "\n".join(f"a{n}: ${{a{n - 1}}}${{a{n - 1}}}" for n in range(1, 60))
NODES = "a0: x\n" + "\n".join(f"a{n}: {{x: '${{a{n - 1}}}', y: '${{a{n - 1}}}'}}" for n in range(1, 60))
ALIASES = "a0: &a0 [x]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))


def more(text: str) -> Change:
    return lambda content: content.update(settings=f"{content['settings']}\n{text}")


# Name: the change, and words of the line that refuses it.
HOSTILE: dict[str, tuple[Change, str]] = {
    "method saves a file": (with_settings(method={"_target_": "torch.save", "obj": "x", "f": "OWNED"}), "torch.save"),
    "method writes text": (
        with_settings(method={"_target_": "numpy.savetxt", "fname": "OWNED", "X": [1]}),
        "numpy.savetxt",
    ),
    "method loads a pickle": (
        with_settings(method={"_target_": "joblib.load", "filename": "pickle"}),
        "joblib.load (method), which is not of this project",
    ),
    "optimiser loads a pickle": (
        with_settings(method__optimizer={"_target_": "torch.load", "f": "pickle", "weights_only": False}),
        "torch.load",
    ),
    "callback runs a command": (
        with_settings(callbacks__x={"_target_": "os.system", "command": "touch OWNED"}),
        "os.system (callbacks.x)",
    ),
    "data set runs a command": (
        with_settings(data__dataset={"_target_": "subprocess.run", "args": ["touch", "OWNED"]}),
        "subprocess.run",
    ),
    "logger writes elsewhere": (with_settings(logger__csv__save_dir="/tmp/OWNED"), "outside of the run's folder"),
    "logger climbs by its name": (with_settings(logger__csv__name="../../OWNED"), "outside of the run's folder"),
    "cache elsewhere": (with_settings(data__dataset__cache_dir="OWNED"), "outside of the run's folder"),
    "logger as a data set": (
        with_settings(data__dataset={"_target_": "fewshot.loggers.CSV", "save_dir": "/tmp/OWNED"}),
        "fewshot.loggers.CSV (data.dataset), which has no place there",
    ),
    "logger as an engine, by reference": (
        with_settings(engine="${x}", x={"_target_": "fewshot.loggers.CSV", "save_dir": "/tmp/OWNED"}),
        "must be a mapping",
    ),
    "logger as a schedule, by reference": (
        with_settings(method__schedule="${x}", x={"_target_": "fewshot.loggers.CSV", "save_dir": "/tmp/OWNED"}),
        "fewshot.loggers.CSV (method.schedule), which has no place there",
    ),
    "settings without data": (with_settings(data=3), "refer to data.channels, which they do not have"),
    "module within a module": (
        with_settings(method={"_target_": "fewshot.data.omniglot.zipfile.ZipFile", "file": "OWNED"}),
        "which is not of this project",
    ),
    "function that writes": (
        with_settings(method={"_target_": "fewshot.files.write_bytes", "target": "OWNED", "content": "x"}),
        "which is not of this project",
    ),
    "hydra's own keys": (with_settings(method___args_=["x"]), "which no run writes"),
    "environment": (with_settings(data__name="${oc.env:HOME}"), "an interpolation that is not allowed"),
    "nested interpolation": (with_settings(data__name="${oc.decode:${seed}}"), "not allowed"),
    "text that doubles": (more(DOUBLING), "repeat one another without bound"),
    "nodes that double": (more(NODES), "repeat one another without bound"),
    "aliases that double": (more(ALIASES), "YAML aliases or tags"),
    "loop": (more("a: ${b}\nb: ${a}"), "refer to themselves"),
    "tag": (more("a: !!python/object/apply:os.system ['touch OWNED']"), "YAML aliases or tags"),
    "brackets": (put(settings="[" * 100_000), "nested or repeated"),
    "broken YAML": (put(settings="a: [b"), "no YAML"),
    "no mapping": (put(settings="- 1"), "no mapping"),
    "settings are a list": (put(settings=["a"]), "not text"),
    "settings are long": (put(settings="a: " + "x" * 10**6), "more than"),
    "newer format": (put(format=99), "written by a newer version (format 99"),
    "format is text": (put(format="two"), "its format is"),
    "weights are not a number": (weight(lambda x: torch.full_like(x, torch.nan)), "not finite"),
    "weights are infinite": (weight(lambda x: torch.full_like(x, torch.inf)), "not finite"),
    "a weight is text": (weight(lambda x: "weight"), "is str, no tensor"),
    "a weight is nothing": (weight(lambda x: None), "is NoneType, no tensor"),
    "a weight is sparse": (weight(lambda x: x.to_sparse()), "no dense tensor"),
    "a weight has no memory": (weight(lambda x: x.to("meta")), "no dense tensor"),
    "a weight is expanded": (weight(lambda x: torch.zeros(1).expand(10**12)), "more numbers than the file holds"),
    "weights are a list": (put(state_dict=[1, 2]), "no mapping from names to tensors"),
    "mean is no number": (with_settings(data__mean=float("nan")), "data.mean=nan: must be a finite number"),
    "deviation is 0": (with_settings(data__std=0), "data.std=0: must be a finite number other than 0"),
    "huge number of layers": (with_settings(backbone__widths=[10**9]), "widths.0=1000000000: must be a number of at"),
    "rate is no number": (with_settings(method__optimizer__lr=float("inf")), "lr=inf: must be a number of at most"),
    "huge images": (with_settings(data__image_size=100_000), "data.image_size=100000: must be a whole number from 1"),
}
DEEP = {"_target_": "fewshot.networks.l2l_omniglot.omniglot_cnn", "channels": 2, "image_size": 28, "depth": 10**6}
# Where only what follows the reading refuses: sizes are compared with the weights, progress is needed by resume.
HUGE: dict[str, tuple[Change, str]] = {
    "huge network": (with_settings(backbone__widths=[8192] * 40), "is of another network"),
}
LOST: dict[str, tuple[Change, str]] = {
    "no step": (lambda content: [content.pop("global_step"), content][1], "it holds no number of steps"),
    "no optimiser": (lambda content: [content.pop("optimizer_states"), content][1], "optimizer_states are missing"),
    "callbacks are a list": (put(callbacks=[1]), "callbacks are missing or damaged"),
    "states are text": (put(callbacks={"ModelCheckpoint": "x"}), "states of its callbacks are damaged"),
    "negative counts": (put(loops={"fit_loop": {"n": -(10**9)}}), "loops.fit_loop.n is -1000000000"),
    "optimiser has other parameters": (put(optimizer_states=[{"state": {}, "param_groups": []}]), "to go on from"),
    "a loop is lost": (put(loops={}), "to go on from"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("key", ["checkpoint", "weights", "resume"])
def test_reading_refuses_in_one_line(name: str, key: str, changed: Any, tmp_path: Path, monkeypatch: Any) -> None:
    change, words = HOSTILE[name]
    file = changed(change)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        checkpoint.read(file, key)
    assert str(refused.value).startswith(f"{key}={file}: ")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < len(str(file)) + 400


@pytest.mark.parametrize("name", [*HOSTILE, *HUGE])
def test_load_refuses_in_one_line(name: str, changed: Any, tmp_path: Path, monkeypatch: Any) -> None:
    change, words = (HOSTILE | HUGE)[name]
    file = changed(change)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as refused:
        fewshot.load(file)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.thorough
@pytest.mark.parametrize("key", ["checkpoint", "weights"])
def test_a_sweep_over_hostile_checkpoints_refuses_each(key: str, changed: Any, run_server: Any, tmp_path: Path) -> None:
    """One command with all of them: each ends in a line, and none writes anything but that line."""
    cases = HOSTILE | (HUGE if key == "checkpoint" else {})
    files = {name: changed(change, f"hostile{place}") for place, (name, (change, _)) in enumerate(cases.items())}
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    listed = ",".join(map(str, files.values()))
    sweep = tmp_path / "sweep"
    done = run_server.run(["-m", f"{key}={listed}", "train=false", f"hydra.sweep.dir={sweep}"], tmp_path, os.environ)
    printed = done.stdout + done.stderr
    assert done.returncode == 1, printed
    assert "Traceback" not in printed
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(files)
    for (name, file), error in zip(files.items(), errors, strict=True):
        assert f"{file}" in error, name
        assert cases[name][1] in error, name
    after = {file for file in tmp_path.rglob("*") if file.is_file() and sweep not in file.parents}
    assert after == set(before)
    assert all(file.read_bytes() == content for file, content in before.items())
    assert not [file for file in sweep.rglob("*") if "OWNED" in file.name or file.suffix == ".ckpt"]


@pytest.mark.parametrize("name", [*LOST, *HUGE, "callback runs a command", "method saves a file"])
def test_resume_refuses_in_one_line(name: str, changed: Any, run_server: Any, tmp_path: Path) -> None:
    change, words = (LOST | HUGE | HOSTILE)[name]
    file = changed(change)
    before = {other: other.read_bytes() for other in tmp_path.rglob("*") if other.is_file()}
    done = run_server.run([f"resume={file}", "trainer.max_steps=4"], tmp_path, os.environ)
    printed = done.stdout + done.stderr
    assert done.returncode == 1, printed
    assert "Traceback" not in printed
    (error,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert words in error
    written = {"run.log", ".lock", "error.txt", "config.yaml", "overrides.yaml"}
    if name in ("optimiser has other parameters", "a loop is lost"):  # which only Lightning notices, in a set-up run
        written.add("metrics.csv")
    for other, content in before.items():
        if other.name not in written:
            assert other.read_bytes() == content
    assert not list(tmp_path.rglob("*OWNED*"))


def test_a_hostile_state_removes_nothing(changed: Any, run_server: Any, tmp_path: Path) -> None:
    """The worst of all: a state that names the folder above, which Lightning removed with all that it held."""

    def change(content: dict[str, Any]) -> None:
        for state in content["callbacks"].values():
            if "best_model_path" in state:
                state.update(best_model_path="x/..", last_model_path="x/..", best_k_models={"x/..": torch.tensor(0.0)})

    file = changed(change)
    (file.parents[1] / "photo.png").write_bytes(b"mine")
    done = run_server.run([f"resume={file}", "trainer.max_steps=8"], tmp_path, os.environ)
    assert done.returncode == 1
    assert "names 'x/..', which is no *.ckpt file of its run" in done.stdout + done.stderr
    assert file.is_file()
    assert (file.parents[1] / "photo.png").read_bytes() == b"mine"


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save({"state_dict": {"x": torch.zeros(10**6)}, "settings": "", "format": 2}, stream)
    bomb = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(stream) as plain, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    with pytest.raises(UserError, match="not a readable checkpoint"):
        checkpoint.read(bomb)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ckpt")
    for path in (tmp_path / "pipe.ckpt", Path("/dev/zero")):
        with pytest.raises(UserError, match="not a file, but a pipe or a device"):
            checkpoint.read(path)


def test_a_million_layers_are_not_made(changed: Any) -> None:
    with pytest.raises(UserError, match="more layers than any network here"):
        fewshot.load(changed(with_settings(backbone=DEEP)))


def test_trusted_names_are_built(changed: Any) -> None:
    """What the user names is theirs; nothing else is."""
    file = changed(with_settings(data__dataset={"_target_": "synthetic_data.Omniglot"}))
    with pytest.raises(UserError, match=r"trust=\[synthetic_data.Omniglot\]"):
        fewshot.load(file)
    assert fewshot.load(file, trust=["synthetic_data.Omniglot"]).method.bn == "running"
    with pytest.raises(UserError, match="which is not of this project"):
        fewshot.load(file, trust=["synthetic_data"])


def test_what_is_typed_is_trusted(changed: Any, run_server: Any, tmp_path: Path) -> None:
    file = changed(with_settings(callbacks__x={"_target_": "pytorch_lightning.callbacks.Timer", "duration": None}))
    arguments = [f"checkpoint={file}", "train=false", "name=again"]
    done = run_server.run(arguments, tmp_path, os.environ)
    assert "give trust=[pytorch_lightning.callbacks.Timer]" in done.stdout + done.stderr
    done = run_server.run([*arguments, "trust=[pytorch_lightning.callbacks.Timer]"], tmp_path, os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
