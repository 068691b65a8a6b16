"""Your own images: a folder of folders, each of which is a class."""

import logging
import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from fewshot.data.image_store import Decoding, File, enough, stored
from fewshot.data.split import Split, assert_disjoint
from fewshot.errors import UserError

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")
# Files that lie beside images and are none. Any other is expected to be one.
BESIDE = (
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html", ".pdf", ".log", ".py", ".db",
    ".ini", ".mat", ".npy", ".npz", ".pkl", ".zip", ".tar", ".gz", ".doc", ".docx", ".xls", ".xlsx",
)  # fmt: skip


class ImageFolder:
    """Splits ``train``, ``val`` and ``test`` of the images below ``root``.

    ``root/{train,val,test}/<class>/*`` (``val`` may be missing), or ``root/<class>/*``, whose classes are then split at
    random. A class is a folder that directly holds images; its name is its path, such as ``Latin/character01``.
    Hidden files and those that are known to be no images (text, tables, archives) are passed over. The images are
    decoded once, see ``fewshot.data.image_store``.

    Args:
        root: the folder.
        cache_dir: where the decoded images are kept.
        channels, image_size, fit, invert: as ``fewshot.data.images.decode``.
        shares: the parts of the classes that ``train``, ``val`` and ``test`` get, relative to one another; a split
            with the share 0 is left out. For a folder without these splits.
        split_seed: of that split.
        least: numbers whose sum a class of each split needs in images; a class with fewer is left out.
        name: of the data set, for messages and fingerprints.
        hint: how to get the data, for the message that it is missing.

    Raises:
        UserError: no ``root`` is given, or ``shares`` are none.
    """

    def __init__(
        self,
        root: str | Path | None,
        cache_dir: str | Path,
        channels: int = 3,
        image_size: int = 84,
        fit: str = "resize",
        invert: bool = False,
        shares: Mapping[str, float] | None = None,
        split_seed: int = 0,
        least: Mapping[str, Sequence[int]] | None = None,
        name: str = "folder",
        hint: str = "",
    ) -> None:
        if root is None:
            raise UserError("data.root=null: name the folder of your images, data.root=DIR")
        self.root, self.cache_dir, self.name, self.hint = Path(root).expanduser(), cache_dir, name, hint
        self.decoding = Decoding(channels, image_size, fit, invert)
        self.shares = dict(shares or {"train": 0.64, "val": 0.16, "test": 0.2})
        self.split_seed = split_seed
        self.least = {split: sum(numbers) for split, numbers in (least or {}).items()}
        wrong = set(self.shares) - set(SPLITS) or any(share < 0 for share in self.shares.values())
        if wrong or not all(self.shares.get(split) for split in ("train", "test")):
            raise UserError(f"data.shares={self.shares}: needs train, test and, if wanted, val, none below 0")

    def load(self) -> dict[str, Split]:
        """``{"train": ..., "val": ..., "test": ...}``, or without ``val``; images ``(M, C, S, S)`` uint8.

        Raises:
            UserError: the folder is missing, or holds no class, too few of them, or no readable image; a class is in
                two splits; or the cache folder cannot be written.
        """
        if not self.root.is_dir():
            told = f": {self.hint}" if self.hint else ": data.root=DIR names the folder of your images"
            raise UserError(f"{self.root} is no folder{told}")
        listing = self._in_splits() or self._split_by_class()
        splits = stored(self.cache_dir, self.name, self.root, listing, self.decoding)
        return enough(splits, self.least, self.root)

    def _in_splits(self) -> dict[str, dict[str, list[File]]] | None:
        """The classes of ``root/train`` and so on; None where the folders of ``root`` are no splits."""
        folders = {entry.name for entry in os.scandir(self.root) if entry.is_dir() and not _passed_over(entry.name)}
        own, others = folders.intersection(SPLITS), sorted(folders.difference(SPLITS))
        if not own or (others and not {"train", "test"} <= own):
            return None
        if missing := sorted({"train", "test"} - own):
            raise UserError(f"{self.root} has {' and '.join(sorted(own))}, but no {' and '.join(missing)}: add it")
        if others:
            log.warning("%s: only %s are read, not %s", self.root, ", ".join(sorted(own)), ", ".join(others[:5]))
        listing = {split: scan(self.root / split) for split in SPLITS if split in own}
        for split, classes in listing.items():
            self._refuse_none(self.root / split, classes)
        assert_disjoint(listing)
        return listing

    def _split_by_class(self) -> dict[str, dict[str, list[File]]]:
        classes = scan(self.root)
        self._refuse_none(self.root, classes)
        # The order of a hash, not of a random generator, whose stream may change with a library.
        order = sorted(classes, key=lambda name: sha256(f"{self.split_seed}/{name}".encode()).digest())
        wanted = [split for split in SPLITS if self.shares.get(split)]
        if len(order) < len(wanted):
            raise UserError(
                f"{self.root} has {len(order)} classes, too few for {', '.join(wanted)}: add some"
                + (", or set data.shares.val=0" if len(wanted) == 3 else "")
            )
        total, listing = sum(self.shares.values()), {}
        for split in reversed(wanted[1:]):  # what is left is for training
            number = max(1, round(len(classes) * self.shares[split] / total))
            number = min(number, len(order) - wanted.index(split))  # one at least for each of the others
            order, part = order[:-number], order[-number:]
            listing[split] = {name: classes[name] for name in sorted(part)}
        listing["train"] = {name: classes[name] for name in sorted(order)}
        return {split: listing[split] for split in wanted}

    def _refuse_none(self, folder: Path, classes: dict[str, list[File]]) -> None:
        if not classes:
            raise UserError(f"{folder} holds no class: put the images of each class into a folder of its own there")


def scan(top: Path) -> dict[str, list[File]]:
    """The folders below ``top`` that hold images, by their path from there, with their files; both sorted.

    Links are followed. Files in ``top`` itself belong to no class.
    """
    found: dict[str, list[File]] = {}
    todo: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(str(top), "", frozenset())]
    while todo:
        folder, name, above = todo.pop()
        here = os.stat(folder)
        if (here.st_dev, here.st_ino) in above:  # a link to a folder above it
            continue
        files = []
        for entry in os.scandir(folder):
            if _passed_over(entry.name):
                continue
            if entry.is_dir():
                inner = f"{name}/{entry.name}" if name else entry.name
                todo.append((entry.path, inner, above | {(here.st_dev, here.st_ino)}))
            elif not entry.name.lower().endswith(BESIDE):
                files.append(_file(entry))
        if files and name:
            # A name that is not UTF-8 can be neither printed nor hashed.
            shown = os.fsencode(name).decode("utf-8", "backslashreplace")
            found[shown] = sorted(files, key=lambda file: file.path)
    return dict(sorted(found.items()))


def list_images(top: Path) -> list[File]:
    """All files of ``scan``, and those in ``top`` itself; sorted by path."""
    inside = [file for files in scan(top).values() for file in files]
    own = [
        _file(entry)
        for entry in os.scandir(top)
        if not _passed_over(entry.name) and not entry.is_dir() and not entry.name.lower().endswith(BESIDE)
    ]
    return sorted(inside + own, key=lambda file: file.path)


def _passed_over(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _file(entry: os.DirEntry[str]) -> File:
    try:
        status = entry.stat()
    except OSError:  # a link to nothing: the decoder says so
        return File(entry.path, 0, 0)
    return File(entry.path, status.st_size, status.st_mtime_ns)
