"""List image files and folders of classes."""

import logging
import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fewshot.data.listing import File
from fewshot.data.paths import utf8_name
from fewshot.errors import UserError
from fewshot.files import printable

log = logging.getLogger(__name__)
# Files that lie beside images and are none. Any other is expected to be an image.
OTHER_SUFFIXES = (
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html", ".pdf", ".log", ".py", ".db",
    ".ini", ".mat", ".npy", ".npz", ".pkl", ".zip", ".tar", ".gz", ".doc", ".docx", ".xls", ".xlsx",
)  # fmt: skip
# Folders that network storage, operating systems and Python put beside images; in lower case.
HELPER_FOLDERS = frozenset(
    (
        "__macosx", "__pycache__", "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin",
        "system volume information", "lost+found", "network trash folder", "temporary items",
    )
)  # fmt: skip


@dataclass
class _Walk:
    """Collect image files and unreadable folders.

    Attributes:
        found: (relative path of the folder, its image files).
        unreadable: (relative path, reason).
        doubled: (relative path, relative path) of a link and the folder that is read already.
    """

    found: list[tuple[str, list[File]]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    doubled: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Folder:
    """Hold a folder to be read.

    Attributes:
        path, name: the path, and the path from the top.
        above: device and number of the folders above.
        linked: the path leads through a link.
    """

    path: str
    name: str
    above: frozenset[tuple[int, int]]
    linked: bool = False


def scan(top: Path, first_level: bool = False, root: Path | None = None) -> dict[str, list[File]]:
    """Find the folders with images below ``top``.

    Keys are paths from ``top``; folders and files are sorted. Links are followed, but a folder is read once: one line
    names links to folders that are read already. Files in ``top`` itself belong to no class. Hidden files and folders,
    and folders that systems create (``HELPER_FOLDERS``), are passed over. Names are in Unicode's composed form (NFC),
    so that one name written in two ways is one class. One line names folders that cannot be read.

    Args:
        top: the folder.
        first_level: the folders directly in ``top`` are the classes, whatever lies between these and the images.
        root: a folder above ``top``, to which no link leads back.

    Returns:
        the image files of each folder.

    Raises:
        UserError: ``top`` cannot be read.
    """
    walk = _walk(top, root)
    classes: dict[str, list[File]] = {}
    spellings: dict[str, set[str]] = {}
    for folder, files in walk.found:
        if not folder:
            continue
        written = folder.split("/")[0] if first_level else folder
        name = composed(utf8_name(written))
        classes.setdefault(name, []).extend(files)
        spellings.setdefault(name, set()).add(written)
    if doubled := sorted(name for name, written in spellings.items() if len(written) > 1):
        log.warning(
            "%s: %d names are written in two Unicode forms, each of which is taken as one class: %s",
            printable(str(top)),
            len(doubled),
            printable(", ".join(doubled[:5])),
        )
    return {name: sorted(classes[name], key=lambda file: file.path) for name in sorted(classes)}


def say_case(top: Path, classes: Iterable[str]) -> None:
    """Log a line if names differ only in upper and lower case."""
    first: dict[str, str] = {}
    pairs = [
        (first[folded], name) for name in sorted(classes) if first.setdefault(folded := name.casefold(), name) != name
    ]
    if pairs:
        log.warning(
            "%s: %s differ only in upper and lower case: each is taken as a class of its own%s",
            printable(str(top)),
            " and ".join(repr(printable(name)) for name in pairs[0]),
            f" ({len(pairs)} such names)" if len(pairs) > 1 else "",
        )


def list_images(top: Path) -> list[File]:
    """List the image files of ``top``, sorted by path.

    Files in ``top`` itself are listed too.

    Raises:
        UserError: ``top`` cannot be read.
    """
    return sorted((file for _, files in _walk(top).found for file in files), key=lambda file: file.path)


def list_folders(top: Path) -> list[str]:
    """List the usual folders in ``top``.

    Hidden folders and folders that systems create are left out.

    Raises:
        UserError: ``top`` cannot be read.
    """
    try:
        return sorted(entry.name for entry in os.scandir(top) if not is_helper(entry.name) and _is_folder(entry))
    except OSError as error:
        raise _unreadable(top, error) from error


def composed(name: str) -> str:
    """Return a name in Unicode's composed form.

    Equal names become equal strings.
    """
    return unicodedata.normalize("NFC", name)


def is_helper(name: str) -> bool:
    """Tell whether a name is hidden or a system's."""
    return name.startswith(".") or name.casefold() in HELPER_FOLDERS


def file_state(entry: os.DirEntry[str]) -> File:
    """Return a file with its size and modification time.

    Both are 0 for a link to nothing.
    """
    try:
        status = entry.stat()
    except OSError:  # the decoder says so
        return File(entry.path, 0, 0)
    return File(entry.path, status.st_size, status.st_mtime_ns)


def _walk(top: Path, root: Path | None = None) -> _Walk:
    walk = _Walk()
    seen: dict[tuple[int, int], str] = {}
    todo = [_Folder(str(top), "", frozenset() if root is None else _identity(root))]
    links: list[_Folder] = []
    while todo or links:
        if not todo:  # links last, and in order: the folder itself names a class, not a link to the folder
            links.sort(key=lambda link: link.name, reverse=True)
        folder = todo.pop() if todo else links.pop()
        files: list[File] = []
        try:
            status = os.stat(folder.path)
            here = (status.st_dev, status.st_ino)
            if here in folder.above:  # a link to a folder above itself
                continue
            if folder.linked and here in seen:  # without this, links among folders have endless paths
                walk.doubled.append((folder.name, seen[here]))
                continue
            seen.setdefault(here, folder.name)
            for entry in _entries(folder.path, folder.name, walk):
                if entry.is_dir():
                    name = f"{folder.name}/{entry.name}" if folder.name else entry.name
                    linked = entry.is_symlink()
                    below = _Folder(entry.path, name, folder.above | {here}, linked or folder.linked)
                    (links if linked else todo).append(below)
                elif not entry.name.lower().endswith(OTHER_SUFFIXES):
                    files.append(file_state(entry))
        except OSError as error:
            if not folder.name:
                raise _unreadable(top, error) from error
            walk.unreadable.append((folder.name, error.strerror or str(error)))
        if files:
            walk.found.append((folder.name, files))
    _say_left_out(walk, top)
    return walk


def _identity(folder: Path) -> frozenset[tuple[int, int]]:
    status = os.stat(folder)
    return frozenset({(status.st_dev, status.st_ino)})


def _say_left_out(walk: _Walk, top: Path) -> None:
    """Log unreadable folders, and links to folders that are read already."""
    lines = (
        (
            "folders or links cannot be read and are left out",
            [f"{name} ({reason})" for name, reason in walk.unreadable],
        ),
        (
            "links lead to folders that are read already, and are left out",
            [f"{link} -> {name or '.'}" for link, name in walk.doubled],
        ),
    )
    for line, items in lines:
        if items:
            shown = ", ".join(printable(item) for item in items[:3])
            more = f" and {len(items) - 3} more" if len(items) > 3 else ""
            log.warning("%s: %d %s: %s%s", printable(str(top)), len(items), line, shown, more)


def _entries(folder: str, name: str, walk: _Walk) -> Iterator[os.DirEntry[str]]:
    """Yield the usual entries of a folder.

    Helper files and links to themselves are left out.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_helper(entry.name):
                continue
            try:
                entry.is_dir()
            except OSError as error:
                walk.unreadable.append((f"{name}/{entry.name}" if name else entry.name, error.strerror or str(error)))
            else:
                yield entry


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _unreadable(top: Path, error: OSError) -> UserError:
    return UserError(
        f"{printable(str(top))} cannot be read ({error.strerror or error}): allow it, or name another folder"
    )
