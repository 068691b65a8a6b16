"""List image files and folders of classes."""

import logging
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fewshot.data.image_store import File
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
    """

    found: list[tuple[str, list[File]]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)


def scan(top: Path, first_level: bool = False) -> dict[str, list[File]]:
    """Find the folders with images below ``top``.

    Keys are paths from ``top``; folders and files are sorted. Links are followed. Files in ``top`` itself belong to no
    class. Hidden files and folders, and folders that systems create (``HELPER_FOLDERS``), are passed over. Names are in
    Unicode's composed form (NFC), so that one name written in two ways is one class. One line names folders that cannot
    be read.

    Args:
        top: the folder.
        first_level: the folders directly in ``top`` are the classes, whatever lies between these and the images.

    Returns:
        the image files of each folder.

    Raises:
        UserError: ``top`` cannot be read.
    """
    walk = _walk(top)
    classes: dict[str, list[File]] = {}
    spellings: dict[str, set[str]] = {}
    for folder, files in walk.found:
        if not folder:
            continue
        written = utf8_name(folder.split("/")[0] if first_level else folder)
        name = composed(written)
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


def _walk(top: Path) -> _Walk:
    walk = _Walk()
    todo: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(str(top), "", frozenset())]
    while todo:
        folder, name, above = todo.pop()
        files: list[File] = []
        try:
            status = os.stat(folder)
            here = (status.st_dev, status.st_ino)
            if here in above:  # a link to a folder above itself
                continue
            for entry in _entries(folder, name, walk):
                if entry.is_dir():
                    todo.append((entry.path, f"{name}/{entry.name}" if name else entry.name, above | {here}))
                elif not entry.name.lower().endswith(OTHER_SUFFIXES):
                    files.append(file_state(entry))
        except OSError as error:
            if not name:
                raise _unreadable(top, error) from error
            walk.unreadable.append((name, error.strerror or str(error)))
        if files:
            walk.found.append((name, files))
    if walk.unreadable:
        shown = ", ".join(f"{printable(name)} ({reason})" for name, reason in walk.unreadable[:3])
        more = f" and {len(walk.unreadable) - 3} more" if len(walk.unreadable) > 3 else ""
        log.warning(
            "%s: %d folders or links cannot be read and are left out: %s%s",
            printable(str(top)),
            len(walk.unreadable),
            shown,
            more,
        )
    return walk


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
