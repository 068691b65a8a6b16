"""Make folders of images whose splits, classes and pixels are known, and turn cases into trials."""

import logging
import os
import shutil
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from trial_kinds import ACCEPTED, KINDS, REFUSED, WRONG, Trial

NOBODY = 65534  # a user without rights
LOSSLESS = (("png", {}), ("bmp", {}), ("tiff", {}), ("webp", {"lossless": True}), ("ppm", {}), ("PNG", {}))
Values = dict[str, list[int]]  # class -> the grey of each image
CASES: list[Callable[["Made"], None]] = []


@dataclass
class Made:
    """Hold a folder of images, and what loading the folder must give.

    Attributes:
        root: the folder, which is given as ``data.root``.
        random: draws sizes, formats, values and places.
        wanted: split -> class -> greys in any order, of channels=1 and image_size=4; the split "any" holds classes that
            are divided at random.
        says: patterns that must be printed; nothing may be printed where there are none.
        refused: a pattern of the error, for a folder that must be refused.
        options: more arguments of ``ImageFolder``.
        tolerance: how far a grey may be from the wanted one.
        loose: classes of which nothing is known but that they are there.
        as_nobody: read as a user without rights.
        fewest: images of a class.
    """

    root: Path
    random: Random
    wanted: dict[str, Values] = field(default_factory=dict)
    says: list[str] = field(default_factory=list)
    refused: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    tolerance: int = 0
    loose: set[str] = field(default_factory=set)
    as_nobody: bool = False
    fewest: int = 1

    def __post_init__(self) -> None:
        self._greys = [grey for grey in range(1, 254) if grey % 64 > 16 and abs(grey - 60) > 3]  # the rest are of cases
        self.random.shuffle(self._greys)

    def grey(self) -> int:
        """Draw a grey that no other image has."""
        return self._greys.pop()

    def image(self, folder: Path | str, grey: int | None = None, name: str = "") -> int:
        """Paint an image of one grey, in a format of random choice; return the grey."""
        grey = self.grey() if grey is None else grey
        place = self.root / folder
        place.mkdir(parents=True, exist_ok=True)
        suffix, options = self.random.choice(LOSSLESS)
        size = (self.random.randint(1, 40), self.random.randint(1, 40))
        file = place / (name or f"{len(list(place.iterdir()))}.{suffix}")
        mode = self.random.choice(("L", "RGB"))
        Image.new("L", size, grey).convert(mode).save(file, {"PNG": "png"}.get(suffix, suffix), **options)
        return grey

    def classes(self, split: str, names: list[str], folder: str | None = None) -> None:
        """Paint a few images of each class, and want them in ``split``."""
        for name in names:
            greys = [
                self.image(Path(folder or "", name)) for _ in range(self.random.randint(self.fewest, self.fewest + 2))
            ]
            self.wanted.setdefault(split, {}).setdefault(name, []).extend(greys)

    def splits(self, **folders: str) -> None:
        """Paint two or three classes of each split, in folders of these names."""
        for split in ("train", "val", "test"):
            names = [f"{split}{number}" for number in range(self.random.randint(2, 3))]
            self.classes(split, names, folders.get(split, split))

    def flat(self, number: int = 0) -> None:
        """Paint classes that are divided at random."""
        self.classes("any", [f"c{place}" for place in range(number or self.random.randint(3, 9))])

    def some(self) -> Path:
        """Return the folder of a class that is there, of random choice."""
        return self.random.choice(sorted({file.parent for file in self.root.rglob("*") if file.is_file()}))


def case(function: Callable[[Made], None]) -> Callable[[Made], None]:
    """Register a case as a kind of trials under the name of its module and function."""

    def kind(random: Random, workshop: Path) -> Trial:
        top = emptied(workshop)
        made = Made(top / "images", random)
        function(made)
        right = REFUSED if made.refused else ACCEPTED
        says = (*([made.refused] if made.refused else []), *made.says)
        return Trial(
            function.__name__,
            lambda: _load(made, top),
            right,
            says,
            quiet=not (made.says or made.loose or made.tolerance),
        )

    KINDS[f"{function.__module__.rpartition('.')[2]}.{function.__name__}"] = kind
    CASES.append(function)
    return function


def emptied(workshop: Path) -> Path:
    """Return the folder for damaged files, with nothing in the folder; closed folders are removed too."""
    top = workshop / "try"
    for _, folders, _, here in os.fwalk(top):  # by descriptors: paths may be too long
        for name in folders:
            if stat.S_ISDIR(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode):
                os.chmod(name, stat.S_IRWXU, dir_fd=here)
    shutil.rmtree(top)
    top.mkdir()
    return top


def _load(made: Made, top: Path) -> int:
    from fewshot.command.exit_status import explain
    from fewshot.data import ImageFolder
    from fewshot.errors import UserError
    from fewshot.startup import quiet_libraries

    quiet_libraries()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    cache = top / "cache"
    if made.as_nobody and os.getuid() == 0:
        cache.mkdir()
        for folder in (top, top.parent, cache):
            folder.chmod(0o777)
        os.seteuid(NOBODY)
    options = {"channels": 1, "image_size": 4} | made.options
    try:
        splits = ImageFolder(made.root, cache, **options).load()
    except UserError as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 1
    found = {
        split: {
            name: sorted(part.images[start : start + count, 0, 1, 1].tolist())
            for name, start, count in zip(part.classes, part.starts.tolist(), part.counts.tolist(), strict=True)
        }
        for split, part in splits.items()
    }
    uneven = [part.images.amax((1, 2, 3)) - part.images.amin((1, 2, 3)) for part in splits.values()]  # uint8, no sign
    whole = bool(made.loose) or max(int(part.max()) for part in uneven) <= made.tolerance
    if not whole or not _agree(found, made):
        print(f"found {found}\nwanted {made.wanted}\neach image of one grey: {whole}")
        return WRONG
    return 0


def _agree(found: dict[str, Values], made: Made) -> bool:
    if "any" in made.wanted:
        if len(found) < 2 or not all(found.values()):
            return False
        names = [name for classes in found.values() for name in classes]
        if len(names) != len(set(names)):
            return False
        found = {"any": {name: greys for classes in found.values() for name, greys in classes.items()}}
    if {split: set(classes) for split, classes in found.items()} != {
        split: set(classes) for split, classes in made.wanted.items()
    }:
        return False
    return all(
        name in made.loose or _same(found[split][name], greys, made)
        for split, classes in made.wanted.items()
        for name, greys in classes.items()
    )


def _same(found: list[int], wanted: list[int], made: Made) -> bool:
    return len(found) == len(wanted) and all(
        abs(one - other) <= made.tolerance for one, other in zip(found, sorted(wanted), strict=True)
    )
