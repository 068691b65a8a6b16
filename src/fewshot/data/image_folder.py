"""Load your own images from folders of classes."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from fewshot.data.class_folders import list_folders, say_case, scan
from fewshot.data.class_shares import SHARES, SPLITS, check_shares, divide_classes, split_name
from fewshot.data.image_conversion import FULL_SCALE, Decoding
from fewshot.data.image_store import stored
from fewshot.data.large_classes import keep_large_classes
from fewshot.data.listing import Classes
from fewshot.data.paths import expand_home
from fewshot.data.split import Split
from fewshot.errors import UserError
from fewshot.files import printable

log = logging.getLogger(__name__)


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
        channels, image_size, fit, invert, full_scale: see ``fewshot.data.image_conversion.Decoding``.
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
        self.shares = dict(shares or SHARES)
        self.split_seed = split_seed
        self.least = {split: sum(numbers) for split, numbers in (least or {}).items()}
        check_shares(self.shares)

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
        names = [name for classes in listing.values() for name in classes]
        _say_nested(self.root, names)
        say_case(self.root, names)
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
            skipped = printable(", ".join(others[:5]))
            log.warning("%s: only %s are read, not %s", printable(str(self.root)), read, skipped)
        listing = {split: scan(self.root / folder, root=self.root) for split, folder in own.items()}
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
        enough = min(2, *self.least.values()) if self.least else 1
        sizes = {name: len(files) for name, files in classes.items()}
        divided = divide_classes(sizes, self.shares, self.split_seed, enough, self.root)
        return {split: {name: classes[name] for name in names} for split, names in divided.items()}


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
        printable(str(root)),
        len(nested),
        len(names),
        *shown,
    )
