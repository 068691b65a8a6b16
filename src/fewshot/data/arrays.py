"""Load features or images of any field from an ``.npz`` file."""

import logging
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fewshot.data.class_shares import SHARES, SPLITS, check_shares, divide_classes, split_name
from fewshot.data.large_classes import keep_large_classes
from fewshot.data.npz_file import HOW, Header, NpzFile, open_npz
from fewshot.data.paths import expand_home
from fewshot.data.split import Split
from fewshot.data.split_cache import LARGEST
from fewshot.errors import UserError
from fewshot.files import printable

log = logging.getLogger(__name__)
MAX_FEATURES = 65_536  # D, or channels
MAX_NUMBERS = 1 << 24  # of one row
_LONGEST = 1 << 28  # bytes of labels
_LARGEST_WHOLE = 2**53  # above which floats skip whole numbers


@dataclass(frozen=True)
class ArrayShape:
    """Hold the settings that follow from an array.

    Attributes:
        channels: C of images, or D of features.
        image_size: height and width of images, or 1 for features.
        pixels: the numbers are pixels of 0 to 255; others are values that are used without scaling.
    """

    channels: int
    image_size: int
    pixels: bool


class Arrays:
    """Load the splits of ``x``, ``y`` and, if wanted, ``split`` of an ``.npz`` file.

    ``x`` is ``(M, D)`` or ``(M, C, H, W)``, of floats, whole numbers or bools; uint8 of ``(M, C, H, W)`` are pixels.
    ``y (M,)`` holds whole numbers or texts, a label a row; ``split (M,)`` the text ``train``, ``val`` or ``test``, or
    another usual name of these. Without ``split`` the classes are divided at random.

    Args:
        root: the file.
        shares, split_seed: see ``fewshot.data.class_shares.divide_classes``; for a file without ``split``.
        least: numbers whose sum a class of each split needs in rows; a class with fewer is left out.
        name: of the data set, for messages and fingerprints.

    Raises:
        UserError: no ``root`` is given, or a setting is not allowed.
    """

    def __init__(
        self,
        root: str | Path | None,
        shares: Mapping[str, float] | None = None,
        split_seed: int = 0,
        least: Mapping[str, Sequence[int]] | None = None,
        name: str = "arrays",
    ) -> None:
        self.root = _file(root)
        self.shares = dict(shares or SHARES)
        self.split_seed = split_seed
        self.least = {split: sum(numbers) for split, numbers in (least or {}).items()}
        self.name = name
        check_shares(self.shares)

    def load(self) -> dict[str, Split]:
        """Return the splits by name.

        Rows are ``(M, C, S, S)``, uint8 for pixels, else float32; ``val`` may be missing.

        Raises:
            UserError: the file is missing or damaged, an array is missing or of another kind, a number is not finite,
                a class is in two splits, or there are too few classes.
        """
        with open_npz(self.root) as file:
            header = _header_of_x(file)
            shape = _shape_of(header, self.root)
            rows = header.shape[0]
            names, labels = _read_labels(file, rows)
            classes = self._given_splits(file, names, labels) or self._split_by_class(names, labels)
            # One array for all splits, whose rows go straight to their places: no second copy.
            order = np.array([place for members in classes.values() for place in members])
            rank = np.empty(len(names), np.int64)
            rank[order] = np.arange(len(order))
            by_class = np.argsort(rank[labels], kind="stable")
            places = np.empty(rows, np.int64)
            places[by_class] = np.arange(rows)
            x = _read_numbers(file, header, places, shape.pixels)
        x = x.reshape(rows, shape.channels, shape.image_size, shape.image_size)
        counts = np.bincount(labels, minlength=len(names))
        splits: dict[str, Split] = {}
        start = 0
        for split, members in classes.items():
            end = start + int(counts[members].sum())
            own = torch.from_numpy(counts[members])
            named = tuple(names[place] for place in members)
            splits[split] = Split(f"{self.name}/{split}", torch.from_numpy(x[start:end]), own, named)
            start = end
        return keep_large_classes(splits, self.least, self.root, "rows")

    def _given_splits(
        self, file: NpzFile, names: Sequence[str], labels: NDArray[np.int64]
    ) -> dict[str, list[int]] | None:
        """Return the classes of each split, as numbers.

        None for a file without ``split``.
        """
        if "split" not in file.names:
            return None
        where = f"{self.root}: split"
        texts, owners = _read_texts(file, "split", len(labels))
        meant = [split_name(text) for text in texts]
        if None in meant:
            raise UserError(f"{where} holds {_quoted(texts[meant.index(None)])}: write train, val or test in each row")
        if missing := sorted({"train", "test"} - {split for split in meant if split}):
            raise UserError(f"{where} names no row of {' and '.join(missing)}: add some, or leave split out")
        number = np.array([SPLITS.index(split) for split in meant if split])[owners]
        first = np.full(len(names), -1)
        first[labels] = number  # of each class the last row's
        if (other := np.flatnonzero(first[labels] != number)).size:
            row = int(other[0])
            place = labels[row]
            raise UserError(
                f"{where}: class {_quoted(names[place])} is in both {SPLITS[number[row]]} and {SPLITS[first[place]]}: "
                "splits must be disjoint, as few-shot learning tests on classes that training has not seen; leave "
                "split out, and the classes are divided"
            )
        return {split: np.flatnonzero(first == place).tolist() for place, split in enumerate(SPLITS) if place in number}

    def _split_by_class(self, names: Sequence[str], labels: NDArray[np.int64]) -> dict[str, list[int]]:
        counts = np.bincount(labels, minlength=len(names)).tolist()
        enough = min(2, *self.least.values()) if self.least else 1
        sizes = dict(zip(names, counts, strict=True))
        divided = divide_classes(sizes, self.shares, self.split_seed, enough, self.root, "rows")
        number = {name: place for place, name in enumerate(names)}
        return {split: [number[name] for name in members] for split, members in divided.items()}


