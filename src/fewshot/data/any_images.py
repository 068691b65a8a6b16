"""Convert user images and labels to usual types.

Images are files, tensors, arrays, or images of Pillow's.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fewshot.data.any_arrays import Shape, with_space
from fewshot.data.image_conversion import DecodedImage, Decoding, Unreadable
from fewshot.data.images import decode_files, decode_image
from fewshot.errors import UserError
from fewshot.files import printable

OneImage = str | Path | Image.Image | Tensor | np.ndarray
Images = OneImage | Sequence[OneImage]
_SLACK = 1e-3  # of floats around [0, 1], after someone else's resizing


def to_pixels(images: Images, wanted: Shape, decoding: Callable[[], Decoding]) -> Tensor:
    """Convert images to one tensor of pixels.

    The tensor is ``(M, C, S, S)``: uint8, or floats in [0, 1].

    Args:
        images: files; images of Pillow's; arrays ``(H, W)`` or ``(H, W, 3)`` of uint8; these are resized. Or arrays and
            tensors ``(C, S, S)``, or one ``(M, C, S, S)``, of uint8 or floats in [0, 1]; of ``(M, C)`` for images of
            one pixel. One alone is one image.
        wanted: (C, S, S).
        decoding: returns how files are read; called for images that are not of this shape.

    Raises:
        UserError: a file cannot be read, an array has another shape, or numbers are not in [0, 1].
    """
    if isinstance(images, str | Path | Image.Image):
        images = [images]
    if isinstance(images, np.ndarray) and images.dtype != object:
        images = torch.from_numpy(np.ascontiguousarray(images))
    if isinstance(images, Tensor):
        return _checked(with_space(images, wanted), wanted)
    given = list(images)
    if given and all(isinstance(image, Tensor | np.ndarray) and tuple(image.shape) == wanted for image in given):
        stacked = [torch.as_tensor(image) for image in given]
        if len({image.dtype for image in stacked}) > 1:
            raise UserError("the images have different types of numbers: give uint8, or floats in [0, 1]")
        return _checked(torch.stack(stacked), wanted)
    return torch.from_numpy(_decoded(given, decoding()))


def _checked(images: Tensor, wanted: Shape) -> Tensor:
    if images.ndim != 4 or tuple(images.shape[1:]) != wanted:
        raise UserError(f"images are {tuple(images.shape)}, but the network takes (M, {', '.join(map(str, wanted))})")
    if images.dtype == torch.uint8 or not images.numel():
        return images
    if not images.is_floating_point():
        raise UserError(f"images are {images.dtype}: give uint8 of 0..255, or floats in [0, 1]")
    low, high = images.aminmax()
    if not (low >= -_SLACK and high <= 1 + _SLACK):  # not a number, too
        raise UserError(
            f"images are floats from {low:g} to {high:g}: give floats in [0, 1], or uint8 of 0..255; "
            "they are normalised here"
        )
    return images


def _decoded(images: Sequence[Any], decoding: Decoding) -> np.ndarray:
    """Decode images of any size.

    Returns:
        ``(M, C, S, S)`` uint8.
    """
    if all(isinstance(image, str | Path) for image in images):
        decoded: Iterable[DecodedImage | Unreadable] = decode_files([Path(file) for file in images], decoding)
    else:
        decoded = (_decode_one(image, decoding) for image in images)
    pixels = []
    for place, (image, result) in enumerate(zip(images, decoded, strict=True)):
        if isinstance(result, Unreadable):
            name = printable(str(image)) if isinstance(image, str | Path) else f"image {place}"
            raise UserError(f"{name}: {result}")
        pixels.append(result.pixels)
    shape = (0, decoding.channels, decoding.image_size, decoding.image_size)
    return np.stack(pixels) if pixels else np.empty(shape, dtype=np.uint8)


def _decode_one(image: Any, decoding: Decoding) -> DecodedImage | Unreadable:
    try:
        if isinstance(image, str | Path):
            return next(iter(decode_files([Path(image)], decoding)))
        return decode_image(image if isinstance(image, Image.Image) else _from_array(image), decoding)
    except Unreadable as error:
        return error


def _from_array(image: Any) -> Image.Image:
    if isinstance(image, Tensor):
        image = image.numpy(force=True)
    if not isinstance(image, np.ndarray):
        raise UserError(f"an image is {type(image).__name__}: give files, images of Pillow's, arrays or tensors")
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))):
        raise UserError(
            f"an image is {image.dtype} {image.shape}: give uint8 (height, width) or (height, width, 3), "
            "or arrays of the network's own size"
        )
    return Image.fromarray(image)


def to_labels(labels: Any) -> list[Hashable]:
    """Return labels as a list of plain values.

    ``labels`` is a tensor, an array, or a sequence of numbers and texts, with one label for each image.

    Raises:
        UserError: a label is no single value, or not a number.
    """
    if isinstance(labels, str | bytes) or not isinstance(labels, Iterable):
        raise UserError(f"labels are {type(labels).__name__}: give a sequence with one label for each image")
    values = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    if not isinstance(values, list):
        raise UserError("labels are one number: give a sequence with one label for each image")
    plain = [_plain(value) for value in values]
    for value in plain:
        if not isinstance(value, Hashable) or isinstance(value, Tensor | np.ndarray) or value != value:
            raise UserError(f"a label is {printable(repr(value), 60)}: give one number or text for each image")
    return plain


def _plain(value: Any) -> Any:
    """Return the number in a zero-dimensional tensor or array.

    Any other value is returned unchanged.
    """
    if isinstance(value, Tensor | np.ndarray | np.generic) and value.ndim == 0:
        return value.item()
    return value
