"""Compute the features of a data set once, by a frozen network.

A store of features is like a store of images (``fewshot.data.image_store``): ``NAME.json`` names the array beside it.
The rows of a store that is not finished lie in a ``.part`` file, with a journal of the images behind the rows: after
a kill the computation goes on where it stopped.
"""

import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from fewshot.data.image_conversion import DecodedImage, Decoding, Unreadable, decode_array
from fewshot.data.image_store import (
    Listing,
    Notes,
    TwinFinder,
    fingerprint_of,
    keep_large_classes,
    locked,
    map_array,
    report_notes,
    write_header,
    write_unreadable,
)
from fewshot.data.images import decode_files
from fewshot.data.paths import cache_folder
from fewshot.data.progress import progress
from fewshot.data.split import Split
from fewshot.data.split_cache import refused
from fewshot.errors import UserError
from fewshot.files import printable, write_bytes

log = logging.getLogger(__name__)
VERSION = 1  # raise it when stores must be built again
BATCH = 8  # images in one pass: on a CPU about half the time of 64, and an eighth of the memory
TITLE = "Computing features"
_CHUNK = 1 << 22  # bytes
_READ = "read"  # the first word of an image's line in the journal

Decoded = Iterator[DecodedImage | Unreadable]


class Encoder(Protocol):
    """Map pixels to features, by a network that is not trained.

    Attributes:
        decoding: how a file becomes the pixels that the network takes.
        features: D.
        name: of the network, for messages.
    """

    decoding: Decoding
    features: int
    name: str

    def digest(self) -> str:
        """Hash the weights and the normalisation."""
        ...

    def encode(self, pixels: Tensor) -> Tensor:
        """Return features ``(M, D)`` of pixels ``(M, C, S, S)`` uint8."""
        ...


@runtime_checkable
class OfFiles(Protocol):
    """List the files behind the splits of a data set."""

    root: Path
    name: str
    decoding: Decoding
    least: dict[str, int]

    def listing(self) -> Listing:
        """Return the files of each class of each split."""
        ...


class InMemory(Protocol):
    """Load the splits of a data set."""

    def load(self) -> dict[str, Split]:
        """Return the splits by name."""
        ...


class Features:
    """Load the splits of a data set as features.

    Images come from the files where there are files, so that the network sees the resolution that it expects;
    otherwise the images of the splits are enlarged.

    Args:
        dataset: the images.
        encoder: the network.
        cache_dir: where the features are kept.
    """

    def __init__(self, dataset: OfFiles | InMemory, encoder: Encoder, cache_dir: str | Path) -> None:
        self.dataset = dataset
        self.encoder = encoder
        self.cache_dir = cache_dir

    def load(self) -> dict[str, Split]:
        """Return the splits by name.

        Features are ``(M, D, 1, 1)`` float32.

        Raises:
            UserError: as the data set; or the images are no pixels; or the cache folder cannot be written.
        """
        if isinstance(self.dataset, OfFiles):
            return self._of_files(self.dataset)
        return self._of_memory(self.dataset.load())

    def _of_files(self, dataset: OfFiles) -> dict[str, Split]:
        listing = dataset.listing()
        own = dataset.decoding
        decoding = replace(self.encoder.decoding, invert=own.invert, full_scale=own.full_scale)
        files = [
            (split, label, file.path)
            for split, classes in listing.items()
            for label in classes
            for file in classes[label]
        ]
        counts = {split: dict.fromkeys(classes, 0) for split, classes in listing.items()}

        def decode(start: int) -> Decoded:
            return decode_files([Path(path) for _, _, path in files[start:]], decoding, TITLE)

        source = _Source(dataset.name, dataset.root, fingerprint_of(listing), decoding, files, counts, decode)
        splits, notes, store = self._stored(source)
        report_notes(notes, dataset.root, store, listing, decoding)
        return keep_large_classes(splits, dataset.least, dataset.root)

    def _of_memory(self, splits: dict[str, Split]) -> dict[str, Split]:
        if any(split.images.dtype != torch.uint8 for split in splits.values()):
            raise UserError(
                f"{self.encoder.name} takes images, but the data has values: choose backbone=identity or mlp"
            )
        digest = sha256()
        for split in splits.values():
            digest.update(f"{split.digest}".encode())
            digest.update(np.ascontiguousarray(split.images.numpy()).data)
        images = [
            (key, label, str(row))
            for key, split in splits.items()
            for label, start, count in zip(split.classes, split.starts.tolist(), split.counts.tolist(), strict=True)
            for row in range(start, start + count)
        ]
        counts = {key: dict.fromkeys(split.classes, 0) for key, split in splits.items()}

        def decode(start: int) -> Decoded:
            for key, _, row in progress(images[start:], len(images) - start, TITLE):
                yield decode_array(splits[key].images[int(row)].numpy(), self.encoder.decoding)

        name = next(iter(splits.values())).name.rpartition("/")[0]
        decoding = self.encoder.decoding
        stored = self._stored(_Source(name, Path(name), digest.hexdigest(), decoding, images, counts, decode))[0]
        return {key: replace(stored[key], name=split.name) for key, split in splits.items()}

    def _stored(self, source: "_Source") -> tuple[dict[str, Split], Notes, Path]:
        """Read the features, or compute these first."""
        parts = [VERSION, str(source.root.absolute()), asdict(source.decoding), self.encoder.digest()]
        key = sha256(json.dumps(parts).encode()).hexdigest()[:12]
        store = cache_folder(self.cache_dir) / f"{source.name}-features-{key}.json"
        content = _read(store, source)
        if content is None:
            with locked(store):
                content = _read(store, source, quietly=True)  # another process may have computed them
                if content is None:
                    log.info("%s: features are computed once, by %s", source.name, self.encoder.name)
                    _compute(store, source, self.encoder)
                    content = _read(store, source)
        if content is None:
            raise UserError(f"{store} changes while it is read: does another process compute the same features?")
        return *content, store