def array_shape(root: str | Path | None) -> ArrayShape:
    """Return the settings that follow from a file's header.

    Raises:
        UserError: the file is missing or damaged, or its ``x`` is of another kind.
    """
    path = _file(root)
    with open_npz(path) as file:
        return _shape_of(_header_of_x(file), path)


def _file(root: str | Path | None) -> Path:
    if root is None:
        raise UserError(f"data.root=null: name the .npz file with x and y, data.root=FILE.npz ({HOW})")
    return expand_home(root, "write data.root=FILE.npz out")


def _header_of_x(file: NpzFile) -> Header:
    for name in ("x", "y"):
        if name not in file.names:
            there = ", ".join(printable(other, 40) for other in sorted(file.names)[:5]) or "no array"
            raise UserError(f"{file.path} holds {there}, but no {name}: {HOW}")
    return file.header("x")


def _shape_of(header: Header, path: Path) -> ArrayShape:
    """Check the shape and type of ``x``."""
    shape = header.shape
    if len(shape) not in (2, 4):
        hint = "; grey images are x[:, None]" if len(shape) == 3 else ""
        raise UserError(f"{path}: x is {shape}: it must be (M, D) or (M, C, H, W){hint}")
    if 0 in shape:
        raise UserError(f"{path}: x is {shape}, which holds no number")
    channels = shape[1]
    size = shape[2] if len(shape) == 4 else 1
    if len(shape) == 4 and shape[3] != size:
        last = "; channels come first, x.transpose(0, 3, 1, 2)" if shape[1] == shape[2] else ""
        raise UserError(f"{path}: x is {shape}: images must be square, (M, C, S, S){last}")
    if channels > MAX_FEATURES or prod(shape[1:]) > MAX_NUMBERS:
        raise UserError(
            f"{path}: x is {shape}: at most {MAX_FEATURES:,} features or channels, and {MAX_NUMBERS:,} numbers a row"
        )
    kind = header.dtype
    if kind.kind not in "biuf" or kind.itemsize > 8:
        raise UserError(f"{path}: x is of type {kind}: save floats, whole numbers or bools, x.astype('float32')")
    pixels = len(shape) == 4 and kind == np.uint8
    if (size_bytes := prod(shape) * (1 if pixels else 4)) > LARGEST:
        raise UserError(
            f"{path}: x is {shape}, which takes {size_bytes / 1e9:.1f} GB of memory, more than "
            f"{LARGEST / 1e9:.0f} GB: save fewer rows or features"
        )
    return ArrayShape(channels, size, pixels)


