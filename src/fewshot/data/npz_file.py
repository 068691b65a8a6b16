"""Read the arrays of an ``.npz`` file from any source.

Nothing is unpickled. Sizes are known from headers, and checked, before memory is taken.
"""

import io
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fewshot.errors import UserError
from fewshot.files import printable

HOW = "numpy.savez(FILE, x=features, y=labels) writes one"
_HEADER = 10_000  # bytes; that of a plain array has about 100
_BLOCK = 4 << 20  # bytes that are read at once
_ONE_READ = 4 << 20  # bytes of the list of contents
_MOST_DEFLATED = 1100  # bytes that one byte of a deflated file can hold, rounded up
_BEFORE_HEADER = {(1, 0): 10, (2, 0): 12}  # bytes, by version of the format; later ones are for names of columns
_BROKEN = (
    zipfile.BadZipFile, zlib.error, EOFError, ValueError, TypeError, SyntaxError, NotImplementedError, RuntimeError,
    OverflowError, RecursionError, LookupError, zipfile.LargeZipFile,
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """Hold the shape and type of an array in a file.

    Attributes:
        name: of the array.
        shape: of the array.
        dtype: of its numbers; never of objects.
        fortran: the first axis varies fastest.
        start: bytes before the numbers.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    start: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class NpzFile:
    """Read headers and numbers of an open ``.npz`` file.

    Attributes:
        path: of the file.
        headers: of its arrays, by name.
    """

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path = path
        self._archive = zipfile.ZipFile(_ShortReads(stream))
        entries = self._archive.infolist()
        names = [entry.filename for entry in entries]
        if len(set(names)) < len(names):
            raise UserError(f"{printable(str(path))}: an array is there twice: {HOW}")
        self._entries = {
            entry.filename.removesuffix(".npy"): entry for entry in entries if entry.filename.endswith(".npy")
        }

    @property
    def names(self) -> list[str]:
        """Return the names of all arrays."""
        return list(self._entries)

    def header(self, name: str) -> Header:
        """Read the shape and type of an array.

        Raises:
            UserError: the array holds Python objects or named columns, or is damaged.
        """
        entry = self._entries[name]
        with self._open(entry) as stream:
            found = _read_header(stream, name)
        where = f"{printable(str(self.path))}: {name}"
        if found.dtype.hasobject:
            raise UserError(
                f"{where} holds Python objects, which are never loaded, as loading them may run a program: save "
                + ("numbers, x.astype('float32')" if name == "x" else f"texts, {name}.astype(str)")
            )
        if found.dtype.names:
            raise UserError(f"{where} is a table of named columns: save an array of numbers")
        if entry.file_size != found.start + found.nbytes:
            raise UserError(f"{where} is damaged (its header tells another size): {HOW}")
        return found

    def blocks(self, header: Header) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield the rows of an array ``(M, ...)``, a few megabytes at a time.

        An item is the number of the first row and the rows ``(rows, R)``, R numbers each. Of an array in Fortran's
        order a row is one of R, and holds M numbers: the file has them in this order.
        """
        rows = header.shape[0] if header.shape else 1
        width = prod(header.shape[1:])
        if header.fortran:
            rows, width = width, rows
        step = max(1, _BLOCK // max(1, width * header.dtype.itemsize))
        with self._open(self._entries[header.name]) as stream:
            _read_exactly(stream, header.start)
            for first in range(0, rows, step):
                number = min(step, rows - first)
                content = _read_exactly(stream, number * width * header.dtype.itemsize)
                yield first, np.frombuffer(content, header.dtype).reshape(number, width)
            stream.read(1)  # the end, where the checksum is compared

    @contextmanager
    def _open(self, entry: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & 1:
            raise zipfile.BadZipFile("packed or encrypted as numpy never does")
        if entry.file_size > _MOST_DEFLATED * entry.compress_size:
            raise zipfile.BadZipFile("an array larger than its file")
        with self._archive.open(entry) as stream:
            yield stream


@contextmanager
def open_npz(path: Path) -> Iterator[NpzFile]:
    """Open an ``.npz`` file.

    Raises:
        UserError: the file is missing, no ``.npz`` file, or damaged; also while the arrays are read.
    """
    shown = printable(str(path))
    try:
        if path.is_dir():
            raise UserError(f"{shown} is a folder: data=arrays reads one .npz file (data=folder reads images)")
        # Asked before opening too, since opening a device can act on it.
        _refuse_irregular(os.stat(path).st_mode, shown)
        with open(path, "rb", opener=_open_without_waiting) as stream:
            _refuse_irregular(os.fstat(stream.fileno()).st_mode, shown)
            _refuse_other_formats(stream.read(6), path)
            stream.seek(0)
            yield NpzFile(path, stream)
    except OSError as error:
        raise UserError(f"{shown} cannot be read ({error.strerror or error}): data.root=FILE.npz names it") from error
    except _BROKEN as error:
        reason = printable(" ".join(str(error).split()) or type(error).__name__, 100)
        raise UserError(f"{shown} is damaged, or no .npz file ({reason}): {HOW}") from error


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _refuse_irregular(mode: int, shown: str) -> None:
    if not stat.S_ISREG(mode):
        raise UserError(f"{shown} is not a regular file: data.root=FILE.npz names an .npz file")


def _refuse_other_formats(beginning: bytes, path: Path) -> None:
    shown = printable(str(path))
    if beginning.startswith(b"\x93NUMPY"):
        raise UserError(f"{shown} holds one array without labels (.npy): save both, numpy.savez(FILE, x=..., y=...)")
    if not beginning.startswith(b"PK"):
        raise UserError(f"{shown} is no .npz file, and other tables are not read: {HOW}")


def _read_header(stream: IO[bytes], name: str) -> Header:
    """Parse the header of an array.

    No more than ``_HEADER`` bytes are read, however long the header says that it is.
    """
    beginning = stream.read(_HEADER)
    version = npy.read_magic(io.BytesIO(beginning))
    if version not in _BEFORE_HEADER:
        raise ValueError(f"version {version} of the format")
    length = int.from_bytes(beginning[8 : _BEFORE_HEADER[version]], "little")
    start = _BEFORE_HEADER[version] + length
    if start > len(beginning):
        raise ValueError("a header that is too long")
    rest = io.BytesIO(beginning[8:start])
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(rest)
    if any(side < 0 for side in shape) or len(shape) > 32:
        raise ValueError("an impossible shape")
    return Header(name, tuple(shape), dtype, fortran and len(shape) > 1, start)


def _read_exactly(stream: IO[bytes], number: int) -> bytes:
    parts = []
    while number > 0:
        parts.append(stream.read(min(number, _ONE_READ)))
        if not parts[-1]:
            raise EOFError("it ends early")
        number -= len(parts[-1])
    return b"".join(parts)


class _ShortReads:
    """Refuse to read more of a file than arrays need at once.

    A damaged or hostile list of contents may claim any length.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.seek = stream.seek
        self.tell = stream.tell
        self.seekable = stream.seekable

    def read(self, number: int = -1) -> bytes:
        """Read up to ``number`` bytes."""
        content = self._stream.read(number if 0 <= number <= _ONE_READ else _ONE_READ + 1)
        if len(content) > _ONE_READ:
            raise zipfile.BadZipFile("a list of contents that is too long")
        return content