@dataclass(frozen=True)
class _Source:
    """Hold the images behind a store.

    Attributes:
        name, root: of the data set.
        fingerprint: changes with the images.
        decoding: how an image becomes pixels.
        images: (split, class, path or row) of each, the images of a class one after another.
        counts: split -> class -> 0, in order.
        decode: the images from one place on.
    """

    name: str
    root: Path
    fingerprint: str
    decoding: Decoding
    images: Sequence[tuple[str, str, str]]
    counts: dict[str, dict[str, int]]
    decode: Callable[[int], Decoded]


def _read(store: Path, source: _Source, quietly: bool = False) -> tuple[dict[str, Split], Notes] | None:
    """Read the splits and notes of a store.

    None if the features must be computed.
    """
    try:
        content = json.loads(store.read_text(encoding="utf-8"))
        if content["fingerprint"] != source.fingerprint:
            return None
        path = store.with_name(content["features"])
        features, mapped = map_array(path, content["shape"], content["checksum"], np.float32)
        splits: dict[str, Split] = {}
        start = 0
        for split, classes in content["splits"].items():
            counts = torch.tensor(list(classes.values()))
            end = start + int(counts.sum())
            rows = features[start:end]
            splits[split] = Split(f"{source.name}/{split}", rows, counts, tuple(classes), check=mapped.check)
            start = end
        unreadable, twins = ([(one, other) for one, other in content[key]] for key in ("unreadable", "twins"))
        return splits, Notes(unreadable, twins)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        if not quietly:
            log.warning("cannot read the cache %s (%s): computing it again", store, error)
        return None


