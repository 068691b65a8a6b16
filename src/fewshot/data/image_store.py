"""Decode image files once, into a memory-mapped file.

A store is ``NAME.json``, which says what was decoded and names the array beside it. The array is written first, and
the JSON replaced last: whoever reads the JSON finds a whole store, also after a kill half way.
"""

import fcntl
import json
import logging
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from fewshot.data.image_conversion import FITS, FULL_SCALE, Decoding, Unreadable
from fewshot.data.images import decode_files
from fewshot.data.paths import cache_folder
from fewshot.data.split import Split
from fewshot.data.split_cache import refused
from fewshot.errors import UserError
from fewshot.files import printable, write_bytes

log = logging.getLogger(__name__)
VERSION = 2  # raise it when the decoding changes, so that stores are built again
NARROW = 4095  # largest value of a camera of 12 bits
_CHUNK = 1 << 22  # bytes
_LATER = ("scale", "resampling")  # settings of ``Decoding`` that older stores know nothing of


@dataclass(frozen=True, slots=True)
class File:
    """Hold the path and state of a file.

    A file with another size or modification time (ns) is another image.
    """

    path: str
    size: int
    modified: int


Listing = Mapping[str, Mapping[str, list[File]]]  # split -> class -> files


@dataclass
class Notes:
    """Hold the findings that a store reports.

    Attributes:
        unreadable: (path, reason) of the files that are left out.
        twins: (path, path) of images of two splits whose pixels are equal.
        deepest: the largest value of all 16-bit images; None without such images.
    """

    unreadable: list[tuple[str, str]] = field(default_factory=list)
    twins: list[tuple[str, str]] = field(default_factory=list)
    deepest: int | None = None


@dataclass(frozen=True)
class MappedFile:
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


def stored(cache_dir: str | Path, name: str, root: Path, listing: Listing, decoding: Decoding) -> dict[str, Split]:
    """Return the splits with memory-mapped images.

    The images of ``listing`` are decoded if needed. There is one store for a ``root`` and a ``decoding``. The store is
    built again when the files or their splits change, by one process while the others wait. A class may have no images
    left. One line each names unreadable files, equal images of two splits, and 16-bit images that use a small part of
    their range.

    Raises:
        UserError: the folder ``cache_dir`` cannot be written, or no file is readable.
    """
    how = {key: value for key, value in asdict(decoding).items() if key not in _LATER or decoding.fit not in FITS}
    key = sha256(json.dumps([VERSION, str(root.absolute()), how]).encode()).hexdigest()[:12]
    store = cache_folder(cache_dir) / f"{name}-{key}.json"
    fingerprint = fingerprint_of(listing)
    content = _read(store, fingerprint, name)
    if content is None:
        with locked(store):
            content = _read(store, fingerprint, name, quietly=True)  # another process may have built it
            if content is None:
                _build(store, fingerprint, root, listing, decoding)
                content = _read(store, fingerprint, name)
    if content is None:
        raise UserError(f"{store} changes while it is read: does another process decode a changing {root}?")
    splits, notes = content
    report_notes(notes, root, store, listing, decoding)
    return splits


def report_notes(notes: Notes, root: Path, store: Path, listing: Listing, decoding: Decoding) -> None:
    """Log unreadable files, equal images and dark images."""
    shown_root = printable(str(root))
    if notes.unreadable:
        files = sum(len(files) for classes in listing.values() for files in classes.values())
        log.warning(
            "%s: %d of %d files are unreadable and left out: %s; %s lists them",
            shown_root,
            len(notes.unreadable),
            files,
            first_reasons(notes.unreadable),
            list_of_unreadable(store),
        )
    if notes.twins:
        shown = ", ".join(f"{one} = {other}" for one, other in notes.twins[:3])
        more = f" and {len(notes.twins) - 3} more" if len(notes.twins) > 3 else ""
        log.warning(
            "%s: %d images are the same in two splits, so a test has seen them in training: %s%s; remove one of each",
            shown_root,
            len(notes.twins),
            shown,
            more,
        )
    if notes.deepest is not None and notes.deepest <= NARROW and decoding.full_scale == FULL_SCALE:
        white = 1023 if notes.deepest <= 1023 else NARROW
        log.warning(
            "%s: no 16-bit image passes %d of 65535, so all are nearly black: for a camera of %d bits "
            "set data.full_scale=%d",
            shown_root,
            notes.deepest,
            (white + 1).bit_length() - 1,
            white,
        )


