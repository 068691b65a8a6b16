"""Find the runs below some folders and read what they left there."""

import csv
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from fewshot.calibration import FILE, Bins, read_bins
from fewshot.errors import UserError
from fewshot.result import EPISODES, RESULT, read_result


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run, as its ``result.json``, ``episodes.csv`` and ``calibration.csv`` tell it.

    Attributes:
        path: folder of the run.
        label: display name of the method; a recipe such as ``metagan_protonet`` has its own.
        split: which classes were split how, where the dataset has several splits.
        task: name of the task, for example ``5w1s``.
        label_fraction: labelled part of the training images.
        distractors: further classes with unlabelled images in a task.
        bn: BatchNorm protocol at test time.
        overrides: what the user typed, for example ``method.inner_lr=0.1``.
        stated_accuracy: mean test accuracy in ``result.json``, a fraction.
        seconds: training time.
        peak_memory_mb: peak memory of the process or device, in MB.
        commit: of the code, where the run was started in a checkout.
        finished: when ``result.json`` was written, in seconds since 1970.
        ece: expected calibration error over the test's query images, a fraction.
        bins: accuracy by confidence; None for an older run.
        accuracy: ``(episodes,)`` test accuracies, fractions in [0, 1].
        fingerprints: one a test episode, same order as ``accuracy``.
    """

    path: Path
    label: str
    method: str
    data: str
    split: str | None
    task: str
    ways: int
    label_fraction: float
    distractors: int
    seed: int
    bn: str
    overrides: tuple[str, ...]
    stated_accuracy: float
    seconds: float | None
    episodes_per_second: float | None
    peak_memory_mb: float | None
    parameters: int | None
    adapted_parameters: int | None
    device: str | None
    commit: str | None
    finished: float
    ece: float | None
    bins: Bins | None
    accuracy: NDArray[np.float64]
    fingerprints: tuple[str, ...]


@dataclass(frozen=True)
class Failure:
    """A run that stopped with an error and has no result."""

    path: Path
    overrides: tuple[str, ...]
    error: str


def collect(paths: Iterable[str | Path]) -> tuple[list[Run], list[Failure]]:
    """Read every run at or below ``paths``.

    A path is a run's folder or any folder above runs. Runs come in the order of ``paths`` and
    in natural order (2 before 10) below each; one reached twice is read once. A folder with an
    ``error.txt`` and no ``result.json`` is a failure.

    Raises:
        UserError: a path does not exist or has no run below it, or a file of a run is malformed.
    """
    runs: dict[Path, Run] = {}
    failures: dict[Path, Failure] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise UserError(f"{path}: {'not a folder' if path.exists() else 'does not exist'}")
        finished = _folders_with("result.json", path)
        failed = [folder for folder in _folders_with("error.txt", path) if folder not in finished]
        if not finished and not failed:
            raise UserError(f"{path}: no result.json in it or below it")
        for folder in finished:
            if folder.resolve() not in runs:
                runs[folder.resolve()] = _read_run(folder)
        for folder in failed:
            if folder.resolve() not in failures:
                failures[folder.resolve()] = _read_failure(folder)
    return list(runs.values()), list(failures.values())


def _folders_with(name: str, root: Path) -> list[Path]:
    return sorted((file.parent for file in root.rglob(name)), key=_natural)


def _natural(path: Path) -> list[list[str | int]]:
    # Text and numbers alternate and text comes first, so like is always compared with like.
    return [[int(bit) if bit.isdecimal() else bit for bit in re.split(r"(\d+)", part)] for part in path.parts]


def _read_run(folder: Path) -> Run:
    accuracy, fingerprints = _read_episodes(folder / EPISODES)
    result = read_result(folder)
    return Run(
        path=folder,
        label=result.name or result.method,
        method=result.method,
        data=result.data,
        split=result.split,
        task=result.task_name,
        ways=result.ways,
        label_fraction=result.label_fraction,
        distractors=result.distractors,
        seed=result.seed,
        bn=result.bn,
        overrides=result.overrides,
        stated_accuracy=result.test.accuracy,
        seconds=result.train.seconds,
        episodes_per_second=result.train.episodes_per_second,
        peak_memory_mb=result.peak_memory_mb,
        parameters=result.parameters,
        adapted_parameters=result.adapted_parameters,
        device=result.device,
        commit=result.git_commit,
        finished=(folder / RESULT).stat().st_mtime,
        ece=result.test.ece,
        bins=read_bins(folder / FILE),
        accuracy=accuracy,
        fingerprints=fingerprints,
    )


def _read_episodes(file: Path) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    rows: dict[int, tuple[float, str]] = {}
    # csv reads a fingerprint such as 12e4 as text; a reader that guesses types makes a number of it.
    reader = csv.DictReader(_read_text(file).splitlines())
    for row in reader:
        try:
            episode, accuracy, fingerprint = int(row["episode"]), float(row["accuracy"]), row["fingerprint"].strip()
        except KeyError as error:
            raise UserError(f"{file}: the column {error} is missing") from error
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{file}: line {reader.line_num} is not an episode") from error
        if not (math.isfinite(accuracy) and 0 <= accuracy <= 1 and fingerprint):
            raise UserError(f"{file}: line {reader.line_num} needs an accuracy in [0, 1] and a fingerprint")
        if episode in rows:
            raise UserError(f"{file}: line {reader.line_num} repeats episode {episode}")
        rows[episode] = accuracy, fingerprint
    if not rows:
        raise UserError(f"{file}: no test episodes in it")
    ordered = [rows[episode] for episode in sorted(rows)]
    return np.array([accuracy for accuracy, _ in ordered]), tuple(fingerprint for _, fingerprint in ordered)


def _read_failure(folder: Path) -> Failure:
    lines = _read_text(folder / "error.txt").split("\n")
    error = next((line.strip() for line in lines if line.strip()), "stopped without a message")
    return Failure(folder, _read_overrides(folder / ".hydra" / "overrides.yaml"), error)


def _read_overrides(file: Path) -> tuple[str, ...]:
    """What the user typed for a run without a result: a YAML list of strings, absent in other folders."""
    if not file.is_file():
        return ()
    try:
        overrides = yaml.safe_load(_read_text(file)) or ()
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not YAML") from error
    if not isinstance(overrides, list | tuple):
        raise UserError(f"{file}: not a list of overrides")
    return tuple(map(str, overrides))


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text") from error
