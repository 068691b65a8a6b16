"""Keep the rows of all splits in an array on disk, mapped into memory.

A store is ``NAME.json``, which says what is in it and names the array beside it. The array is written first, and the
JSON replaced last: whoever reads the JSON finds a whole store, also after a kill half way.
"""

import fcntl
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from fewshot.data.split import Split
from fewshot.data.split_cache import refused
from fewshot.data.store_notes import Notes, write_unreadable
from fewshot.errors import UserError
from fewshot.files import printable, write_bytes

log = logging.getLogger(__name__)
_CHUNK = 1 << 22  # bytes

Counts = Mapping[str, Mapping[str, int]]  # split -> class -> rows


@dataclass(frozen=True)
class Store:
    """Name a store, and what must be in it.

    Attributes:
        path: of its JSON.
        name: of the data set.
        root: of the images, for messages.
        fingerprint: of the images; a store with another is built again.
        dtype: of the array, in numpy's words, such as ``|u1``.
    """

    path: Path
    name: str
    root: Path
    fingerprint: str
    dtype: str

    @property
    def array(self) -> Path:
        """Return where the array goes."""
        return self.path.with_name(f"{self.path.stem}-{self.fingerprint[:12]}.npy")

    @property
    def part(self) -> Path:
        """Return where an array lies that is not finished."""
        return self.path.with_name(f".{self.path.stem}.part")

    def load(self, build: Callable[[], None]) -> tuple[dict[str, Split], Notes]:
        """Return the splits and notes, after ``build`` if needed.

        One process builds while the others wait.

        Raises:
            UserError: the folder cannot be written, or the images change meanwhile.
        """
        content = self._read()
        if content is None:
            with _locked(self.path):
                content = self._read(quietly=True)  # another process may have built it
                if content is None:
                    build()
                    content = self._read()
        if content is None:
            raise UserError(f"{self.path} changes while it is read: does another process read a changing {self.root}?")
        return content

    def _read(self, quietly: bool = False) -> tuple[dict[str, Split], Notes] | None:
        """Read the splits and notes.

        None if the store must be built (again).
        """
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["fingerprint"] != self.fingerprint:
                return None
            array = self.path.with_name(content.get("array") or content["images"])  # the name in older stores
            rows, mapped = _map(array, content["shape"], content["checksum"], self.dtype)
            splits: dict[str, Split] = {}
            start = 0
            for split, classes in content["splits"].items():
                counts = torch.tensor(list(classes.values()))
                end = start + int(counts.sum())
                named = f"{self.name}/{split}"
                splits[split] = Split(named, rows[start:end], counts, tuple(classes), check=mapped.check)
                start = end
            return splits, Notes(
                [(path, reason) for path, reason in content["unreadable"]],
                [(one, other) for one, other in content["twins"]],
                content["deepest"],
            )
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            if not quietly:
                log.warning("cannot read the cache %s (%s): building it again", self.path, error)
            return None

    def write_header(self, stream: BinaryIO, shape: tuple[int, ...]) -> None:
        """Write the header of the array.

        The length of the header does not depend on the number of rows.
        """
        stream.seek(0)
        np.lib.format.write_array_header_1_0(stream, {"descr": self.dtype, "fortran_order": False, "shape": shape})

    def finish(self, stream: BinaryIO, shape: tuple[int, ...], counts: Counts, notes: Notes) -> None:
        """Put the array into its place, and write the JSON.

        Args:
            stream: of ``part``, to which all rows are written.
            shape: of the array.
            counts: rows of each class.
            notes: on the images.
        """
        self.write_header(stream, shape)
        checksum = _checksum(stream)
        stream.flush()
        os.fsync(stream.fileno())
        os.replace(self.part, self.array)
        write_unreadable(self.path, notes.unreadable)
        content = {
            "root": printable(str(self.root)),
            "fingerprint": self.fingerprint,
            "array": self.array.name,
            "shape": shape,
            "checksum": checksum,
            "splits": counts,
            **asdict(notes),
        }
        write_bytes(self.path, json.dumps(content, ensure_ascii=False).encode())
        for old in self.path.parent.glob(f"{self.path.stem}-*.npy"):
            if old != self.array:  # those who have it mapped keep it
                old.unlink(missing_ok=True)


@dataclass(frozen=True)
class _MappedFile:
    """Keep a mapped file open.

    The size of the open file shows whether the file was cut short.
    """

    stream: BinaryIO
    path: Path
    size: int

    def check(self) -> None:
        """Refuse a file that has become shorter.

        A read of its lost pages would end the process by a signal.

        Raises:
            UserError: the file was cut short.
        """
        if os.fstat(self.stream.fileno()).st_size < self.size:
            raise UserError(f"the cache {self.path} was cut short while in use: delete it and start again")


def _map(path: Path, shape: Sequence[int], checksum: int, dtype: str) -> tuple[torch.Tensor, _MappedFile]:
    """Check an array and map it into memory.

    The checksum covers all bytes of the array.

    Raises:
        OSError, ValueError: the file is not what was written.
    """
    stream = path.open("rb")
    try:
        # Copied on writing: torch takes no array that refuses to be written, and nobody writes.
        rows = np.load(path, mmap_mode="c")
        if list(rows.shape) != list(shape) or rows.dtype != np.dtype(dtype):
            raise ValueError(f"{path.name} has another shape")
        size = os.fstat(stream.fileno()).st_size
        stream.seek(size - rows.nbytes)
        if _checksum(stream) != checksum:
            raise ValueError(f"{path.name} has another checksum")
    except BaseException:
        stream.close()
        raise
    return torch.from_numpy(rows), _MappedFile(stream, path, size)


def _checksum(stream: BinaryIO) -> int:
    """Return the checksum of what follows in a file."""
    found = 0
    while chunk := stream.read(_CHUNK):  # read, not mapped: these pages are not the process's own
        found = zlib.crc32(chunk, found)
    return found


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    """Keep other processes from building this store."""
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        with store.with_name(f".{store.stem}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("another process decodes the images: waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise refused(store.parent, error) from error
