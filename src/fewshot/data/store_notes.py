"""Note what is found while images become a store, and tell the user."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from fewshot.data.image_conversion import FULL_SCALE
from fewshot.files import printable, write_bytes

log = logging.getLogger(__name__)
NARROW = 4095  # largest value of a camera of 12 bits


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

    def see(self, largest: int | None) -> None:
        """Note the largest value of an image.

        None for an image of 8 bits.
        """
        if largest is not None:
            self.deepest = max(largest, self.deepest or 0)


class TwinFinder:
    """Find equal images of two splits, for ``notes``."""

    def __init__(self, root: Path, notes: Notes) -> None:
        self._root = root
        self._notes = notes
        self._first: dict[bytes, tuple[str, str]] = {}

    def add(self, split: str, path: str, pixels: bytes | memoryview) -> None:
        """Compare an image with all before."""
        owner, twin = self._first.setdefault(blake2b(pixels, digest_size=16).digest(), (split, path))
        if owner != split:
            self._notes.twins.append((relative(twin, self._root), relative(path, self._root)))


def relative(path: str, root: Path) -> str:
    """Return a path below ``root``, for messages."""
    return printable(os.path.relpath(path, root))


def report_notes(notes: Notes, root: Path, store: Path, files: int, full_scale: int) -> None:
    """Log unreadable files, equal images and dark images.

    Args:
        notes: on the images below ``root``.
        store: beside which all unreadable files are listed.
        files: how many there are.
        full_scale: the value that counted as white.
    """
    shown_root = printable(str(root))
    if notes.unreadable:
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
    if notes.deepest is not None and notes.deepest <= NARROW and full_scale == FULL_SCALE:
        white = 1023 if notes.deepest <= 1023 else NARROW
        log.warning(
            "%s: no 16-bit image passes %d of 65535, so all are nearly black: for a camera of %d bits "
            "set data.full_scale=%d",
            shown_root,
            notes.deepest,
            (white + 1).bit_length() - 1,
            white,
        )


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
