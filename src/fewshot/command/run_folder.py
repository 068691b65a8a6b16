"""The folder of a run: which settings it holds, and who writes to it.

A run of a sweep is known by its settings, not by its number: a sweep that is started again finds what it has done.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fewshot import distributed
from fewshot.command.settings import with_typed_budget
from fewshot.errors import FolderTaken
from fewshot.files import write_bytes

CONFIG, TYPED = Path(".hydra/config.yaml"), Path(".hydra/overrides.yaml")
# What changes nothing but where things are and what is shown.
_APART = ("hydra", "name", "resume", "figures", "logger", "choices", "typed", "data_dir", "cache_dir")


def identity(cfg: DictConfig, typed: Sequence[str]) -> dict[str, Any]:
    """The settings, resolved, that make a run what it is; ``typed`` is its command line."""
    cfg = cfg.copy()
    OmegaConf.set_struct(cfg, False)
    with_typed_budget(cfg, typed)
    cfg.data_dir = cfg.cache_dir = ""
    return {
        # Callbacks may speak of the run's folder, which a sweep has not chosen yet.
        str(key): OmegaConf.to_container(node, resolve=key != "callbacks") if OmegaConf.is_config(node) else node
        for key, node in cfg.items()
        if key not in _APART
    }


def differences(stored: Any, wanted: Any, where: str = "") -> list[str]:
    """``method.inner_rate is 0.1 there and 0.4 here``, one line a setting."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        keys = list(dict.fromkeys((*stored, *wanted)))
        return [line for key in keys for line in differences(stored.get(key), wanted.get(key), f"{where}.{key}")]
    return [] if stored == wanted else [f"{where[1:]} is {stored} there and {wanted} here"]


def write(out: Path, cfg: DictConfig, typed: Sequence[str]) -> None:
    """Note in ``out`` what the run there is, in the files that Hydra would write.

    Hydra itself writes before anything is checked, over the settings of another run.
    """
    if distributed.rank():
        return
    write_bytes(out / CONFIG, OmegaConf.to_yaml(cfg).encode())
    write_bytes(out / TYPED, OmegaConf.to_yaml(OmegaConf.create(list(typed))).encode())


def read(out: Path) -> dict[str, Any] | None:
    """The identity of the run in ``out``; None where there is none."""
    config = out / CONFIG
    return _read(out, config.stat().st_mtime_ns) if config.is_file() else None


@cache
def _read(out: Path, modified: int) -> dict[str, Any] | None:
    try:
        cfg, typed = (OmegaConf.load(out / file) for file in (CONFIG, TYPED))
        assert isinstance(cfg, DictConfig)
        return identity(cfg, list(typed))
    except (OSError, OmegaConfBaseException, YAMLError):  # of another program, or damaged
        return None


def of_run(resume: str | None, default: str) -> str:
    """``hydra.run.dir``: the folder that ``resume`` names, or a checkpoint of, else ``default``."""
    if resume in (None, "auto"):
        return default
    path = Path(str(resume))
    folder = path.absolute().parents[1] if path.suffix == ".ckpt" else path
    return str(folder) if folder.is_dir() else default  # the run itself will say so


def in_sweep(number: int, *, _root_: DictConfig) -> str:
    """``hydra.sweep.subdir``: the folder of the run with these settings, else a new one."""
    sweep, name = Path(_root_.hydra.sweep.dir), str(number)
    try:
        wanted = identity(_root_, _root_.hydra.overrides.task)
    except OmegaConfBaseException:  # the run itself will say so
        return name
    for config in sorted(sweep.glob(f"*/{CONFIG}")):
        if read(config.parents[1]) == wanted:
            return config.parents[1].name
    if not (sweep / name / CONFIG).exists():
        return name
    return f"{name}-{hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:6]}"


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Within: no other run writes to ``out``.

    Raises:
        FolderTaken: one does.
    """
    if distributed.rank():  # the first process has it
        yield
        return
    with (out / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise FolderTaken(
                f"{out}: process {lock.read() or '(unknown)'} writes to it; wait for it, or choose another name"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


for _name, _resolver in (("run_folder", of_run), ("sweep_folder", in_sweep)):
    OmegaConf.register_new_resolver(_name, _resolver, replace=True)