def fingerprint_of(listing: Listing) -> str:
    """Hash all names, sizes and times."""
    digest = sha256()
    for split, classes in listing.items():
        for label, files in classes.items():
            lines = [f"{split}\0{label}", *(f"{file.path}\0{file.size}\0{file.modified}" for file in files), ""]
            digest.update("\n".join(lines).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _read(store: Path, fingerprint: str, name: str, quietly: bool = False) -> tuple[dict[str, Split], Notes] | None:
    """Read the splits and notes of a store.

    None if the images must be decoded (again).
    """
    try:
        content = json.loads(store.read_text(encoding="utf-8"))
        if content["fingerprint"] != fingerprint:
            return None
        images, mapped = map_array(store.with_name(content["images"]), content["shape"], content["checksum"])
        splits: dict[str, Split] = {}
        start = 0
        for split, classes in content["splits"].items():
            counts = torch.tensor(list(classes.values()))
            end = start + int(counts.sum())
            splits[split] = Split(f"{name}/{split}", images[start:end], counts, tuple(classes), check=mapped.check)
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
            log.warning("cannot read the cache %s (%s): building it again", store, error)
        return None


def map_array(
    path: Path, shape: Sequence[int], checksum: int, dtype: type[np.generic] = np.uint8
) -> tuple[torch.Tensor, MappedFile]:
    """Check an array and map it into memory.

    The checksum covers all bytes of the array.

    Raises:
        OSError, ValueError: the file is not what was written.
    """
    stream = path.open("rb")
    try:
        # Copied on writing: torch takes no array that refuses to be written, and nobody writes.
        images = np.load(path, mmap_mode="c")
        if list(images.shape) != list(shape) or images.dtype != dtype:
            raise ValueError(f"{path.name} has another shape")
        size = os.fstat(stream.fileno()).st_size
        stream.seek(size - images.nbytes)
        found = 0
        while chunk := stream.read(_CHUNK):  # read, not mapped: these pages are not the process's own
            found = zlib.crc32(chunk, found)
        if found != checksum:
            raise ValueError(f"{path.name} has another checksum")
    except BaseException:
        stream.close()
        raise
    return torch.from_numpy(images), MappedFile(stream, path, size)


def _build(store: Path, fingerprint: str, root: Path, listing: Listing, decoding: Decoding) -> None:
    files = [
        (split, label, file.path) for split, classes in listing.items() for label in classes for file in classes[label]
    ]
    counts = {split: dict.fromkeys(classes, 0) for split, classes in listing.items()}
    notes = Notes()
    twins = TwinFinder(root)
    checksum = 0
    images = store.with_name(f"{store.stem}-{fingerprint[:12]}.npy")
    part = store.with_name(f".{store.stem}.part")  # one that a killed process left is written over
    decoded = decode_files([Path(path) for _, _, path in files], decoding)
    shape: tuple[int, ...] = (decoding.channels, decoding.image_size, decoding.image_size)
    try:
        # Written, not mapped: a full disk is an error then, not a signal, and no page stays in memory.
        with part.open("wb") as stream:
            write_header(stream, (len(files), *shape))
            for (split, label, path), image in zip(files, decoded, strict=True):
                if isinstance(image, Unreadable):
                    notes.unreadable.append((printable(os.path.relpath(path, root)), str(image)))
                    continue
                stream.write(image.pixels.data)
                checksum = zlib.crc32(image.pixels.data, checksum)
                counts[split][label] += 1
                twins.add(split, path, image.pixels.data)
                if image.largest is not None:
                    notes.deepest = max(image.largest, notes.deepest or 0)
            if len(notes.unreadable) == len(files):
                raise UserError(
                    f"{root}: none of {len(files)} files is a readable image: {first_reasons(notes.unreadable)}"
                )
            shape = (len(files) - len(notes.unreadable), *shape)
            write_header(stream, shape)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, images)
    except OSError as error:
        raise refused(store.parent, error) from error
    finally:
        part.unlink(missing_ok=True)
    notes.twins = twins.pairs
    write_unreadable(store, notes.unreadable)
    content: dict[str, Any] = {
        "root": printable(str(root)),
        "fingerprint": fingerprint,
        "images": images.name,
        "shape": shape,
        "checksum": checksum,
        "splits": counts,
        **asdict(notes),
    }
    write_bytes(store, json.dumps(content, ensure_ascii=False).encode())
    for old in store.parent.glob(f"{store.stem}-*.npy"):
        if old != images:  # those who have it mapped keep it
            old.unlink(missing_ok=True)


