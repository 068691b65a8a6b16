"""List the image files of each class of each split."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256


@dataclass(frozen=True, slots=True)
class File:
    """Hold the path and state of a file.

    A file with another size or modification time (ns) is another image.
    """

    path: str
    size: int
    modified: int


Classes = dict[str, list[File]]
Listing = Mapping[str, Mapping[str, list[File]]]  # split -> class -> files


def in_order(listing: Listing) -> list[tuple[str, str, str]]:
    """Return split, class and path of each file."""
    return [
        (split, label, file.path) for split, classes in listing.items() for label in classes for file in classes[label]
    ]


def no_rows(listing: Listing) -> dict[str, dict[str, int]]:
    """Return 0 for each class of each split."""
    return {split: dict.fromkeys(classes, 0) for split, classes in listing.items()}


def fingerprint_of(listing: Listing) -> str:
    """Hash all names, sizes and times."""
    digest = sha256()
    for split, classes in listing.items():
        for label, files in classes.items():
            lines = [f"{split}\0{label}", *(f"{file.path}\0{file.size}\0{file.modified}" for file in files), ""]
            digest.update("\n".join(lines).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
