"""Decode image files to small squares.

Files of any common format become squares of 8 bits.
"""

import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import (  # the plugins register themselves
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    ImageOps,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
    features,
)

from fewshot.data.image_conversion import FULL_SCALE, DecodedImage, Decoding, Pixels, Unreadable, convert
from fewshot.data.progress import progress

FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]  # no others, some of which run programs
if features.check("avif"):  # a matter of how Pillow was built
    from PIL import AvifImagePlugin  # noqa: F401

    FORMATS.append("AVIF")
BATCH = 32  # files that a thread decodes at a time
LARGEST_FILE = 2 << 30  # bytes
LARGEST_PACKED = 256 << 20  # bytes of the formats that are read whole, or byte by byte
_PACKED = (b"\xff\xd8", b"GIF8", b"RIFF")  # how JPEG, GIF and WebP begin; and the brands of AVIF
LARGE = 50_000_000  # pixels from which images are decoded one at a time
_one_large = Lock()
_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")


def decode(
    path: str | Path,
    channels: int,
    image_size: int,
    fit: str = "resize",
    invert: bool = False,
    full_scale: int = FULL_SCALE,
) -> Pixels:
    """Decode one file to pixels.

    Returns:
        ``(C, S, S)`` uint8.

    Raises:
        UserError: a setting is not allowed, see ``Decoding``.
        Unreadable: as ``decode_file``.
    """
    return decode_file(path, Decoding(channels, image_size, fit, invert, full_scale)).pixels


def decode_file(path: str | Path, decoding: Decoding) -> DecodedImage:
    """Decode one image file.

    The image is rotated upright, laid on white and resized with averaging. Formats: PNG, JPEG, WebP, BMP, GIF, TIFF,
    PNM and, where Pillow can, AVIF in any colour mode. Of several frames the first is taken; transparent pixels become
    white; 16 bits are scaled to 8.

    Raises:
        Unreadable: the file is no image, or not all of one, or too large, or cannot be opened.
    """
    size = decoding.image_size
    try:
        _refuse_special_file(path)
        with Image.open(path, formats=FORMATS) as image:
            if decoding.scale is None:  # pretrained networks want the exact pixels
                image.draft(None, (2 * size, 2 * size))  # a large JPEG shrinks while it is decoded
            with _one_large if image.width * image.height > LARGE else nullcontext():
                ImageOps.exif_transpose(image, in_place=True)
                return convert(image, decoding)
    except UnidentifiedImageError as error:
        raise Unreadable(_why_unidentified(path)) from error
    except Exception as error:
        raise _unreadable(error) from error


def decode_image(image: Image.Image, decoding: Decoding) -> DecodedImage:
    """Convert one image of Pillow's.

    The rules are the rules of ``decode_file``.

    Raises:
        Unreadable: as ``decode_file``.
    """
    try:
        return convert(ImageOps.exif_transpose(image), decoding)
    except Exception as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> Unreadable:
    """Return the reason for a failed decoding.

    Damaged files fail in many ways.
    """
    if isinstance(error, Unreadable):
        return error
    if isinstance(error, OSError):
        return Unreadable(error.strerror or str(error))
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return Unreadable(f"more than the {limit:,} pixels that are read: make it smaller")
    return Unreadable(f"damaged ({' '.join(str(error).split()) or type(error).__name__})")


def _refuse_special_file(path: str | Path) -> None:
    """Refuse files that are unsafe to read.

    Named pipes and devices never end, and very large files fill the memory.
    """
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise Unreadable("a folder")
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable("a named pipe or device, not a file")
    if status.st_size > LARGEST_FILE:
        raise Unreadable(f"larger than {LARGEST_FILE >> 30} GB")
    if status.st_size > LARGEST_PACKED:
        with open(path, "rb") as file:
            start = file.read(12)
        if start.startswith(_PACKED) or start[4:8] == b"ftyp":
            raise Unreadable(f"larger than {LARGEST_PACKED >> 20} MB")


def _why_unidentified(path: str | Path) -> str:
    """Say why no decoder knows a file."""
    try:
        with open(path, "rb") as file:
            start = file.read(12)
    except OSError as error:
        return error.strerror or str(error)
    if start[4:8] == b"ftyp" and start[8:12] in _BRANDS:
        return f"{'AVIF' if start[8:11] == b'avi' else 'HEIC'}, which is not read: convert to JPEG"
    return "not an image of a known format"


def decode_files(
    paths: Sequence[Path], decoding: Decoding, title: str = "Decoding images"
) -> Iterator[DecodedImage | Unreadable]:
    """Decode files by all cores, in order.

    A progress bar is shown. Threads decode the files, as Pillow works without Python's lock: processes would each need
    an import of their own, and may not be forked beside torch's threads. Few images wait at a time, however many
    there are.
    """

    def decode_batch(files: Sequence[Path]) -> list[DecodedImage | Unreadable]:
        images: list[DecodedImage | Unreadable] = []
        for file in files:
            try:
                images.append(decode_file(file, decoding))
            except Unreadable as error:
                images.append(error)
        return images

    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    batches = (paths[start : start + BATCH] for start in range(0, len(paths), BATCH))
    waiting: deque[Future[list[DecodedImage | Unreadable]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            images: list[DecodedImage | Unreadable] = []
            for place in progress(range(len(paths)), len(paths), title):
                if place % BATCH == 0:
                    new = islice(batches, 2 * threads - len(waiting))
                    waiting.extend(pool.submit(decode_batch, batch) for batch in new)
                    images = waiting.popleft().result()
                yield images[place % BATCH]
        finally:  # an error or Ctrl-C waits for no more than what has begun
            pool.shutdown(wait=False, cancel_futures=True)


def decode_all(
    paths: Sequence[Path],
    channels: int,
    image_size: int,
    fit: str = "resize",
    invert: bool = False,
    full_scale: int = FULL_SCALE,
) -> tuple[Pixels, list[tuple[Path, str]]]:
    """Decode all readable files.

    Returns:
        the images ``(M, C, S, S)``, and (path, reason) of the unreadable files.

    Raises:
        UserError: a setting is not allowed, see ``Decoding``.
    """
    decoding = Decoding(channels, image_size, fit, invert, full_scale)
    images: list[Pixels] = []
    left_out: list[tuple[Path, str]] = []
    for path, image in zip(paths, decode_files(paths, decoding), strict=True):
        if isinstance(image, Unreadable):
            left_out.append((path, str(image)))
        else:
            images.append(image.pixels)
    shape = (0, channels, image_size, image_size)
    return np.stack(images) if images else np.empty(shape, dtype=np.uint8), left_out
