"""Choose, identify and lock a run's folder.

A run of a sweep is known by its settings, not by its number: a sweep that is started again finds its finished runs.
"""

import fcntl
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from fewshot import distributed
from fewshot.command.paths import absolute_root, expand_home
from fewshot.command.settings import apply_typed_budget, keys_of
from fewshot.data import Split
from fewshot.errors import FolderTaken, UserError
from fewshot.files import read_text, write_bytes
from fewshot.old_checkpoints import upgrade_settings
from fewshot.stored_settings import parse, parse_list

CONFIG = Path(".hydra/config.yaml")
OVERRIDES = Path(".hydra/overrides.yaml")
CLASSES = Path(".hydra/classes.json")
# Settings that only say where files are and which are shown.
_APART = ("hydra", "name", "resume", "figures", "logger", "choices", "typed", "data_dir", "cache_dir", "trust")


def identity(cfg: DictConfig, typed: Sequence[str]) -> dict[str, Any]:
    """Return the resolved settings that tell runs apart.

    ``typed`` is the command line.
    """
    cfg = cfg.copy()
    OmegaConf.set_struct(cfg, False)
    apply_typed_budget(cfg, typed)
    cfg.data_dir = cfg.cache_dir = ""
    if (root := absolute_root(cfg)) is not None:
        cfg.data.root = root
    return {
        # Callbacks may speak of the run's folder, which a sweep has not chosen yet.
        str(key): OmegaConf.to_container(node, resolve=key != "callbacks") if OmegaConf.is_config(node) else node
        for key, node in cfg.items()
        if key not in _APART
    }


def differences(stored: Any, wanted: Any, where: str = "") -> list[str]:
    """Describe the settings that differ.

    Each line describes one setting, such as ``method.inner_rate is 0.1 there and 0.4 here``.
    """
    if isinstance(stored, dict) and isinstance(wanted, dict):
        keys = list(dict.fromkeys((*stored, *wanted)))
        return [line for key in keys for line in differences(stored.get(key), wanted.get(key), f"{where}.{key}")]
    return [] if stored == wanted else [f"{where[1:]} is {stored} there and {wanted} here"]


def write(out: Path, cfg: DictConfig) -> None:
    """Write the settings as Hydra's files.

    The files are in ``out``. Hydra itself writes before anything is checked, over the settings of another run.
    """
    if distributed.rank():
        return
    write_bytes(out / CONFIG, OmegaConf.to_yaml(cfg).encode())
    write_bytes(out / OVERRIDES, OmegaConf.to_yaml(OmegaConf.create(list(cfg.typed))).encode())


def read(out: Path) -> dict[str, Any] | None:
    """Return the identity of the run in ``out``.

    None if ``out`` holds no run.
    """
    config = out / CONFIG
    return _read(out, config.stat().st_mtime_ns) if config.is_file() else None


@cache
def _read(out: Path, modified: int) -> dict[str, Any] | None:
    try:
        # As a checkpoint's: the folder may come from a stranger.
        settings = parse(read_text(out / CONFIG, out))
        typed = parse_list(read_text(out / OVERRIDES, out))
        if not isinstance(settings["data"]["dataset"], dict):
            return None
        return identity(OmegaConf.create(upgrade_settings(settings)), upgrade_settings(typed))
    except (OSError, UserError, OmegaConfBaseException, AttributeError, KeyError, TypeError, ValueError):
        # of another program, or damaged
        return None


def without_root(settings: dict[str, Any]) -> dict[str, Any]:
    """Return an identity without the folder of images."""
    data = settings["data"]
    return settings | {"data": data | {"root": None, "dataset": data["dataset"] | {"root": None}}}


def knows_its_classes(out: Path) -> bool:
    """Return whether the run's classes are on disk.

    ``confirm_classes`` writes the classes of the run in ``out``.
    """
    return (out / CLASSES).is_file()


def confirm_classes(out: Path, splits: Mapping[str, Split], resumed: bool) -> None:
    """Compare the images with the run's first images.

    The images of a ``resumed`` run must be the same. New images are noted in ``out``.

    Raises:
        FolderTaken: the run in ``out`` has other images.
    """
    here = {
        name: {"classes": len(split.classes), "images": int(split.counts.sum()), "digest": str(split.digest)}
        for name, split in splits.items()
    }
    stored = None
    with suppress(OSError, ValueError):  # of an older version, or damaged
        stored = json.loads((out / CLASSES).read_text(encoding="utf-8"))
    if resumed and isinstance(stored, dict) and (changed := differences(stored, here)):
        counts = [line for line in changed if "digest" not in line] or ["the names of classes differ"]
        raise FolderTaken(f"{out} holds a run on other images: {'; '.join(counts[:3])}")
    if stored != here and distributed.rank() == 0:
        write_bytes(out / CLASSES, (json.dumps(here, indent=2) + "\n").encode())


