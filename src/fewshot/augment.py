"""Change images at random, by pure functions.

A change depends on the image and its key only. The result is the same on every device and under ``vmap``. Each image is
changed by numbers of its own. Pixels that come in from outside of an image are its edge, repeated. Limits are angles in
degrees, either way; ``scale`` is the largest change of a size, 0.2 for 0.8 to 1.2 times; ``shift`` is a part of a side,
either way.

``weak``, ``colours`` and ``strong`` change the images ``(M, C, H, W)`` of one task; ``Affine`` changes the images of
many tasks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot import rng
from fewshot.errors import UserError


@dataclass(frozen=True)
class Affine:
    """Change each image by a random affine map.

    Source: Koch et al. 2015.

    Attributes:
        degrees: the largest rotation.
        scale: the largest change of width and of height, each for itself.
        shear: the largest shear.
        shift: the largest shift along each side.

    Raises:
        UserError: a number is out of range.
    """

    degrees: float = 10.0
    scale: float = 0.2
    shear: float = 10.0
    shift: float = 2 / 28

    def __post_init__(self) -> None:
        for field, limit in (("degrees", 180), ("scale", 0.99), ("shear", 80), ("shift", 1)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, float | int) or not 0 <= value <= limit:
                raise UserError(f"data.augment.{field}={value}: must be a number from 0 to {limit}")

    @classmethod
    def from_setting(cls, setting: bool | Mapping[str, Any] | None) -> "Affine | None":
        """Build the augmentation that ``data.augment`` asks for.

        Raises:
            UserError: ``setting`` is neither true, false nor numbers of these names.
        """
        names = [field.name for field in fields(cls)]
        if isinstance(setting, Mapping) and set(setting) <= set(names):
            return cls(**{str(name): value for name, value in setting.items()})
        if setting is None or isinstance(setting, bool):
            return cls() if setting else None
        raise UserError(f"data.augment={setting}: choose true, false, or numbers for {', '.join(names)}")

    def __call__(self, x: Tensor, key: Tensor) -> Tensor:
        """Change the images of many tasks.

        Images are ``(B, n, C, H, W)``, keys are ``(B,)``. A change depends on the key of the
        task and on the index of the image in the task.
        """
        image = torch.arange(x.shape[1], device=x.device)[:, None]
        random = rng.uniform(key[:, None, None], image, torch.arange(6, device=x.device)).to(x.dtype)
        return warp(x.flatten(0, 1), self.matrices(2 * random.flatten(0, 1) - 1)).view_as(x)

    def matrices(self, u: Tensor) -> Tensor:
        """Compute affine maps from random numbers.

        The numbers ``(M, 6)`` are in (-1, 1); the maps ``(M, 2, 3)`` are for ``warp``. The image is scaled, then
        sheared along x, then rotated, then shifted; the map is the inverse of these.
        """
        angle = (self.degrees * u[:, 0]).deg2rad()
        tan = (self.shear * u[:, 1]).deg2rad().tan()
        width = 1 + self.scale * u[:, 2]
        height = 1 + self.scale * u[:, 3]
        shift = 2 * self.shift * u[:, 4:6]  # a side is 2 long
        cos = angle.cos()
        sin = angle.sin()
        x = torch.stack([cos + tan * sin, sin - tan * cos], dim=1) / width[:, None]
        y = torch.stack([-sin, cos], dim=1) / height[:, None]
        linear = torch.stack([x, y], dim=1)
        return torch.cat([linear, -linear @ shift[..., None]], dim=2)


def weak(x: Tensor, key: Tensor, stream: int, shift: float = 1 / 14) -> Tensor:
    """Shift images at random by whole pixels.

    The largest shift is the part ``shift`` of each side, such as 2 of 28 pixels.
    """
    height, width = x.shape[2:]
    random = _random(x, key, stream, 2)
    rows, columns = (
        (torch.arange(side, device=x.device) - _whole(random[:, axis], round(shift * side))[:, None]).clamp(0, side - 1)
        for axis, side in enumerate((height, width))
    )  # (M, H) and (M, W): where each pixel comes from
    source = (rows[:, :, None] * width + columns[:, None]).flatten(1)
    return x.flatten(2).gather(2, source[:, None].expand(-1, x.shape[1], -1)).view_as(x)


def colours(x: Tensor, key: Tensor, stream: int) -> Tensor:
    """Change brightness, saturation and contrast at random.

    Source: Zhao et al. 2020 (DiffAugment). An image's values move by up to half of their standard deviation, the
    differences of its channels are multiplied by 0 to 2, and then the differences of its pixels by 0.5 to 1.5.
    """
    brightness, saturation, contrast = _random(x, key, stream, 3)[:, :, None, None, None].unbind(1)
    x = x + (brightness - 0.5) * x.std((1, 2, 3), keepdim=True)
    grey = x.mean(1, keepdim=True)
    x = grey + 2 * saturation * (x - grey)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (contrast + 0.5) * (x - mean)


def strong(
    x: Tensor,
    key: Tensor,
    stream: int,
    degrees: float = 20.0,
    scale: float = 0.2,
    shear: float = 10.0,
    shift: float = 1 / 14,
    cutout: float = 0.25,
) -> Tensor:
    """Warp images at random and erase a square.

    The warp is an affine map.

    Args:
        x: images ``(M, C, H, W)`` of a task.
        key, stream: the random numbers of the task.
        degrees, shear, shift: the largest rotation, shear and shift.
        scale: the largest change of the size, the same for width and height.
        cutout: side of the square as a part of the image's. The square is filled with the median of the image's
            edge in each channel: the background of a drawing, whatever the normalisation.

    Raises:
        UserError: ``scale`` is no number from 0 to below 1.
    """
    if isinstance(scale, bool) or not isinstance(scale, float | int) or not 0 <= scale < 1:
        raise UserError(f"scale={scale}: must be the largest change of a size, from 0 to below 1, such as 0.2")
    height, width = x.shape[2:]
    random = _random(x, key, stream, 7)
    angle, slant = ((2 * random[:, i] - 1) * limit for i, limit in enumerate((degrees, shear)))
    size = (1 - scale) + ((1 + scale) - (1 - scale)) * random[:, 2]
    warped = warp(x, _affine(angle.deg2rad(), slant.deg2rad(), size, (4 * random[:, 3:5] - 2) * shift))

    edge = torch.cat([x[..., 0, :], x[..., -1, :], x[..., :, 0], x[..., :, -1]], dim=-1).median(-1).values
    down, across = (_span(side, random[:, 5 + axis], cutout) for axis, side in enumerate((height, width)))
    return torch.where(down[:, None, :, None] & across[:, None, None, :], edge[..., None, None], warped)


def warp(x: Tensor, matrix: Tensor) -> Tensor:
    """Warp images by affine maps.

    Images are ``(M, C, H, W)``, maps are ``(M, 2, 3)``. A map leads from a place in the result to a place in the image.
    Places are (x, y) in [-1, 1]. The grid is a product, as ``F.affine_grid`` has no batching rule.
    """
    height, width = x.shape[2:]
    across, down = ((2 * torch.arange(n, device=x.device, dtype=x.dtype) + 1) / n - 1 for n in (width, height))
    places = torch.stack([across.expand(height, -1), down[:, None].expand(-1, width), x.new_ones(height, width)], -1)
    grid = (places.view(-1, 3) @ matrix.mT).unflatten(1, (height, width))
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _affine(angle: Tensor, slant: Tensor, size: Tensor, shift: Tensor) -> Tensor:
    """Compute the affine maps of ``strong``.

    The maps ``(M, 2, 3)`` rotate, divide by ``size``, shear and shift. The order of products, and so the last bits,
    differ from ``Affine.matrices``: results depend on both.
    """
    cos = angle.cos() / size
    sin = angle.sin() / size
    tan = slant.tan()
    x = torch.stack([cos + tan * sin, tan * cos - sin, shift[:, 0]], dim=1)
    y = torch.stack([sin, cos, shift[:, 1]], dim=1)
    return torch.stack([x, y], dim=1)


def _span(side: int, centre: Tensor, part: float) -> Tensor:
    """Mark the pixels of a span around ``centre``.

    The length is ``part`` of the side. ``centre`` is ``(M,)`` in (0, 1); the result is ``(M, side)``.
    """
    length = round(part * side)
    place = torch.arange(side, device=centre.device) - (centre * side).floor()[:, None] + length // 2
    return (place >= 0) & (place < length)


def _random(x: Tensor, key: Tensor, stream: int, count: int) -> Tensor:
    """Draw ``count`` random numbers for each image.

    The numbers ``(M, count)`` are in (0, 1). Further images change no numbers of earlier images.
    """
    image = torch.arange(len(x), device=x.device)[:, None]
    return rng.uniform(key, stream, image, torch.arange(count, device=x.device)).to(x.dtype)


def _whole(random: Tensor, most: int) -> Tensor:
    """Map random numbers to whole numbers.

    Numbers in (0, 1) become ``-most`` to ``most``, all equally likely.
    """
    return (random * (2 * most + 1)).floor().clamp(max=2 * most).long() - most