class TwinFinder:
    """Find equal images of two splits."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pairs: list[tuple[str, str]] = []
        self._first: dict[bytes, tuple[str, str]] = {}

    def add(self, split: str, path: str, pixels: memoryview) -> None:
        """Compare an image with all before."""
        owner, twin = self._first.setdefault(blake2b(pixels, digest_size=16).digest(), (split, path))
        if owner != split:
            one, other = (printable(os.path.relpath(file, self.root)) for file in (twin, path))
            self.pairs.append((one, other))


def write_header(stream: BinaryIO, shape: tuple[int, ...], kind: str = "|u1") -> None:
    """Write the header of an ``.npy`` file.

    The length of the header does not depend on the number of images.
    """
    stream.seek(0)
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})


@contextmanager
def locked(store: Path) -> Iterator[None]:
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


def list_of_unreadable(store: Path) -> Path:
    return store.with_name(f"{store.stem}-unreadable.txt")


def write_unreadable(store: Path, unreadable: Sequence[tuple[str, str]]) -> None:
    """List all unreadable files beside the store."""
    target = list_of_unreadable(store)
    target.unlink(missing_ok=True)
    if unreadable:
        write_bytes(target, "".join(f"{path}\t{reason}\n" for path, reason in unreadable).encode())


def first_reasons(unreadable: list[tuple[str, str]]) -> str:
    """Name the first three unreadable files."""
    more = f" and {len(unreadable) - 3} more" if len(unreadable) > 3 else ""
    return ", ".join(f"{path} ({reason})" for path, reason in unreadable[:3]) + more


def keep_large_classes(
    splits: dict[str, Split], least: Mapping[str, int], root: Path, noun: str = "images"
) -> dict[str, Split]:
    """Leave out classes with too few images.

    ``least`` gives the number that a split needs. One line names the classes that are left out. Messages call an image
    by ``noun``.

    Raises:
        UserError: a split has no class with so many.
    """
    kept: dict[str, Split] = {}
    left_out: list[str] = []
    for name, split in splits.items():
        need = max(1, least.get(name, 1))
        few = split.counts < need
        if few.all():
            raise UserError(
                f"{root}: no class of {name} has the {need} {noun} that a task takes, the largest has "
                f"{int(split.counts.max())}: add {noun}, or lower task.shots or task.queries "
                "(task.train_shots or task.train_queries)"
            )
        kept[name] = split.only(~few) if few.any() else split
        if few.any():
            named = [f"{printable(split.classes[i])} ({split.counts[i]})" for i in few.nonzero()[:, 0].tolist()]
            more = f" and {len(named) - 20} more" if len(named) > 20 else ""
            left_out.append(f"{len(named)} of {len(few)} in {name}, which needs {need}: {', '.join(named[:20])}{more}")
    if left_out:
        shown = printable(str(root))
        log.warning("%s: classes with too few %s for the task are left out: %s", shown, noun, "; ".join(left_out))
    return kept
