"""Load the images of mini-ImageNet.

The images are of Vinyals et al. (2016), the splits of Ravi and Larochelle (2017).
"""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from fewshot.data.class_folders import file_state
from fewshot.data.class_shares import SPLITS
from fewshot.data.image_conversion import Decoding
from fewshot.data.image_store import stored
from fewshot.data.large_classes import keep_large_classes
from fewshot.data.listing import File
from fewshot.data.paths import expand_home
from fewshot.data.split import Split, assert_disjoint
from fewshot.errors import UserError


class MiniImageNet:
    """Load splits ``train``, ``val`` and ``test`` of ``root/images/*.jpg``.

    The files ``root/{train,val,test}.csv``, with the columns ``filename`` and ``label``, name the images of each split.

    Args:
        root: the folder of ``images`` and the csv files.
        cache_dir: where the decoded images are kept.
        channels, image_size, fit: see ``fewshot.data.image_conversion.Decoding``.
        least: numbers whose sum a class of each split needs in images; a class with fewer is left out.
    """

    def __init__(
        self,
        root: str | Path,
        cache_dir: str | Path,
        channels: int = 3,
        image_size: int = 84,
        fit: str = "resize",
        least: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.root = expand_home(root, "write data.root=DIR out")
        self.cache_dir = cache_dir
        self.name = "mini_imagenet"
        self.decoding = Decoding(channels, image_size, fit)
        self.least = {split: sum(numbers) for split, numbers in (least or {}).items()}

    def load(self) -> dict[str, Split]:
        """Return the splits by name.

        Images are ``(M, C, S, S)`` uint8.

        Raises:
            UserError: a file or folder is missing or damaged; or the cache folder cannot be written.
        """
        splits = stored(self.cache_dir, self.name, self.root, self.listing(), self.decoding)
        return keep_large_classes(splits, self.least, self.root)

    def listing(self) -> dict[str, dict[str, list[File]]]:
        """Return the files of each class of each split.

        Raises:
            UserError: a file or folder is missing or damaged.
        """
        images = self.root / "images"
        if not images.is_dir():
            raise UserError(
                f"{images} is no folder: put mini-ImageNet's 60,000 images there, and train.csv, val.csv and test.csv "
                "of Ravi and Larochelle (github.com/twitter-research/meta-learning-lstm, data/miniImagenet) beside it"
            )
        try:
            there = {entry.name: entry for entry in os.scandir(images)}
        except OSError as error:
            raise UserError(f"{images} cannot be read ({error.strerror}): allow it") from error
        listing = {split: self._list(split, there) for split in SPLITS}
        assert_disjoint(listing)
        return listing

    def _list(self, split: str, there: Mapping[str, os.DirEntry[str]]) -> dict[str, list[File]]:
        """List the files of a split, by class."""
        table = self.root / f"{split}.csv"
        if not table.is_file():
            raise UserError(
                f"{table} is missing: take it from data/miniImagenet of github.com/twitter-research/meta-learning-lstm"
            )
        try:
            with table.open(newline="", encoding="utf-8") as stream:
                rows = [(row["filename"], row["label"]) for row in csv.DictReader(stream)]
        except (OSError, KeyError, csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{table} has no columns filename and label ({error})") from error
        if missing := [name for name, _ in rows if name not in there]:
            raise UserError(f"{len(missing)} of {len(rows)} images of {table} are not in images/, such as {missing[0]}")
        if any(None in row for row in rows):
            raise UserError(f"{table} has a line without filename or label")
        if not rows:
            raise UserError(f"{table} names no image")
        classes: dict[str, list[File]] = {}
        for name, label in sorted(rows, key=lambda row: (row[1], row[0])):
            classes.setdefault(label, []).append(file_state(there[name]))
        return classes
