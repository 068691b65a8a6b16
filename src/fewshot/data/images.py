"""Image files of any common kind, decoded to small squares of 8 bits."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
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
)
from rich.console import Console
from rich.progress import track

from fewshot.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # no others, some of which run programs
FITS = ("resize", "crop")
BATCH = 32  # files that a thread decodes at a time

Pixels = NDArray[np.uint8]


class Unreadable(Exception):
    """A file that is not a whole image; the message is a few words that say why."""


def decode(path: str | Path, channels: int, image_size: int, fit: str = "resize", invert: bool = False) -> Pixels:
    """One image file as ``(C, S, S)`` uint8: turned upright, on white, resized with averaging.

    PNG, JPEG, WebP, BMP, GIF, TIFF and PNM of any size and colour mode. Of several frames the first is taken; what
    is transparent becomes white; 16 bits are scaled to 8.

    Args:
        channels: 1 (luma, ITU-R 601) or 3 (RGB).
        image_size: S.
        fit: ``resize`` squeezes the whole image into the square, ``crop`` takes the largest square around its centre.
        invert: dark becomes bright, so that dark strokes on white are ink 255 on background 0.

    Raises:
        Unreadable: the file is no image, or not all of one, or cannot be opened.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.draft(None, (2 * image_size, 2 * image_size))  # a large JPEG shrinks while it is decoded
            upright = ImageOps.exif_transpose(image)
            square = _square(upright) if fit == "crop" else upright
            opaque = _on_white(_eight_bits(square)).convert("L" if channels == 1 else "RGB")
    except Unreadable:
        raise
    except UnidentifiedImageError as error:
        raise Unreadable("not an image of a known format") from error
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    except Image.DecompressionBombError as error:
        raise Unreadable("too many pixels") from error
    except Exception as error:  # damaged files fail in many ways
        raise Unreadable(f"damaged ({' '.join(str(error).split()) or type(error).__name__})") from error
    if invert:
        opaque = ImageOps.invert(opaque)
    if opaque.size != (image_size, image_size):
        opaque = opaque.resize((image_size, image_size), Image.Resampling.BILINEAR)  # averages where it shrinks
    pixels = np.asarray(opaque)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Modes of more than 8 bits scaled to 8, which Pillow's own conversion would clip."""
    if image.mode == "F":
        raise Unreadable("floating-point pixels, whose range no file states")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise Unreadable("pixels of 32 bits, whose range no file states")
    scaled = np.rint(values / 257).astype(np.uint8)  # 65535 is 255
    clear = image.info.get("transparency")
    return Image.fromarray(scaled if clear is None else np.where(values == clear, 255, scaled).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    if image.mode in ("La", "RGBa"):  # colours times their opacity
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def decoded(
    paths: Sequence[Path], channels: int, image_size: int, fit: str = "resize", invert: bool = False
) -> Iterator[Pixels | Unreadable]:
    """``decode`` of each of ``paths``, in their order, by all cores, with a progress bar.

    Threads, as Pillow decodes and resizes without Python's lock: processes would each need an import of their own,
    and may not be forked beside torch's threads. Few images wait at a time, however many there are.

    Raises:
        UserError: ``channels``, ``image_size`` or ``fit`` is none that ``decode`` takes.
    """
    if channels not in (1, 3):
        raise UserError(f"data.channels={channels}: choose 1 or 3")
    if not isinstance(image_size, int) or image_size < 1:
        raise UserError(f"data.image_size={image_size}: must be a whole number of at least 1")
    if fit not in FITS:
        raise UserError(f"data.fit={fit}: choose one of {', '.join(FITS)}")
    return _decoded(paths, channels, image_size, fit, invert)


def _decoded(
    paths: Sequence[Path], channels: int, image_size: int, fit: str, invert: bool
) -> Iterator[Pixels | Unreadable]:
    def some(files: Sequence[Path]) -> list[Pixels | Unreadable]:
        images: list[Pixels | Unreadable] = []
        for file in files:
            try:
                images.append(decode(file, channels, image_size, fit, invert))
            except Unreadable as error:
                images.append(error)
        return images

    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    batches = (paths[start : start + BATCH] for start in range(0, len(paths), BATCH))
    waiting: deque[Future[list[Pixels | Unreadable]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            images: list[Pixels | Unreadable] = []
            for place in track(range(len(paths)), "Decoding images", console=Console(stderr=True)):
                if place % BATCH == 0:
                    waiting.extend(pool.submit(some, batch) for batch in islice(batches, 2 * threads - len(waiting)))
                    images = waiting.popleft().result()
                yield images[place % BATCH]
        finally:  # an error or Ctrl-C waits for no more than what has begun
            pool.shutdown(wait=False, cancel_futures=True)


def decode_all(
    paths: Sequence[Path], channels: int, image_size: int, fit: str = "resize", invert: bool = False
) -> tuple[Pixels, list[tuple[Path, str]]]:
    """The readable images among ``paths``, ``(M, C, S, S)`` uint8, in their order; and (path, reason) of the others.

    Raises:
        UserError: as ``decoded``.
    """
    images: list[Pixels] = []
    left_out: list[tuple[Path, str]] = []
    for path, image in zip(paths, decoded(paths, channels, image_size, fit, invert), strict=True):
        if isinstance(image, Unreadable):
            left_out.append((path, str(image)))
        else:
            images.append(image)
    shape = (0, channels, image_size, image_size)
    return np.stack(images) if images else np.empty(shape, dtype=np.uint8), left_out
