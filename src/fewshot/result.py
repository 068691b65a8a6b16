"""Define the files of a finished run.

The files are ``result.json``, ``episodes.csv`` and ``calibration.csv``.
"""

import json
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from fewshot.calibration import FILE as CALIBRATION
from fewshot.calibration import Bins
from fewshot.errors import UserError
from fewshot.files import MEGABYTE, printable, read_text, write_bytes, write_csv
from fewshot.open_set import OpenSetScores

FORMAT = 1  # of result.json; a result without the entry is older and has format 0
RESULT = "result.json"
EPISODES = "episodes.csv"

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class MeanScores:
    """Hold means over the test episodes.

    The means are the entry ``test``.

    Attributes:
        accuracy: a fraction.
        ci95: half-width of its 95% t-interval, a fraction.
        episodes: how many.
        loss: cross-entropy on the query images.
        ece: expected calibration error over all query images, a fraction.
        open_set: how well unknown images are told; None for tasks without such images.
    """

    accuracy: float
    ci95: float | None = None
    episodes: int | None = None
    loss: float | None = field(default=None, metadata={"infinite": True})  # of a run that diverged
    ece: float | None = None
    open_set: OpenSetScores | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.accuracy <= 1:
            raise ValueError(f"test.accuracy is {self.accuracy}, not a fraction")


@dataclass(frozen=True)
class Validation:
    """Hold the best validation accuracy.

    The entry is ``val``. Without validation the accuracy is None.
    """

    accuracy: float | None = None