@dataclass
class _Journal:
    """Note the images whose features are computed.

    Attributes:
        path: of the journal; a line for each image, after a line that names the source.
        lines: the lines so far: ``read`` and a hash of the pixels, or the reason why an image is left out.
    """

    path: Path
    source: str
    lines: list[str] = field(default_factory=list)

    def load(self, part: Path, header: int, row: int) -> None:
        """Read the lines of an unfinished store.

        There are none if the journal is of other images, or the rows ``part`` are fewer than the lines say.
        """
        try:
            first, *lines = self.path.read_text(encoding="utf-8").split("\n")[:-1]
            rows = sum(line.startswith(_READ) for line in lines)
            whole = part.stat().st_size >= header + rows * row
        except (OSError, ValueError):
            return
        if first == self.source and whole:
            self.lines = lines

    @property
    def rows(self) -> int:
        """Return how many images have features."""
        return sum(line.startswith(_READ) for line in self.lines)

    def append(self, lines: list[str]) -> None:
        """Add lines, after the rows are written."""
        new = not self.lines
        self.lines += lines
        with self.path.open("w" if new else "a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write("".join(f"{line}\n" for line in ([self.source] if new else []) + lines))


def _compute(store: Path, source: _Source, encoder: Encoder) -> None:
    """Write the store of a source."""
    part = store.with_name(f".{store.stem}.part")
    journal = _Journal(store.with_name(f".{store.stem}.journal"), source.fingerprint)
    final = store.with_name(f"{store.stem}-{source.fingerprint[:12]}.npy")
    width = encoder.features
    try:
        with part.open("r+b" if part.exists() else "w+b") as stream:
            write_header(stream, (len(source.images), width), "<f4")
            header = stream.tell()
            journal.load(part, header, 4 * width)
            if journal.lines:
                log.info(
                    "%d of %d images have their features already: going on", len(journal.lines), len(source.images)
                )
            stream.truncate(header + 4 * width * journal.rows)
            stream.seek(0, os.SEEK_END)
            for lines, pixels in _batches(source.decode(len(journal.lines)), journal.lines):
                if pixels:
                    features = encoder.encode(torch.from_numpy(np.stack(pixels)))
                    stream.write(np.ascontiguousarray(features.numpy(), dtype="<f4").data)
                    stream.flush()
                journal.append(lines)
            if not journal.rows:
                raise UserError(
                    f"{source.root}: none of {len(source.images)} files is a readable image: {journal.lines[0]}"
                )
            write_header(stream, (journal.rows, width), "<f4")
            stream.flush()
            os.fsync(stream.fileno())
            checksum = _checksum(stream, header)
        os.replace(part, final)
    except OSError as error:
        raise refused(store.parent, error) from error
    content = _content(source, journal.lines) | {
        "features": final.name,
        "shape": (journal.rows, width),
        "checksum": checksum,
        "network": encoder.name,
    }
    write_unreadable(store, content["unreadable"])
    write_bytes(store, json.dumps(content, ensure_ascii=False).encode())
    journal.path.unlink(missing_ok=True)
    for old in store.parent.glob(f"{store.stem}-*.npy"):
        if old != final:
            old.unlink(missing_ok=True)


def _batches(decoded: Decoded, before: list[str]) -> Iterator[tuple[list[str], list[Any]]]:
    """Yield the journal's lines and the pixels of some images.

    Few images are in memory at a time.
    """
    lines: list[str] = []
    pixels: list[Any] = []
    for image in decoded:
        if isinstance(image, Unreadable):
            lines.append(" ".join(str(image).split()))
        else:
            lines.append(f"{_READ} {sha256(image.pixels.data).hexdigest()[:32]}")
            pixels.append(image.pixels)
        if len(lines) == BATCH:
            yield lines, pixels
            lines, pixels = [], []
    if lines:
        yield lines, pixels


def _content(source: _Source, lines: list[str]) -> dict[str, Any]:
    """Return counts, unreadable files and equal images."""
    notes = Notes()
    twins = TwinFinder(source.root)
    counts = {split: dict(classes) for split, classes in source.counts.items()}
    for (split, label, path), line in zip(source.images, lines, strict=True):
        if line.startswith(_READ):
            counts[split][label] += 1
            twins.add(split, path, memoryview(line.encode()))
        else:
            notes.unreadable.append((printable(os.path.relpath(path, source.root)), line))
    return {
        "root": printable(str(source.root)),
        "fingerprint": source.fingerprint,
        "splits": counts,
        "unreadable": notes.unreadable,
        "twins": twins.pairs,
    }


def _checksum(stream: Any, start: int) -> int:
    stream.seek(start)
    found = 0
    while chunk := stream.read(_CHUNK):
        found = zlib.crc32(chunk, found)
    return found
