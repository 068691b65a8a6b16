"""Image files decoded once, into a file that is mapped into memory: pages come and go as they are needed.

A store is ``NAME.json``, which says what was decoded and names the array beside it. The array is written first, and
the JSON replaced last: whoever reads it finds a whole store, also after a kill half way.
"""

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from fewshot.data.images import Unreadable, decoded
from fewshot.data.split import Split
from fewshot.data.split_cache import refused
from fewshot.errors import UserError
from fewshot.files import write_bytes

log = logging.getLogger(__name__)
VERSION = 1  # raise it when the decoding changes, so that stores are built again


@dataclass(frozen=True, slots=True)
class File:
    """A file as it is now: a change of its size or of the time of its last change (ns) is a change of the image."""

    path: str
    size: int
    modified: int


@dataclass(frozen=True)
class Decoding:
    """How files become images: see ``fewshot.data.images.decode``."""

    channels: int
    image_size: int
    fit: str = "resize"
    invert: bool = False


Listing = Mapping[str, Mapping[str, list[File]]]  # split -> class -> files


def stored(cache_dir: str | Path, name: str, root: Path, listing: Listing, decoding: Decoding) -> dict[str, Split]:
    """The splits of ``listing``, with memory-mapped images, decoded where that has not been done.

    There is one store for a ``root`` and a ``decoding``. It is built again when the files or their splits change, by
    one process while the others wait. A class may have no images left. What is unreadable is named in one line.

    Raises:
        UserError: the folder ``cache_dir`` cannot be written, or no file is readable.
    """
    key = sha256(json.dumps([VERSION, str(root.absolute()), asdict(decoding)]).encode()).hexdigest()[:12]
    store = Path(cache_dir).expanduser() / f"{name}-{key}.json"
    fingerprint = _fingerprint(listing)
    if (found := _read(store, fingerprint, name)) is None:
        with _locked(store):
            found = _read(store, fingerprint, name, quietly=True)  # another process may have built it
            if found is None:
                _build(store, fingerprint, root, listing, decoding)
                found = _read(store, fingerprint, name)
    if found is None:
        raise UserError(f"{store} changes while it is read: does another process decode a changing {root}?")
    splits, unreadable = found
    if unreadable:
        files = sum(len(files) for classes in listing.values() for files in classes.values())
        log.warning(
            "%s: %d of %d files are unreadable and left out: %s; %s lists them",
            *(root, len(unreadable), files, _some(unreadable), _list_of(store)),
        )
    return splits


def _fingerprint(listing: Listing) -> str:
    """Of all names, sizes and times."""
    digest = sha256()
    for split, classes in listing.items():
        for label, files in classes.items():
            lines = [f"{split}\0{label}", *(f"{file.path}\0{file.size}\0{file.modified}" for file in files), ""]
            digest.update("\n".join(lines).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _read(
    store: Path, fingerprint: str, name: str, quietly: bool = False
) -> tuple[dict[str, Split], list[tuple[str, str]]] | None:
    """The splits and what was unreadable; None where they are to be decoded (again)."""
    try:
        told = json.loads(store.read_text(encoding="utf-8"))
        if told["fingerprint"] != fingerprint:
            return None
        # Copied on writing: torch takes no array that refuses to be written, and nobody writes.
        images = torch.from_numpy(np.load(store.with_name(told["images"]), mmap_mode="c"))
        splits, start = {}, 0
        for split, classes in told["splits"].items():
            counts = torch.tensor(list(classes.values()))
            end = start + int(counts.sum())
            splits[split] = Split(f"{name}/{split}", images[start:end], counts, tuple(classes))
            start = end
        return splits, [(path, reason) for path, reason in told["unreadable"]]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        if not quietly:
            log.warning("cannot read the cache %s (%s): building it again", store, error)
        return None


def _build(store: Path, fingerprint: str, root: Path, listing: Listing, decoding: Decoding) -> None:
    files = [
        (split, label, file.path) for split, classes in listing.items() for label in classes for file in classes[label]
    ]
    counts = {split: dict.fromkeys(classes, 0) for split, classes in listing.items()}
    unreadable: list[tuple[str, str]] = []
    images = store.with_name(f"{store.stem}-{fingerprint[:12]}.npy")
    part = store.with_name(f".{store.stem}.part")  # one that a killed process left is written over
    images_of = decoded([Path(path) for _, _, path in files], **asdict(decoding))
    shape = (decoding.channels, decoding.image_size, decoding.image_size)
    try:
        # Written, not mapped: a full disk is an error then, not a signal, and no page stays in memory.
        with part.open("wb") as stream:
            _write_header(stream, (len(files), *shape))
            for (split, label, path), image in zip(files, images_of, strict=True):
                if isinstance(image, Unreadable):
                    unreadable.append((_shown(os.path.relpath(path, root)), str(image)))
                else:
                    stream.write(image.data)
                    counts[split][label] += 1
            if len(unreadable) == len(files):
                raise UserError(f"{root}: none of {len(files)} files is a readable image: {_some(unreadable)}")
            _write_header(stream, (len(files) - len(unreadable), *shape))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, images)
    except OSError as error:
        raise refused(store.parent, error) from error
    finally:
        part.unlink(missing_ok=True)
    _list_of(store).unlink(missing_ok=True)
    if unreadable:
        write_bytes(_list_of(store), "".join(f"{path}\t{reason}\n" for path, reason in unreadable).encode())
    told = {
        "root": _shown(str(root)), "fingerprint": fingerprint, "images": images.name, "splits": counts,
        "unreadable": unreadable,
    }  # fmt: skip
    write_bytes(store, json.dumps(told, ensure_ascii=False).encode())
    for old in store.parent.glob(f"{store.stem}-*.npy"):
        if old != images:  # those who have it mapped keep it
            old.unlink(missing_ok=True)


def _write_header(stream: BinaryIO, shape: tuple[int, ...]) -> None:
    """The beginning of an ``.npy`` file, which has the same length for any number of images."""
    stream.seek(0)
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    """Within: no other process builds this store."""
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


def _list_of(store: Path) -> Path:
    return store.with_name(f"{store.stem}-unreadable.txt")


def _some(unreadable: list[tuple[str, str]]) -> str:
    """The first few of them."""
    more = f" and {len(unreadable) - 3} more" if len(unreadable) > 3 else ""
    return ", ".join(f"{path} ({reason})" for path, reason in unreadable[:3]) + more


def _shown(path: str) -> str:
    """A file name that can be printed, whatever its bytes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def enough(splits: dict[str, Split], least: Mapping[str, int], root: Path) -> dict[str, Split]:
    """The splits without the classes that have fewer images than ``least`` says; one line names these.

    Raises:
        UserError: a split has no class with so many.
    """
    kept, told = {}, []
    for name, split in splits.items():
        need = max(1, least.get(name, 1))
        few = split.counts < need
        if few.all():
            raise UserError(
                f"{root}: no class of {name} has the {need} images that a task takes, the largest has "
                f"{int(split.counts.max())}: add images, or lower task.shots or task.queries "
                "(task.train_shots or task.train_queries)"
            )
        kept[name] = split.only(~few) if few.any() else split
        if few.any():
            named = [f"{split.classes[i]} ({split.counts[i]})" for i in few.nonzero()[:, 0].tolist()]
            more = f" and {len(named) - 20} more" if len(named) > 20 else ""
            told.append(f"{len(named)} of {len(few)} in {name}, which needs {need}: {', '.join(named[:20])}{more}")
    if told:
        log.warning("%s: classes with too few images for the task are left out: %s", root, "; ".join(told))
    return kept
