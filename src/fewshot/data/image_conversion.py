"""Convert images of any mode to small squares of 8 bits."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fewshot.errors import UserError

FITS = ("resize", "crop")
CROPPED_FITS = ("centre_crop", "squash")  # of pretrained networks
RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
FULL_SCALE = 65535  # the white of 16 bits
COLOUR = 30  # difference of two channels from which a pixel has a colour
LONGEST = 20  # times the shorter side, of an image whose middle is cut out
_STRIP = 1 << 20  # pixels that are converted at a time

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


def convert(image: Image.Image, decoding: Decoding) -> DecodedImage:
    """Lay an upright image on white and resize the image.

    Raises:
        Unreadable: no file states the range of the pixels.
    """
    size = decoding.image_size
    square = _square(image) if decoding.fit == "crop" else image
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
    longest = LONGEST * min(image.size)
    if max(image.size) > longest:  # the ends would be resized to gigabytes, and cut off
        left = max(0, (image.width - longest) // 2)
        top = max(0, (image.height - longest) // 2)
        image = image.crop((left, top, image.width - left, image.height - top))
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
    return convert(image, decoding)


def _eight_bits(image: Image.Image, full_scale: int) -> tuple[Image.Image, int | None]:
    """Scale pixels of 16 bits to 8 bits.

    Pillow would clip the values. The largest value is returned too.
    """
    if image.mode == "F":
        raise Unreadable("floating-point pixels, whose range no file states")
    if not image.mode.startswith("I"):
        return image, None
    scaled = np.empty((image.height, image.width), dtype=np.uint8)
    largest = 0
    for box in _strips(image):
        values = np.asarray(image.crop(box)).astype(np.int64)
        if values.min() < 0 or values.max() > FULL_SCALE:
            raise Unreadable("pixels of 32 bits, whose range no file states")
        largest = max(largest, int(values.max()))
        strip = np.rint(values.clip(max=full_scale) * 255 / full_scale).astype(np.uint8)
        clear = image.info.get("transparency")
        if clear is not None:
            strip = np.where(values == clear, 255, strip).astype(np.uint8)
        scaled[box[1] : box[3]] = strip
    return Image.fromarray(scaled), largest


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Yield boxes of rows that cover an image.

    A conversion of one strip at a time needs no second copy of a large image.
    """
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def _on_white(image: Image.Image) -> Image.Image:
    """Lay what is transparent on white."""
    if not image.has_transparency_data:
        return image
    opaque = Image.new("RGB", image.size)
    for box in _strips(image):
        strip = image.crop(box)
        if image.mode in ("La", "RGBa"):  # colours times their opacity
            strip = strip.convert("LA" if image.mode == "La" else "RGBA")
        strip = strip.convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
        opaque.paste(strip.convert("RGB"), box)
    return opaque


def _has_colour(image: Image.Image) -> bool:
    """Tell whether an image has colours.

    The channels must differ by more than the noise of a JPEG.
    """
    if image.mode in ("1", "L"):
        return False
    colours = image if image.mode == "RGB" else image.convert("RGB")
    pixels = np.asarray(colours.resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    return bool((pixels.max(2) - pixels.min(2)).max() > COLOUR)
