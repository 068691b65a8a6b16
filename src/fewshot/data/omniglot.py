"""Load Omniglot (Lake, Salakhutdinov, Tenenbaum 2015).

There are 1,623 handwritten characters of 50 alphabets, with 20 drawings each.
"""

import hashlib
import io
import lzma
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path
from urllib.request import urlopen
from uuid import uuid4

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from fewshot.data.paths import cache_folder, expand_home
from fewshot.data.progress import progress as show_progress
from fewshot.data.split import Split
from fewshot.data.split_cache import cached, check_image_size, check_memory
from fewshot.errors import UserError

URL = "https://github.com/brendenlake/omniglot/raw/master/python"
CLASSES = {"images_background": 964, "images_evaluation": 659}  # archive -> its characters
MD5 = {  # of the archives at URL; a repacked archive on disk is as good, if whole
    "images_background": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation": "6b91aef0f799c5bb55b94e3f2daec811",
}
LARGEST_DRAWING = 1 << 20  # bytes of a file; the largest original has a few hundred
DRAWINGS = 20
SIDE = 105  # pixels of an original image
VERSION = 1  # raise it when the decoding changes, so that caches are built again

SPLITS = ("random", "vinyals", "lake", "background")
RESIZES = ("antialiased", "bilinear", "lanczos")
RANDOM_SIZES = {"train": 1100, "val": 100, "test": 423}
RANDOM_SALT = "omniglot-random-v1"
# None of these has a sibling among the other background alphabets, as Georgian or the Aboriginal syllabics have.
LAKE_VAL = ("Armenian", "Burmese_(Myanmar)", "Futurama", "N_Ko", "Tagalog")


class Omniglot:
    """Load the splits of Omniglot.

    The splits are ``train``, ``val`` and ``test``. Ink is 255, the background 0. An image is inverted (the originals
    are dark on white), then resized.

    Args:
        root: the folder of ``images_background.zip`` and ``images_evaluation.zip``, or of the
            folders extracted from them.
        cache_dir: where the decoded images are kept (25 MB at the default size), once for all values
            of ``split``; when they are there, ``root`` is not read. Nothing else is written to ``root``
            than a downloaded archive.
        split: ``random`` (1,100 / 100 / 423 characters), ``vinyals`` (1,028 / 172 / 423, Vinyals et al.
            2016, without the rotated copies) or ``lake`` (the background alphabets train, five of them
            validate, the evaluation alphabets test) or ``background`` (all 964 background characters
            train, the 659 evaluation characters test; there is no ``val``).
        image_size: height and width.
        download: fetch a missing archive into ``root``.
        resize: ``antialiased`` (Pillow's bilinear filter, which averages over the whole of a shrunk pixel),
            ``bilinear`` (between the four nearest pixels only, centres at half pixels, as TensorFlow 2's
            ``tf.image.resize``) or ``lanczos`` (Pillow's, as learn2learn's Omniglot).

    Raises:
        UserError: ``split`` or ``resize`` is none of these, or ``image_size`` is not allowed.
    """

    def __init__(
        self,
        root: str | Path,
        cache_dir: str | Path,
        split: str = "random",
        image_size: int = 28,
        download: bool = True,
        resize: str = "antialiased",
    ) -> None:
        if split not in SPLITS:
            raise UserError(f"there is no Omniglot split {split!r}: choose one of {', '.join(SPLITS)}")
        if resize not in RESIZES:
            raise UserError(f"data.resize={resize}: choose one of {', '.join(RESIZES)}")
        check_image_size(image_size)
        check_memory(sum(CLASSES.values()) * DRAWINGS, (1, image_size, image_size), "data.image_size")
        self.root = expand_home(root, "write data_dir=DIR out")
        suffix = "" if resize == "antialiased" else f"-{resize}"
        self.path = cache_folder(cache_dir) / f"omniglot-v{VERSION}-{image_size}{suffix}.npz"
        self.split = split
        self.image_size = image_size
        self.resize = resize
        self.download = download

    def load(self) -> dict[str, Split]:
        """Return the splits by name.

        Images are ``(classes * 20, 1, S, S)`` uint8.

        Raises:
            UserError: the data is missing and cannot be downloaded, or is not all of Omniglot;
                or a folder cannot be written.
        """
        archives = cached(self.path, self._decode)
        images = torch.cat([archive.images for archive in archives.values()]).unflatten(0, (-1, DRAWINGS))
        names = [name for archive in archives.values() for name in archive.classes]
        row = {name: index for index, name in enumerate(names)}
        parts = _parts(self.split, {key: archive.classes for key, archive in archives.items()})
        return {
            key: Split(
                f"omniglot-{self.split}/{key}",
                images[[row[name] for name in part]].flatten(0, 1),
                torch.full((len(part),), DRAWINGS),
                tuple(part),
            )
            for key, part in parts.items()
        }

    def _decode(self) -> dict[str, Split]:
        return {archive: self._decode_one(archive) for archive in CLASSES}

    def _decode_one(self, archive: str) -> Split:
        with open_archive(self.root, archive, self.download) as (source, contents, classes):
            images = [
                _read_drawing(source, contents, member, self.image_size, self.resize)
                for members in show_progress(classes.values(), len(classes), f"Reading {source.name}")
                for member in members
            ]
        counts = torch.full((len(classes),), DRAWINGS)
        return Split(f"omniglot/{archive}", torch.from_numpy(np.stack(images))[:, None], counts, tuple(classes))


