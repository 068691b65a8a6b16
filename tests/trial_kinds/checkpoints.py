"""Damaged and hostile checkpoints, through every door that reads them."""

import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml

from trial_kinds import EITHER, REFUSED, Trial, damage, kind

DOORS = ("checkpoint", "weights", "resume", "load")
NUMBERS = (float("nan"), float("inf"), -1, 0, 1.5, 10**9, 10**30, "abc", None, [], {}, True, "", "../x", "${a}")
HOSTILE = (
    {"_target_": "os.system", "command": "touch OWNED"},
    {"_target_": "torch.save", "obj": "x", "f": "OWNED"},
    {"_target_": "numpy.savetxt", "fname": "OWNED", "X": [1]},
    {"_target_": "joblib.load", "filename": "OWNED"},
    {"_target_": "fewshot.files.write_bytes", "target": "OWNED", "content": "x"},
    {"_target_": "fewshot.data.omniglot.os.system", "command": "touch OWNED"},
    {"_target_": "builtins.eval", "_args_": ["open('OWNED', 'w')"]},
    {"_target_": "pytorch_lightning.callbacks.ModelCheckpoint", "dirpath": "OWNED"},
    {"_target_": "fewshot.loggers.CSV", "save_dir": "/tmp/OWNED"},
    {"_target_": "hydra.utils.instantiate", "config": {"_target_": "os.system", "command": "touch OWNED"}},
)


def door(name: str, file: Path) -> Callable[[], int | None]:
    """Return the command that reads ``file`` through a door."""

    def command() -> int | None:
        from trials import run_py

        if name == "load":
            import fewshot
            from fewshot.errors import UserError

            try:
                fewshot.load(file)
            except UserError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
            return 0
        same = ("data=gaussians", "backbone=mlp", "backbone.widths=[4]", "figures=false", "train=false")
        more = ("train=false",) if name != "weights" else (*same, "task.test_episodes=2", "task.val_episodes=2")
        run_py(f"{name}={file}", *(() if name == "resume" else (*more, "name=again")))
        return 0

    return command


def trial(
    random: Random, workshop: Path, what: str, change: Callable[[dict[str, Any]], None], must: bool = True
) -> Trial:
    """Return the trial of the run's last checkpoint after ``change``, through a door of random choice."""
    content = torch.load(workshop / "run/checkpoints/last.ckpt", weights_only=True)
    change(content)
    stream = io.BytesIO()
    torch.save(content, stream)
    return _of_bytes(random, workshop, what, stream.getvalue(), must)


def _of_bytes(random: Random, workshop: Path, what: str, content: bytes, must: bool) -> Trial:
    place = workshop / "try"
    shutil.rmtree(place)
    shutil.copytree(workshop / "run", place / "run")
    (place / "run/checkpoints/previous.ckpt").unlink(missing_ok=True)
    (place / "run/result.json").unlink()
    file = place / "run/checkpoints/last.ckpt"
    file.write_bytes(content)
    name = random.choice(DOORS)
    return Trial(f"{what}, by {name}", door(name, file), REFUSED if must else EITHER)


def settings(content: dict[str, Any]) -> dict[str, Any]:
    return yaml.safe_load(content["settings"])


def _paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if not isinstance(node, dict | list):
        return [path]
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    return [*([path] if path else []), *(deeper for key, value in pairs for deeper in _paths(value, (*path, key)))]