def choose_run_folder(resume: str | None, default: str) -> str:
    """Return the value of ``hydra.run.dir``.

    This is the folder of the run or checkpoint that ``resume`` names, else ``default``.
    """
    if resume in (None, "auto"):
        return default
    path = Path(expand_home(str(resume), "resume"))
    return str(path.absolute().parent.parent if path.suffix == ".ckpt" else path)


def choose_sweep_subfolder(number: int, *, _root_: DictConfig) -> str:
    """Return the value of ``hydra.sweep.subdir``.

    This is the folder of the run with these settings, else a new folder.
    """
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


class ChooseFolder(Callback):
    """Choose the folder of a run or sweep.

    The folder is chosen before Hydra writes to the folder. A run or sweep that the user did not name takes a free
    folder.

    A mistake exits here with status 1, so that nothing is written.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Choose ``hydra.run.dir``."""
        with _exit_on_mistakes():
            _refuse_bad_name(config, "run")
            if config.resume not in (None, "auto"):
                _refuse_no_run(Path(expand_home(str(config.resume), "resume")), str(config.resume))
            elif not is_named(config, config.hydra.overrides.hydra) and not distributed.started_by_launcher():
                with read_write(config.hydra):
                    config.hydra.run.dir = _claim(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Choose ``hydra.sweep.dir``.

        Hydra composes this value anew for each run, from the typed overrides.
        """
        with _exit_on_mistakes():
            _refuse_bad_name(config, "sweep")
            if not is_named(config, config.hydra.overrides.hydra) and not distributed.started_by_launcher():
                with read_write(config.hydra):
                    config.hydra.sweep.dir = _claim(Path(config.hydra.sweep.dir))
                    config.hydra.overrides.hydra.append(f"hydra.sweep.dir={config.hydra.sweep.dir}")


def is_named(cfg: DictConfig, hydra_overrides: Sequence[str]) -> bool:
    """Return whether the folder has a chosen name.

    The user or a recipe chooses the name.
    """
    typed = keys_of(hydra_overrides)
    return "hydra.run.dir" in typed or "hydra.sweep.dir" in typed or "${now" not in str(cfg._get_node("name"))


@contextmanager
def _exit_on_mistakes() -> Iterator[None]:
    """Exit with one line on a mistake.

    Hydra would turn an exception of a callback into a warning.
    """
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}" if distributed.rank() == 0 else 1)
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}")


def _refuse_bad_name(config: DictConfig, kind: str) -> None:
    """Refuse a bad name of a folder.

    A bad name is empty or leads elsewhere.
    """
    name, folder = config.name, str(config.hydra[kind].dir)
    if name is None or set(str(name).strip().split("/")) & {"", ".", ".."}:
        raise UserError(f"name={'null' if name is None else name}: must be the name of a folder, such as name=first")
    if not folder.strip():
        raise UserError(f"hydra.{kind}.dir={folder}: must be a folder")


def _refuse_no_run(path: Path, typed: str) -> None:
    """Refuse to resume outside a run's folder.

    Raises:
        UserError: ``path`` is no folder of a run, nor a checkpoint in the ``checkpoints/`` of one.
    """
    folder = path.absolute()
    if path.suffix == ".ckpt":
        if folder.parent.name != "checkpoints" or not (folder.parents[1] / CONFIG).is_file():
            raise UserError(
                f"resume={typed}: in no run's checkpoints/; checkpoint={typed} begins a new run from its weights"
            )
    elif not (folder / "checkpoints").is_dir():
        raise UserError(f"resume={typed}: no checkpoint there")
    elif not (folder / CONFIG).is_file():
        raise UserError(f"resume={typed}: not the folder of a run ({CONFIG} is missing)")


def _claim(folder: Path) -> str:
    """Make a free folder and return its path.

    This is the first of ``folder``, ``folder-2``, ... that does not exist.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        free = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            free.mkdir()
        except FileExistsError:
            continue
        return str(free)
    raise AssertionError("unreachable")


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Lock ``out`` against other runs.

    The lock lasts as long as the context.

    Raises:
        FolderTaken: another run writes to it.
    """
    if distributed.rank():  # the first process holds the lock
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


OmegaConf.register_new_resolver("run_folder", choose_run_folder, replace=True)
OmegaConf.register_new_resolver("sweep_folder", choose_sweep_subfolder, replace=True)
