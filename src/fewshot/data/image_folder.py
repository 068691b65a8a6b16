"""Load your own images from folders of classes."""

import logging
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from fewshot.data.class_folders import list_folders, scan
from fewshot.data.image_store import File, keep_large_classes, stored
from fewshot.data.images import FULL_SCALE, Decoding
from fewshot.data.paths import expand_home
from fewshot.data.split import Split
from fewshot.errors import UserError

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")
# Usual names of splits, in lower case, without "meta", "set", hyphens and underscores.
SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip

Classes = dict[str, list[File]]


class ImageFolder:
    """Load the splits of the images below ``root``.

    The splits are ``train``, ``val`` and ``test``. The files are ``root/{train,val,test}/<class>/*`` (``val`` may be
    missing; usual other names such as ``valid`` and ``Testing`` are known), or ``root/<class>/*``, whose classes are
    then split at random. A class is a folder that directly holds images; its name is its path, such as
    ``Latin/character01``. Hidden files, folders that systems create, and files that are known to be no images (text,
    tables, archives) are passed over. The images are decoded once, see ``fewshot.data.image_store``.

    Args:
        root: the folder.
        cache_dir: where the decoded images are kept.
        channels, image_size, fit, invert, full_scale: see ``fewshot.data.images.Decoding``.
        shares: the parts of the classes that ``train``, ``val`` and ``test`` get, relative to one another; a split
            with the share 0 is left out. For a folder without these splits.
        split_seed: of that split.
        least: numbers whose sum a class of each split needs in images; a class with fewer is left out.
        name: of the data set, for messages and fingerprints.
        hint: how to get the data, for the message that it is missing.

    Raises:
        UserError: no ``root`` is given, or a setting is not allowed.
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
        full_scale: int = FULL_SCALE,
    ) -> None:
        if root is None:
            raise UserError("data.root=null: name the folder of your images, data.root=DIR")
        self.root = expand_home(root, "write data.root=DIR out")
        self.cache_dir = cache_dir
        self.name = name
        self.hint = hint
        self.decoding = Decoding(channels, image_size, fit, invert, full_scale)
        self.shares = dict(shares or {"train": 0.64, "val": 0.16, "test": 0.2})
        self.split_seed = split_seed
        self.least = {split: sum(numbers) for split, numbers in (least or {}).items()}
        wrong = set(self.shares) - set(SPLITS) or any(share < 0 for share in self.shares.values())
        if wrong or not all(self.shares.get(split) for split in ("train", "test")):
            raise UserError(f"data.shares={self.shares}: needs train, test and, if wanted, val, none below 0")

    def load(self) -> dict[str, Split]:
        """Return the splits by name.

        Images are ``(M, C, S, S)`` uint8; ``val`` may be missing.

        Raises:
            UserError: the folder is missing, or holds no class, too few classes, or no readable image; a class is in
                two splits; or the cache folder cannot be written.
        """
        splits = stored(self.cache_dir, self.name, self.root, self.listing(), self.decoding)
        return keep_large_classes(splits, self.least, self.root)

    def listing(self) -> dict[str, Classes]:
        """Return the files of each class of each split.

        Raises:
            UserError: as ``load``, except of what decoding finds.
        """
        try:
            there = self.root.is_dir()
        except OSError as error:
            raise UserError(
                f"{self.root} cannot be read ({error.strerror}): allow it, or name another folder"
            ) from error
        if not there:
            raise UserError(f"{self.root} is no folder: {self.hint or 'data.root=DIR names the folder of your images'}")
        listing = self._given_splits() or self._split_by_class()
        _say_nested(self.root, [name for classes in listing.values() for name in classes])
        return listing

    def _given_splits(self) -> dict[str, Classes] | None:
        """List the classes of folders named like splits.

        For example the classes of ``root/train``. None if the folders are not splits.
        """
        names = list_folders(self.root)
        folders: dict[str, list[str]] = {}
        for name in names:
            if split := split_name(name):
                folders.setdefault(split, []).append(name)
        others = [name for name in names if not split_name(name)]
        if not folders or (others and not {"train", "test"} <= set(folders)):
            return None
        for split, doubled in folders.items():
            if len(doubled) > 1:
                raise UserError(f"{self.root} has {' and '.join(doubled)}, all names of {split}: keep one of them")
        own = {split: folders[split][0] for split in SPLITS if split in folders}
        if missing := sorted({"train", "test"} - set(own)):
            there = " and ".join(sorted(own.values()))
            raise UserError(
                f"{self.root} has {there}, but no {' and '.join(missing)}: add it, or point data.root at "
                f"{self.root / next(iter(own.values()))}, whose classes are then divided"
            )
        if others:
            read = ", ".join(sorted(own.values()))
            log.warning("%s: only %s are read, not %s", self.root, read, ", ".join(others[:5]))
        listing = {split: scan(self.root / folder) for split, folder in own.items()}
        for split, classes in listing.items():
            _refuse_no_class(self.root / own[split], classes)
        self._refuse_shared_classes(listing, own)
        return listing

    def _refuse_shared_classes(self, listing: Mapping[str, Classes], own: Mapping[str, str]) -> None:
        owner: dict[str, str] = {}
        for split, classes in listing.items():
            for name in classes:
                if owner.setdefault(name, split) == split:
                    continue
                raise UserError(
                    f"class {name!r} is in both {own[owner[name]]} and {own[split]}: splits must be disjoint, as "
                    "few-shot learning tests on classes that training has not seen. Point data.root at "
                    f"{self.root / own['train']}, whose classes are then divided; to label images of the classes that "
                    "you know, train there and use fewshot.classify"
                )

    def _split_by_class(self) -> dict[str, Classes]:
        classes = scan(self.root)
        _refuse_no_class(self.root, classes)
        _refuse_hidden_splits(self.root, classes)
        # Shares are of the classes that a task could use, whatever the task: a split that depends on the task would
        # let a class train for one task and test another. The others are kept to be named with their numbers.
        enough = min(2, *self.least.values()) if self.least else 1
        usable = [name for name in classes if len(classes[name]) >= enough]
        # The order of a hash, not of a random generator, whose stream may change with a library.
        order = sorted(usable, key=lambda name: sha256(f"{self.split_seed}/{name}".encode()).digest())
        wanted = [split for split in SPLITS if self.shares.get(split)]
        if len(order) < len(wanted):
            raise UserError(
                f"{self.root} has {len(order)} classes{f' of {enough} images or more' if enough > 1 else ''}, "
                f"too few for {', '.join(wanted)}: add some"
                + (", or set data.shares.val=0" if len(wanted) == 3 else "")
            )
        total = sum(self.shares.values())
        listing: dict[str, Classes] = {}
        for split in reversed(wanted[1:]):  # what is left is for training
            number = max(1, round(len(usable) * self.shares[split] / total))
            number = min(number, len(order) - wanted.index(split))  # one at least for each of the others
            part = order[-number:]
            order = order[:-number]
            listing[split] = {name: classes[name] for name in sorted(part)}
        small = set(classes).difference(usable)
        listing["train"] = {name: classes[name] for name in sorted({*order, *small})}
        return {split: listing[split] for split in wanted}


def split_name(folder: str) -> str | None:
    """Return the split that a folder's name means.

    For example ``val`` for ``Valid``; None for any other name.
    """
    return SPLIT_NAMES.get(re.sub(r"^meta|set$|[-_ ]", "", folder.casefold()))


def _refuse_no_class(folder: Path, classes: Classes) -> None:
    if not classes:
        raise UserError(f"{folder} holds no class: put the images of each class into a folder of its own there")


def _refuse_hidden_splits(root: Path, classes: Classes) -> None:
    """Refuse classes whose paths name two splits.

    For example ``a/train/cat`` and ``a/valid/cat``, which are one class of two splits.
    """
    seen: dict[tuple[str, ...], tuple[str, str]] = {}
    for name in classes:
        parts = tuple(name.split("/"))
        for depth, part in enumerate(parts):
            split = split_name(part)
            if split is None or len(parts) == 1:
                continue
            other, first = seen.setdefault(parts[:depth], (split, name))
            if other != split:
                raise UserError(
                    f"{root}: {first!r} and {name!r} look like classes of two splits, not like two classes: point "
                    "data.root at a folder of train, val and test, or of one folder a class, or rename the folders"
                )


def _say_nested(root: Path, names: Sequence[str]) -> None:
    """Log that classes are nested folders.

    The line is a warning if the last parts of two names are equal.
    """
    nested = [name for name in names if "/" in name]
    if not nested:
        return
    first: dict[str, str] = {}
    for name in nested:
        twin = first.setdefault(name.rpartition("/")[2], name)
        if twin != name:
            level = logging.WARNING
            shown = (twin, name)
            break
    else:
        level = logging.INFO
        shown = (nested[0], nested[-1])
    log.log(
        level,
        "%s: %d of %d classes are nested folders, such as %r and %r: each is a class of its own",
        root,
        len(nested),
        len(names),
        *shown,
    )
