"""Decode image files to small squares.

Files of any common format become squares of 8 bits.
"""

import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
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
    features,
)

from fewshot.data.progress import progress
from fewshot.errors import UserError

FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]  # no others, some of which run programs
if features.check("avif"):  # a matter of how Pillow was built
    from PIL import AvifImagePlugin  # noqa: F401

    FORMATS.append("AVIF")
FITS = ("resize", "crop")
CROPPED_FITS = ("centre_crop", "squash")  # of pretrained networks
RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
BATCH = 32  # files that a thread decodes at a time
LARGEST_FILE = 2 << 30  # bytes; some decoders read a file whole
FULL_SCALE = 65535  # the white of 16 bits
COLOUR = 30  # difference of two channels from which a pixel has a colour
_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")

Pixels = NDArray[np.uint8]


class Unreadable(Exception):
    """Say why a file cannot be decoded."""


@dataclass(frozen=True)
class Decoding:
    """Hold how files become images ``(C, S, S)``.

    Attributes:
        channels: 1 (luma, ITU-R 601) or 3 (RGB).
        image_size: S.
        fit: ``resize`` squeezes the whole image into the square, ``crop`` takes the largest square around its centre.
            Two more are for pretrained networks, and take the square in the middle of an image resized to ``scale``:
            ``centre_crop`` resizes the shorter side, ``squash`` both sides.
        invert: make dark bright, so that dark strokes on white are ink 255 on background 0.
        full_scale: value of a 16-bit pixel that is white, such as 4095 for a camera of 12 bits.
        scale: pixels, at least ``image_size``; for ``centre_crop`` and ``squash``.
        resampling: ``bilinear``, ``bicubic`` or ``lanczos``, each of which averages where it shrinks.

    Raises:
        UserError: a value is not allowed.
    """

    channels: int
    image_size: int
    fit: str = "resize"
    invert: bool = False
    full_scale: int = FULL_SCALE
    scale: int | None = None
    resampling: str = "bilinear"

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise UserError(f"data.channels={self.channels}: choose 1 or 3")
        if not isinstance(self.image_size, int) or self.image_size < 1:
            raise UserError(f"data.image_size={self.image_size}: must be a whole number of at least 1")
        if self.fit not in FITS and (self.fit not in CROPPED_FITS or (self.scale or 0) < self.image_size):
            raise UserError(f"data.fit={self.fit}: choose one of {', '.join(FITS)}")
        whole = isinstance(self.full_scale, int) and not isinstance(self.full_scale, bool)
        if not whole or not 1 <= self.full_scale <= FULL_SCALE:
            raise UserError(f"data.full_scale={self.full_scale}: must be a whole number from 1 to {FULL_SCALE}")
        if self.resampling not in RESAMPLING:
            raise UserError(f"resampling {self.resampling}: choose one of {', '.join(RESAMPLING)}")


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Hold the pixels and properties of a decoded file.

    Attributes:
        pixels: ``(C, S, S)`` uint8.
        loses_colour: the file has colours, and ``pixels`` have one channel.
        largest: the largest value of a file of 16 bits; None for a file of 8 bits.
    """

    pixels: Pixels
    loses_colour: bool
    largest: int | None


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
            return _convert(image, decoding)
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
        return _convert(image, decoding)
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


def _convert(image: Image.Image, decoding: Decoding) -> DecodedImage:
    size = decoding.image_size
    upright = ImageOps.exif_transpose(image)
    square = _square(upright) if decoding.fit == "crop" else upright
    eight_bits, largest = _eight_bits(square, decoding.full_scale)
    opaque = _on_white(eight_bits)
    loses_colour = decoding.channels == 1 and _has_colour(opaque)
    opaque = opaque.convert("L" if decoding.channels == 1 else "RGB")
    if decoding.invert:
        opaque = ImageOps.invert(opaque)
    if decoding.scale is not None:
        opaque = _cut_centre(opaque, decoding)
    elif opaque.size != (size, size):
        opaque = opaque.resize((size, size), RESAMPLING[decoding.resampling])
    pixels = np.asarray(opaque)
    pixels = pixels[None] if decoding.channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return DecodedImage(pixels, loses_colour, largest)


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


def _square(image: Image.Image) -> Image.Image:
    """Cut the largest square around the centre."""
    side = min(image.size)
    left = (image.width - side) // 2
    top = (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _cut_centre(image: Image.Image, decoding: Decoding) -> Image.Image:
    """Resize to ``scale`` and cut the square in the middle.

    The numbers of pixels are rounded as torchvision rounds these.
    """
    assert decoding.scale is not None
    scale = decoding.scale
    width, height = image.size
    if decoding.fit == "squash":
        resized = (scale, scale)
    elif width <= height:
        resized = (scale, int(scale * height / width))
    else:
        resized = (int(scale * width / height), scale)
    if image.size != resized:
        image = image.resize(resized, RESAMPLING[decoding.resampling])
    left = round((resized[0] - decoding.image_size) / 2)
    top = round((resized[1] - decoding.image_size) / 2)
    return image.crop((left, top, left + decoding.image_size, top + decoding.image_size))


def decode_array(pixels: Pixels, decoding: Decoding) -> DecodedImage:
    """Prepare an image of a data set like a file.

    Pixels are ``(C, H, W)`` uint8. A square of ``image_size`` counts as prepared, and is only made grey or coloured.
    """
    if pixels.shape[1:] == (decoding.image_size, decoding.image_size):
        decoding = replace(decoding, fit="resize", scale=None)
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return _convert(image, decoding)


def _eight_bits(image: Image.Image, full_scale: int) -> tuple[Image.Image, int | None]:
    """Scale pixels of 16 bits to 8 bits.

    Pillow would clip the values. The largest value is returned too.
    """
    if image.mode == "F":
        raise Unreadable("floating-point pixels, whose range no file states")
    if not image.mode.startswith("I"):
        return image, None
    values = np.asarray(image).astype(np.int64)
    largest = int(values.max())
    if values.min() < 0 or largest > FULL_SCALE:
        raise Unreadable("pixels of 32 bits, whose range no file states")
    scaled = np.rint(values.clip(max=full_scale) * 255 / full_scale).astype(np.uint8)
    clear = image.info.get("transparency")
    if clear is not None:
        scaled = np.where(values == clear, 255, scaled).astype(np.uint8)
    return Image.fromarray(scaled), largest


def _on_white(image: Image.Image) -> Image.Image:
    """Lay what is transparent on white."""
    if not image.has_transparency_data:
        return image
    if image.mode in ("La", "RGBa"):  # colours times their opacity
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _has_colour(image: Image.Image) -> bool:
    """Tell whether an image has colours.

    The channels must differ by more than the noise of a JPEG.
    """
    if image.mode in ("1", "L"):
        return False
    pixels = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    return bool((pixels.max(2) - pixels.min(2)).max() > COLOUR)


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
