"""Compute the features of images, into a memory-mapped file.

The rows of a store that is not finished lie in a ``.part`` file, with a journal of the images behind the rows: after a
kill the computation goes on where it stopped.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fewshot.data.array_store import Store
from fewshot.data.image_conversion import DecodedImage, Decoding, Unreadable
from fewshot.data.split_cache import refused
from fewshot.data.store_notes import Notes, TwinFinder, first_reasons, relative
from fewshot.errors import UserError

log = logging.getLogger(__name__)
BATCH = 8  # images in one pass: on a CPU about half the time of 64, and an eighth of the memory
DTYPE = "<f4"
_READ = "+"  # begins the line of an image in the journal; then a hash of the pixels and their largest value
_LEFT_OUT = "-"  # begins the line of an unreadable file; then the reason

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


@dataclass(frozen=True)
class Images:
    """Hold the images whose features are wanted.

    Attributes:
        places: (split, class, path or row) of each, the images of a class one after another.
        counts: split -> class -> 0, in order.
        decode: the images from one place on.
    """

    places: Sequence[tuple[str, str, str]]
    counts: dict[str, dict[str, int]]
    decode: Callable[[int], Decoded]


@dataclass
class _Journal:
    """Note the images whose features are computed.

    Attributes:
        path: of the journal: a line that names the images, then a line for each image.
        source: names the images.
        lines: of the images so far.
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
            whole = part.stat().st_size >= header + _count_read(lines) * row
        except (OSError, ValueError):
            return
        if first == self.source and whole:
            self.lines = lines

    def start(self) -> None:
        """Write the lines so far, without what a kill left of one."""
        self._write("w", [self.source, *self.lines])

    def append(self, lines: list[str]) -> None:
        """Add lines, after the rows are written."""
        self.lines += lines
        self._write("a", lines)

    def _write(self, mode: str, lines: list[str]) -> None:
        with self.path.open(mode, encoding="utf-8", errors="backslashreplace") as stream:
            stream.write("".join(f"{line}\n" for line in lines))

    @property
    def rows(self) -> int:
        """Return how many images have features."""
        return _count_read(self.lines)


def _count_read(lines: Sequence[str]) -> int:
    return sum(line.startswith(_READ) for line in lines)


def compute(store: Store, images: Images, encoder: Encoder) -> None:
    """Write a store of features.

    Raises:
        UserError: the folder cannot be written, or no image is readable.
    """
    journal = _Journal(store.path.with_name(f".{store.path.stem}.journal"), store.fingerprint)
    width = encoder.features
    try:
        with store.part.open("r+b" if store.part.exists() else "w+b") as stream:
            store.write_header(stream, (len(images.places), width))
            header = stream.tell()
            journal.load(store.part, header, 4 * width)
            if journal.lines:
                done, all_images = len(journal.lines), len(images.places)
                log.info("%d of %d images have their features already: going on", done, all_images)
            journal.start()
            stream.truncate(header + 4 * width * journal.rows)
            stream.seek(0, os.SEEK_END)
            for lines, pixels in _batches(images.decode(len(journal.lines))):
                if pixels:
                    features = encoder.encode(torch.from_numpy(np.stack(pixels)))
                    stream.write(np.ascontiguousarray(features.numpy(), dtype=DTYPE).data)
                    stream.flush()
                journal.append(lines)
            notes, counts = _read_lines(store, images, journal.lines)
            if not journal.rows:
                reasons = first_reasons(notes.unreadable)
                raise UserError(f"{store.root}: none of {len(images.places)} files is a readable image: {reasons}")
            store.finish(stream, (journal.rows, width), counts, notes)
    except OSError as error:
        raise refused(store.path.parent, error) from error
    journal.path.unlink(missing_ok=True)


def _batches(decoded: Decoded) -> Iterator[tuple[list[str], list[Any]]]:
    """Yield the journal's lines and the pixels of some images.

    Few images are in memory at a time.
    """
    lines: list[str] = []
    pixels: list[Any] = []
    for image in decoded:
        if isinstance(image, Unreadable):
            lines.append(_LEFT_OUT + " ".join(str(image).split()))
        else:
            largest = "" if image.largest is None else image.largest
            lines.append(f"{_READ}{sha256(image.pixels.data).hexdigest()[:32]} {largest}")
            pixels.append(image.pixels)
        if len(lines) == BATCH:
            yield lines, pixels
            lines, pixels = [], []
    if lines:
        yield lines, pixels


def _read_lines(store: Store, images: Images, lines: list[str]) -> tuple[Notes, dict[str, dict[str, int]]]:
    """Return the findings and the rows of each class."""
    notes = Notes()
    twins = TwinFinder(store.root, notes)
    counts = {split: dict(classes) for split, classes in images.counts.items()}
    for (split, label, path), line in zip(images.places, lines, strict=True):
        if line.startswith(_READ):
            pixels, _, largest = line.removeprefix(_READ).partition(" ")
            counts[split][label] += 1
            twins.add(split, path, pixels.encode())
            notes.see(int(largest) if largest else None)
        else:
            notes.unreadable.append((relative(path, store.root), line.removeprefix(_LEFT_OUT)))
    return notes, counts
