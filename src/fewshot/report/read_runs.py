"""Find runs and read their files.

The runs are below folders; the files may come from a stranger.

A run whose files cannot be read costs the table of the others nothing: the run becomes a ``Failure``.
"""

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from fewshot.calibration import FILE, Bins, read_bins
from fewshot.errors import UserError
from fewshot.files import MEGABYTE, csv_columns, printable, read_text
from fewshot.open_set import SCORES
from fewshot.result import EPISODES, RESULT, read_result

_ERROR = "error.txt"
_OVERRIDES = ".hydra/overrides.yaml"
_LONGEST_NAME = 120  # characters; a name is the key of nothing beyond them
_LONGEST_ERROR = 500
_LONGEST_FINGERPRINT = 64
_MOST_EPISODES = 1_000_000
_LATEST = 4e9  # seconds since 1970: times of files from archives can lie beyond all calendars


@dataclass(frozen=True, eq=False)
class Run:
    """Hold the files of a finished run.

    The files are ``result.json``, ``episodes.csv`` and ``calibration.csv``. Texts are ``printable``.

    Attributes:
        path: folder of the run.
        label: display name of the method; a recipe such as ``metagan_protonet`` has its own.
        split: which classes were split how, where the dataset has several splits.
        task: name of the task, for example ``5w1s``.
        label_fraction: labelled part of the training images.
        distractors: further classes with unlabelled images in a task.
        unknown: further classes whose images are to be told from the queries.
        knownness: by which they are told.
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
        open_set: by the names of ``fewshot.open_set.SCORES``, each ``(episodes,)``, fractions; empty without unknown
            classes.
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
    unknown: int
    knownness: str | None
    pretrained: str | None
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
    open_set: Mapping[str, NDArray[np.float64]]

    @property
    def unknown_images(self) -> tuple[int, int] | None:
        """Name the unknown images of test tasks; None without such images.

        Among runs with the same fingerprints, those with the same name have the same unknown images.
        """
        return (self.unknown, self.distractors) if self.open_set else None


@dataclass(frozen=True)
class Failure:
    """Hold a failed or unreadable run.

    The run stopped with an error, or its files cannot be read.
    """

    path: Path
    overrides: tuple[str, ...]
    error: str
    outcome: Literal["failed", "unreadable"] = "failed"


def collect(paths: Iterable[str | Path]) -> tuple[list[Run], list[Failure]]:
    """Read every run at or below ``paths``.

    A path is a run's folder or any folder above runs. Runs come in the order of ``paths`` and
    in natural order (2 before 10) below each; one reached twice is read once. A folder with an
    ``error.txt`` and no ``result.json`` is a failure; so is a run with a damaged file, after all others.

    Raises:
        UserError: a path does not exist or has no run below it, or no run can be read.
    """
    runs: dict[Path, Run] = {}
    failures: dict[Path, Failure] = {}
    unreadable: dict[Path, Failure] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise UserError(f"{path}: {'not a folder' if path.exists() else 'does not exist'}")
        finished, failed = _run_folders(path)
        if not finished and not failed:
            raise UserError(f"{path}: no {RESULT} in it or below it")
        for folder in finished + failed:
            known = folder.resolve()
            if known in runs or known in failures or known in unreadable:
                continue
            try:
                if folder in finished:
                    runs[known] = _read_run(folder)
                else:
                    failures[known] = _read_failure(folder)
            except UserError as error:
                text = printable(str(error), _LONGEST_ERROR)
                unreadable[known] = Failure(folder, (), text, outcome="unreadable")
    if unreadable and not runs and not failures:
        others = f" (and {len(unreadable) - 1} further runs)" if len(unreadable) > 1 else ""
        raise UserError(next(iter(unreadable.values())).error + others)
    return list(runs.values()), [*failures.values(), *unreadable.values()]


def _run_folders(root: Path) -> tuple[list[Path], list[Path]]:
    """Find folders with a result or an error.

    The folders with only an error are separate. Links to folders are not followed.
    """
    finished: list[Path] = []
    failed: list[Path] = []
    for folder, folders, files in os.walk(root):
        names = {*folders, *files}
        if RESULT in names:
            finished.append(Path(folder))
        elif _ERROR in names:
            failed.append(Path(folder))
    return sorted(finished, key=_natural), sorted(failed, key=_natural)


def _natural(path: Path) -> list[list[str | int]]:
    # Text and numbers alternate and text comes first, so like is always compared with like.
    return [[int(bit) if bit.isdecimal() else bit for bit in re.split(r"(\d+)", part)] for part in path.parts]


def _read_run(folder: Path) -> Run:
    result = read_result(folder)
    open_set = result.test.open_set
    fingerprints, scores = _read_episodes(folder, () if open_set is None else SCORES)
    return Run(
        path=folder,
        label=_name(result.name or result.method),
        method=_name(result.method),
        data=_name(result.data),
        split=_optional_name(result.split),
        task=_name(result.task_name),
        ways=result.ways,
        label_fraction=result.label_fraction,
        distractors=result.distractors,
        unknown=result.unknown,
        knownness=None if open_set is None else _name(open_set.knownness),
        pretrained=_optional_name(result.pretrained),
        seed=result.seed,
        bn=_name(result.bn),
        overrides=tuple(map(printable, result.overrides)),
        stated_accuracy=result.test.accuracy,
        seconds=result.train.seconds,
        episodes_per_second=result.train.episodes_per_second,
        peak_memory_mb=result.peak_memory_mb,
        parameters=result.parameters,
        adapted_parameters=result.adapted_parameters,
        device=_optional_name(result.device),
        commit=_optional_name(result.git_commit),
        finished=min(max((folder / RESULT).stat().st_mtime, 0), _LATEST),
        ece=result.test.ece,
        bins=read_bins(folder / FILE) if os.path.lexists(folder / FILE) else None,
        accuracy=scores.pop("accuracy"),
        fingerprints=fingerprints,
        open_set=scores,
    )


def _name(text: str) -> str:
    return printable(text, _LONGEST_NAME)


def _optional_name(text: str | None) -> str | None:
    return None if text is None else _name(text)


def _read_episodes(folder: Path, open_set: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, NDArray[np.float64]]]:
    """Return the fingerprints, and the scores by name.

    The scores are ``accuracy`` and the columns ``open_set``, which may be nan.
    """
    file = folder / EPISODES
    rows: dict[int, tuple[str, list[float]]] = {}
    columns = ("episode", "fingerprint", "accuracy", *open_set)
    # A fingerprint such as 12e4 is a text; a reader that guesses types makes a number of the fingerprint.
    for line, cells in csv_columns(read_text(file, inside=folder), columns, file):
        try:
            number, fingerprint, *shares = cells
            episode = int(number)
            values = [float(share) for share in shares]
            if len(values) != 1 + len(open_set):
                raise ValueError(shares)
        except ValueError as error:
            raise UserError(f"{file}: line {line} is not an episode") from error
        fingerprint = fingerprint.strip()
        if not (0 <= values[0] <= 1 and 0 < len(fingerprint) <= _LONGEST_FINGERPRINT):
            raise UserError(f"{file}: line {line} needs an accuracy in [0, 1] and a fingerprint")
        if not all(0 <= value <= 1 or math.isnan(value) for value in values):
            raise UserError(f"{file}: line {line} needs {' and '.join(open_set)} in [0, 1], or nan")
        if episode in rows:
            raise UserError(f"{file}: line {line} repeats episode {episode}")
        rows[episode] = fingerprint, values
        if len(rows) > _MOST_EPISODES:
            raise UserError(f"{file}: more than {_MOST_EPISODES:,} test episodes")
    if not rows:
        raise UserError(f"{file}: no test episodes in it")
    ordered = [rows[episode] for episode in sorted(rows)]
    scores = np.array([values for _, values in ordered]).T
    return tuple(fingerprint for fingerprint, _ in ordered), dict(zip(columns[2:], scores, strict=True))


def _read_failure(folder: Path) -> Failure:
    lines = read_text(folder / _ERROR, inside=folder).split("\n")
    error = next((line.strip() for line in lines if line.strip()), "stopped without a message")
    return Failure(folder, _read_overrides(folder), printable(error, _LONGEST_ERROR))


def _read_overrides(folder: Path) -> tuple[str, ...]:
    """Read the overrides of a failed run.

    The file is a YAML list of texts, the settings that the user typed.
    """
    file = folder / _OVERRIDES
    if not os.path.lexists(file):
        return ()
    text = read_text(file, inside=folder, most=MEGABYTE)
    try:
        # The base loader makes texts of all scalars, and merges no mappings: neither can grow without bound.
        overrides = yaml.load(text, Loader=yaml.BaseLoader) or []
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{file}: not YAML") from error
    if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
        raise UserError(f"{file}: not a list of overrides")
    return tuple(map(printable, overrides))