def _read_numbers(file: NpzFile, header: Header, places: NDArray[np.int64], pixels: bool) -> NDArray[Any]:
    """Read ``x`` as ``(M, R)``, with its rows in other places."""
    rest = header.shape[1:]
    numbers = np.empty((header.shape[0], prod(rest)), np.uint8 if pixels else np.float32)
    for first, block in file.blocks(header):
        here = np.arange(first, first + len(block))
        with np.errstate(over="ignore"):
            values = block.astype(numbers.dtype)
        if not np.isfinite(values).all():
            _refuse_not_finite(file.path, header, block, first, values)
        if header.fortran:
            columns = np.ravel_multi_index(np.unravel_index(here, rest, order="F"), rest)
            numbers[np.ix_(places, columns)] = values.T
        else:
            numbers[places[here]] = values
    return numbers


def _refuse_not_finite(path: Path, header: Header, block: NDArray[Any], first: int, values: NDArray[Any]) -> None:
    row, column = (int(place) for place in np.argwhere(~np.isfinite(values))[0])
    found = block[row, column]
    number = column if header.fortran else first + row
    reason = "is too large for float32" if np.isfinite(found) else "is not finite"
    raise UserError(f"{path}: row {number} of x holds {found}, which {reason}: leave such rows out, or replace it")


def _read_labels(file: NpzFile, rows: int) -> tuple[list[str], NDArray[np.int64]]:
    """Return the names of the classes and the number of each row's class."""
    texts, labels = _read_texts(file, "y", rows)
    forms = [unicodedata.normalize("NFC", text) for text in texts]
    names = sorted(set(forms))
    if len(names) < len(texts):
        log.warning("%s: labels in two Unicode forms are taken as one class", file.path)
    number = {name: place for place, name in enumerate(names)}
    return names, np.array([number[form] for form in forms])[labels]


def _read_texts(file: NpzFile, name: str, rows: int) -> tuple[list[str], NDArray[np.int64]]:
    """Return the different values of an array as texts.

    The second result is the number of each row's text.
    """
    header = file.header(name)
    where = f"{file.path}: {name}"
    if header.shape != (rows,):
        hint = f", {name}.argmax(1) of a one-hot array" if len(header.shape) == 2 else ""
        raise UserError(f"{where} is {header.shape}, but x has {rows} rows: it must be ({rows},){hint}")
    if header.nbytes > _LONGEST:
        raise UserError(f"{where} takes {header.nbytes / 1e6:.0f} MB, more than {_LONGEST / 1e6:.0f}: shorten it")
    if header.dtype.kind not in "biufUS" or header.dtype.itemsize == 0:
        raise UserError(f"{where} is of type {header.dtype}: save whole numbers or texts, {name}.astype(str)")
    values = np.concatenate([block[:, 0] for _, block in file.blocks(header)])
    different, owners = np.unique(values, return_inverse=True)
    return [_text(value, where) for value in different], owners.astype(np.int64)


def _text(value: Any, where: str) -> str:
    """Return a label as text."""
    if isinstance(value, np.floating):
        if not abs(value) <= _LARGEST_WHOLE or value != np.trunc(value):  # not a number, too
            raise UserError(f"{where} holds {value}: labels are whole numbers or texts")
        return str(int(value))
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{where} holds {value[:20]!r}, which is not UTF-8 text") from error
    text = str(value)
    if not text.strip():
        raise UserError(f"{where} holds an empty text: name the class of each row, or leave the row out")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{where} holds {_quoted(text)}, which is no valid text") from error
    return text


def _quoted(text: str) -> str:
    return f"'{printable(text, 60)}'"