def _parts(split: str, archives: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """Return the class names of each part, sorted."""
    background, evaluation = archives.values()
    if split == "random":
        # The order of a hash, not of a random generator, whose stream may change with a library.
        order = sorted([*background, *evaluation], key=lambda name: sha256(f"{RANDOM_SALT}/{name}".encode()).digest())
        first_val = RANDOM_SIZES["train"]
        first_test = first_val + RANDOM_SIZES["val"]
        parts = {"train": order[:first_val], "val": order[first_val:first_test], "test": order[first_test:]}
    elif split == "vinyals":
        parts = vinyals_split()
    elif split == "background":
        parts = {"train": list(background), "test": list(evaluation)}
    else:
        val = {name for name in background if name.split("/")[0] in LAKE_VAL}
        parts = {"train": [name for name in background if name not in val], "val": list(val), "test": list(evaluation)}
    return {key: sorted(names) for key, names in parts.items()}


def vinyals_split() -> dict[str, list[str]]:
    """Return the split of Vinyals et al. (2016).

    The file ``omniglot_vinyals.txt`` has lines ``part alphabet first-last,...``.
    """
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for line in (files("fewshot.data") / "omniglot_vinyals.txt").read_text("utf-8").splitlines():
        if line.startswith("#"):
            continue
        part, alphabet, ranges = line.split()
        for first, last in (span.split("-") for span in ranges.split(",")):
            parts[part] += [f"{alphabet}/character{n:02}" for n in range(int(first), int(last) + 1)]
    return parts


def _find(root: Path, archive: str, download: bool) -> Path:
    """Find or download an archive.

    Returns:
        the archive, else its extracted folder, else the archive after a download.
    """
    path = root / f"{archive}.zip"
    folder = root / archive
    try:
        if path.is_file():
            return path
        if folder.is_dir():
            return folder
    except OSError as error:
        raise UserError(f"cannot look into {root} ({error.strerror}): put {URL}/{archive}.zip at {path}") from error
    if not download:
        raise UserError(f"Omniglot is not there: put {URL}/{archive}.zip at {path}, or allow the download")
    _download(f"{URL}/{archive}.zip", path, MD5[archive])
    return path


def _download(url: str, path: Path, md5: str) -> None:
    """Download a file and check its checksum.

    A failed download leaves no file.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = temporary.open("wb")
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"cannot write to {path.parent} ({reason}): choose another data folder, or put {url} at {path}"
        ) from error
    columns = (TextColumn("Downloading {task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with file, urlopen(url, timeout=30) as response, Progress(*columns, console=Console(stderr=True)) as progress:
            size = int(response.headers["Content-Length"] or 0)
            task = progress.add_task(path.name, total=size or None)
            while chunk := response.read(1 << 16):
                file.write(chunk)
                digest.update(chunk)
                progress.advance(task, len(chunk))
            if file.tell() < size:
                raise HTTPException(f"{file.tell():,} of {size:,} bytes came")
        if digest.hexdigest() != md5:
            raise HTTPException(f"what came has the MD5 checksum {digest.hexdigest()}, not {md5}")
        temporary.replace(path)
    except (OSError, HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"cannot download {url} ({reason}): fetch it on a machine that can, and put it at {path}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


class _Folder:
    """Read an extracted archive like a zip file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def namelist(self) -> list[str]:
        """List the images, by relative path.

        The paths begin with the name of the folder.
        """
        return [f"{self.folder.name}/{p.relative_to(self.folder).as_posix()}" for p in self.folder.glob("*/*/*.png")]

    def size(self, name: str) -> int:
        """Return the bytes of an image.

        Raises:
            ValueError: the file is no regular file.
        """
        status = (self.folder.parent / name).stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("a named pipe, a device or a folder")
        return status.st_size

    def read(self, name: str) -> bytes:
        """Return the content of an image."""
        return (self.folder.parent / name).read_bytes()


class _Archive(zipfile.ZipFile):
    """Read a zip file and its members' sizes."""

    def size(self, name: str) -> int:
        """Return the bytes of an unpacked image.

        No more bytes are read.
        """
        return self.getinfo(name).file_size


@contextmanager
def open_archive(
    root: Path, archive: str, download: bool = True
) -> Iterator[tuple[Path, _Archive | _Folder, dict[str, list[str]]]]:
    """Open an archive and list its classes.

    Yields:
        the path, the contents, and the members of each class; classes and members are sorted.

    Raises:
        UserError: the archive is missing and cannot be downloaded, or is not all of its part of Omniglot.
    """
    source = _find(root, archive, download)
    with _open_source(source) as contents:
        yield source, contents, _check(archive, source, contents)


@contextmanager
def _open_source(source: Path) -> Iterator[_Archive | _Folder]:
    if source.is_dir():
        yield _Folder(source)
        return
    try:
        archive = _Archive(source)
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise UserError(f"{source} is no readable zip file ({error}): {_instead(source)}") from error
    with archive:
        yield archive


def _check(archive: str, source: Path, contents: _Archive | _Folder) -> dict[str, list[str]]:
    """Return ``{"Latin/character01": [its 20 members]}``, both sorted."""
    pattern = re.compile(rf"{archive}/([^/]+/character\d+)/[^/.][^/]*\.png")
    classes: dict[str, list[str]] = {}
    for member in sorted(contents.namelist()):
        if match := pattern.fullmatch(member):
            classes.setdefault(match[1], []).append(member)
    if len(classes) != CLASSES[archive]:
        found = f"{len(classes)} folders {archive}/<alphabet>/character<nn> with images, not {CLASSES[archive]}"
        raise UserError(f"{source} holds {found}: {_instead(source)}")
    for name, members in classes.items():
        if len(members) != DRAWINGS:
            raise UserError(f"{source} holds {len(members)} images of {name}, not {DRAWINGS}: {_instead(source)}")
    return dict(sorted(classes.items()))


def read_member(source: Path, contents: _Archive | _Folder, member: str) -> bytes:
    """Return the file of a drawing.

    Raises:
        UserError: the member is damaged, too large, or packed in a way that cannot be read.
    """
    try:
        if contents.size(member) > LARGEST_DRAWING:
            raise ValueError(f"{contents.size(member):,} bytes")
        return contents.read(member)
    # A RuntimeError asks for a password or names an unknown compression.
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise _unreadable(source, member, error) from error


def _read_drawing(source: Path, contents: _Archive | _Folder, member: str, size: int, resize: str) -> NDArray[np.uint8]:
    """Return a drawing ``(size, size)`` uint8, ink 255."""
    content = read_member(source, contents, member)
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=("PNG",))
        if image.size == (SIDE, SIDE):  # else not decoded: a small file may hold very many pixels
            image = image.convert("L")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise _unreadable(source, member, error) from error
    if image.size != (SIDE, SIDE):
        raise UserError(
            f"{source} has {member} at {image.width} x {image.height}, not {SIDE} x {SIDE}: {_instead(source)}"
        )
    inverted = 255 - np.asarray(image)
    if resize == "bilinear":
        x = torch.from_numpy(inverted)[None, None].float()
        x = F.interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=False)
        return x[0, 0].round().byte().numpy()
    kernel = Image.Resampling.LANCZOS if resize == "lanczos" else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(inverted).resize((size, size), kernel))


def _unreadable(source: Path, member: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{source} has an unreadable image {member} ({reason}): {_instead(source)}")


def _instead(source: Path) -> str:
    """Tell how to replace a bad archive."""
    archive = source.name.removesuffix(".zip")
    return f"delete it and put {URL}/{archive}.zip at {source.with_name(archive)}.zip"