def _put(node: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value


@kind
def bytes_changed(random: Random, workshop: Path) -> Trial:
    """Cut, overwrite or fill up the file."""
    way, content = damage(random, (workshop / "run/checkpoints/last.ckpt").read_bytes())
    return _of_bytes(random, workshop, f"bytes {way}", content, must=way == "cut")


@kind
def setting_changed(random: Random, workshop: Path) -> Trial:
    """Put another value in place of one setting."""
    value = random.choice(NUMBERS)
    chosen = []

    def change(content: dict[str, Any]) -> None:
        stored = settings(content)
        path = random.choice(_paths(stored))
        chosen.append(".".join(map(str, path)))
        _put(stored, path, value)
        content["settings"] = yaml.safe_dump(stored)

    made = trial(random, workshop, "a setting", change, must=False)
    return Trial(f"{chosen[0]}={value!r}: {made.what}", made.command, EITHER)


@kind
def hostile_target(random: Random, workshop: Path) -> Trial:
    """Let the settings build what no run builds."""
    node, path = random.choice(HOSTILE), random.choice(("method", "callbacks.x", "data.dataset", "logger.x", "engine"))

    def change(content: dict[str, Any]) -> None:
        stored = settings(content)
        _put(stored, tuple(path.split(".")), node)
        content["settings"] = yaml.safe_dump(stored)

    return trial(random, workshop, f"{path}={node}", change)


@kind
def hostile_text(random: Random, workshop: Path) -> Trial:
    """Put text in place of the settings that is no YAML, or doubles, or reads the environment."""
    doubling = "\n".join(f"a{n}: ${{a{n - 1}}}${{a{n - 1}}}" for n in range(1, 60))
    nodes = "\n".join(f"a{n}: {{x: '${{a{n - 1}}}', y: '${{a{n - 1}}}'}}" for n in range(1, 60))
    aliases = "\n".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))
    texts = {
        "brackets": "[" * 100_000, "open": "a: [b", "scalar": "3", "list": "- 1", "empty": "", "tab": "\tx",
        "doubled text": "a0: xx\n" + doubling, "doubled nodes": "a0: xx\n" + nodes, "aliases": "a0: &a0 x\n" + aliases,
        "tag": "a: !!python/object/apply:os.system ['touch OWNED']", "loop": "a: ${b}\nb: ${a}",
        "environment": "data: {name: '${oc.env:HOME}'}", "decode": "a: ${oc.decode:x}", "nested": "a: ${${b}}",
    }  # fmt: skip
    name = random.choice(sorted(texts))

    def change(content: dict[str, Any]) -> None:
        whole = random.random() < 0.5 or name in ("brackets", "open", "scalar", "list", "empty", "tab")
        content["settings"] = texts[name] if whole else content["settings"] + "\n" + texts[name]

    return trial(random, workshop, name, change)


@kind
def bad_tensor(random: Random, workshop: Path) -> Trial:
    """Put something else in place of one weight."""
    values: dict[str, Callable[[torch.Tensor], Any]] = {
        "nan": lambda x: torch.full_like(x.float(), torch.nan), "inf": lambda x: torch.full_like(x.float(), torch.inf),
        "text": lambda x: "weights", "None": lambda x: None, "sparse": lambda x: torch.ones(2, 2).to_sparse(),
        "meta": lambda x: torch.empty(x.shape, device="meta"), "complex": lambda x: torch.ones(2).to(torch.complex64),
        "huge": lambda x: torch.zeros(1).expand(10**12), "shape": lambda x: torch.zeros(3, 1, 4), "list": lambda x: [1],
    }  # fmt: skip
    way = random.choice(sorted(values))

    def change(content: dict[str, Any]) -> None:
        name = random.choice(sorted(content["state_dict"]))
        content["state_dict"][name] = values[way](content["state_dict"][name])

    return trial(random, workshop, f"a weight: {way}", change)


@kind
def bad_content(random: Random, workshop: Path) -> Trial:
    """Put something else in place of one part of the checkpoint, or leave the part out."""
    value = random.choice((None, [], {}, "text", -1, [None], {"a": 1}, 10**9))
    chosen = []

    def change(content: dict[str, Any]) -> None:
        part = random.choice(sorted(content))
        paths = [(part,), *((part, *path) for path in _paths(content[part]) if part not in ("state_dict", "settings"))]
        path = random.choice(paths)
        chosen.append(path)
        if random.random() < 0.3 and len(path) == 1:
            del content[part]
        else:
            _put(content, path, value)

    made = trial(random, workshop, "a part", change, must=False)
    needed = chosen[0] in [("state_dict",), ("settings",)]
    return Trial(f"{chosen[0]}={value!r}: {made.what}", made.command, REFUSED if needed else EITHER)


@kind
def other_places(random: Random, workshop: Path) -> Trial:
    """Let the states of callbacks name files outside of the run."""
    name = random.choice(("x/..", "..", "/", "../../x", "/etc/passwd", ".", "a/b/..", "x.ckpt/.."))
    key = random.choice(("best_model_path", "last_model_path", "kth_best_model_path", "best_k_models"))

    def change(content: dict[str, Any]) -> None:
        for state in content["callbacks"].values():
            if "best_model_path" in state:
                state[key] = {name: torch.tensor(0.1)} if key == "best_k_models" else name

    made = trial(random, workshop, f"{key}={name}", change, must=False)
    return Trial(made.what, made.command, REFUSED if "by resume" in made.what else EITHER)