@dataclass(frozen=True)
class Training:
    """Hold how long a run trained.

    The entry is ``train``.
    """

    steps: int | None = None
    episodes: int | None = None
    seconds: float | None = None
    episodes_per_second: float | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """Hold the content of ``result.json``.

    The attributes have the order of the entries. Entries with a default are absent in results of older versions.

    Attributes:
        method: name of the recipe.
        name: display name of the method.
        data, split: the data set, and which of its splits into classes where there are several.
        label_fraction: labelled part of the training images.
        task: all settings of the tasks.
        bn, bn_statistics_estimated: BatchNorm protocol of the test, and whether it estimated running statistics.
        pretrained: the pretrained network behind the features; None without such a network.
        parameters, adapted_parameters: how many, and how many of them an inner loop changes.
        peak_memory_mb: peak memory of the process or device, in MB.
        versions: of the libraries that decide a result.
        git_commit: of the code, where it lies in a checkout.
        checkpoint: whose weights were tested; relative to ``path`` for a run that trained.
        overrides: settings as the user typed them.
        path: folder of the run.
    """

    method: str
    name: str | None = None
    data: str
    split: str | None = None
    label_fraction: float = 1.0
    task: dict[str, Any]
    seed: int
    bn: str
    bn_statistics_estimated: bool | None = None
    test: MeanScores
    val: Validation = Validation()
    train: Training = Training()
    pretrained: str | None = None
    parameters: int | None = None
    adapted_parameters: int | None = None
    processes: int | None = None
    peak_memory_mb: float | None = None
    device: str | None = None
    versions: dict[str, Any] = field(default_factory=dict)
    git_commit: str | None = None
    checkpoint: str | None = None
    overrides: tuple[str, ...] = ()
    path: str | None = None

    def __post_init__(self) -> None:
        least = {"ways": 1, "shots": 1, "distractors": 0, "unknown": 0}
        if self.task.get("name"):
            del least["shots"]  # the name says how many
        for key, smallest in least.items():
            value = self.task.get(key, 0 if key in ("distractors", "unknown") else None)
            if _wrong_kind(value, int) or value < smallest:  # type: ignore[operator]
                raise ValueError(f"task.{key} is {_shown(value)}, not a whole number from {smallest} on")
        if _wrong_kind(self.task.get("name", ""), str):
            raise ValueError(f"task.name is {_shown(self.task['name'])}, not a text")

    @property
    def ways(self) -> int:
        """Return the number of classes per task."""
        return int(self.task["ways"])

    @property
    def task_name(self) -> str:
        """Return the name of the test tasks.

        An example is ``5w1s``.
        """
        return self.task.get("name") or f"{self.task['ways']}w{self.task['shots']}s"

    @property
    def distractors(self) -> int:
        """Return the number of distractor classes.

        A test task has unlabelled images of these further classes.
        """
        return int(self.task.get("distractors", 0))

    @property
    def unknown(self) -> int:
        """Return the number of unknown classes.

        A test task has images of these further classes, which are to be told from the queries.
        """
        return int(self.task.get("unknown", 0))

    def to_json(self) -> str:
        """Return the text of ``result.json``."""
        entries = {"format": FORMAT} | asdict(self)
        if self.test.open_set is None:
            del entries["test"]["open_set"]
        return json.dumps(entries, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, origin: str | Path = RESULT) -> "Result":
        """Read the text of a ``result.json``.

        ``origin`` begins the error messages.

        Raises:
            UserError: the text is not JSON, is of a newer format, or an entry is missing or wrong.
        """
        try:
            entries = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{origin}: not JSON (line {error.lineno}: {error.msg})") from error
        except (RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
            raise UserError(f"{origin}: not the result of a run (nested too deep, or a number too long)") from error
        try:
            if not isinstance(entries, dict):
                raise ValueError(f"{_shown(entries)} in place of entries")
            written = entries.pop("format", 0)
            if _wrong_kind(written, int):
                raise ValueError(f"format is {_shown(written)}, not a whole number")
            if written > FORMAT:
                raise UserError(f"{origin}: has format {written} of a newer version; this one reads up to {FORMAT}")
            return _parse(cls, entries)
        except KeyError as error:
            raise UserError(f"{origin}: the entry {error} is missing") from error
        except ValueError as error:
            raise UserError(f"{origin}: not the result of a run ({error})") from error


def _parse(kind: type[Parsed], entries: Mapping[str, Any], within: str = "") -> Parsed:
    """Build a dataclass from JSON entries.

    Unknown entries are ignored.

    Raises:
        KeyError: an entry is missing.
        ValueError: an entry is of another kind.
    """
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for entry in fields(kind):  # type: ignore[arg-type]
        name = within + entry.name
        required = entry.default is MISSING and entry.default_factory is MISSING
        value = entries.get(entry.name)
        if value is None:
            if required:
                raise KeyError(name)
        elif is_dataclass(hint := _without_none(hints[entry.name])):
            if not isinstance(value, dict):
                raise ValueError(f"{name} is {_shown(value)}, not a group of entries")
            values[entry.name] = _parse(hint, value, f"{name}.")  # type: ignore[arg-type]
        else:
            values[entry.name] = _checked(value, hint, name, entry.metadata.get("infinite", False))
    return kind(**values)


def _checked(value: Any, hint: Any, name: str, infinite: bool) -> Any:
    kind = _without_none(hint)
    kind = get_origin(kind) or kind
    if kind is tuple and isinstance(value, list) and all(isinstance(text, str) for text in value):
        return tuple(value)
    if _wrong_kind(value, kind) or (kind is float and math.isinf(value) and not infinite):
        raise ValueError(f"{name} is {_shown(value)}, not {_KINDS[kind]}")
    return float(value) if kind is float else value


def _without_none(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) in (Union, types.UnionType) else hint


_KINDS: dict[type, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a group of entries",
    tuple: "a list of texts",
}


def _wrong_kind(value: Any, kind: type) -> bool:
    if kind is float and isinstance(value, float):
        return False
    if kind in (int, float):  # of a size that every consumer can compute with
        return isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63
    return not isinstance(value, kind)


def _shown(value: Any) -> str:
    return printable(repr(value) if isinstance(value, str | int | float) else type(value).__name__, 40)


def write_result(folder: Path, result: Result) -> None:
    """Write ``result.json``, whole or not at all."""
    write_bytes(folder / RESULT, result.to_json().encode())


def read_result(folder: Path) -> Result:
    """Read the ``result.json`` of a run.

    Raises:
        UserError: the file cannot be read, or is not the result of a run.
    """
    file = folder / RESULT
    return Result.from_json(read_text(file, inside=folder, most=4 * MEGABYTE), file)


def validation_accuracy(folder: Path) -> float | None:
    """Return a finished run's best validation accuracy.

    Without validation the accuracy is None.
    """
    return read_result(folder).val.accuracy


def write_episodes(folder: Path, columns: Mapping[str, Sequence[object]]) -> None:
    """Write ``episodes.csv``: a row for each test episode.

    The columns are ``episode``, ``accuracy`` and ``fingerprint``, and for open-set tasks ``auroc`` and ``fpr95``.
    """
    write_csv(folder / EPISODES, tuple(columns), zip(*columns.values(), strict=True))


def write_calibration(folder: Path, bins: Bins) -> None:
    """Write the bins to ``calibration.csv``.

    Each bin of confidence has a row.
    """
    write_bytes(folder / CALIBRATION, bins.csv_text().encode())
