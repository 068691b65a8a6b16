"""Augmentations as pure functions of (images, key, stream): the same on every device and under ``vmap``.

Images are ``(M, C, H, W)`` of one task, ``key`` its scalar key; each image is changed by numbers of its own.
What comes in from outside of an image is its edge, repeated.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot import rng


def weak(x: Tensor, key: Tensor, stream: int, shift: float = 1 / 14) -> Tensor:
    """Shifted by whole pixels, at most ``shift`` of each side: 2 of 28."""
    height, width = x.shape[2:]
    random = _random(x, key, stream, 2)
    rows, columns = (
        (torch.arange(side, device=x.device) - _whole(random[:, axis], round(shift * side))[:, None]).clamp(0, side - 1)
        for axis, side in enumerate((height, width))
    )  # (M, H) and (M, W): where each pixel comes from
    source = (rows[:, :, None] * width + columns[:, None]).flatten(1)
    return x.flatten(2).gather(2, source[:, None].expand(-1, x.shape[1], -1)).view_as(x)


def strong(
    x: Tensor,
    key: Tensor,
    stream: int,
    degrees: float = 20.0,
    scale: Sequence[float] = (0.8, 1.2),
    shear: float = 10.0,
    shift: float = 1 / 14,
    cutout: float = 0.25,
) -> Tensor:
    """Turned, sheared, scaled and shifted by a random affine map, with a square cut out.

    Args:
        degrees, shear: the largest angles, either way.
        scale: smallest and largest size of what is drawn.
        shift: the largest part of a side, either way.
        cutout: side of the square as a part of the image's. It is filled with the median of the image's
            edge in each channel: the background of a drawing, whatever the normalisation.
    """
    height, width = x.shape[2:]
    random = _random(x, key, stream, 7)
    angle, slant = ((2 * random[:, i] - 1) * limit for i, limit in enumerate((degrees, shear)))
    size = scale[0] + (scale[1] - scale[0]) * random[:, 2]
    turned = sample(x, _affine(angle.deg2rad(), slant.deg2rad(), size, (4 * random[:, 3:5] - 2) * shift))

    edge = torch.cat([x[..., 0, :], x[..., -1, :], x[..., :, 0], x[..., :, -1]], dim=-1).median(-1).values
    down, across = (_span(side, random[:, 5 + axis], cutout) for axis, side in enumerate((height, width)))
    return torch.where(down[:, None, :, None] & across[:, None, None, :], edge[..., None, None], turned)


def sample(x: Tensor, matrix: Tensor) -> Tensor:
    """Images ``(M, C, H, W)`` under affine maps ``(M, 2, 3)`` from places in the result to places in the image.

    Places are (x, y) in [-1, 1]. The grid is a product, as ``F.affine_grid`` has no batching rule.
    """
    height, width = x.shape[2:]
    across, down = ((2 * torch.arange(n, device=x.device, dtype=x.dtype) + 1) / n - 1 for n in (width, height))
    places = torch.stack([across.expand(height, -1), down[:, None].expand(-1, width), x.new_ones(height, width)], -1)
    grid = (places.view(-1, 3) @ matrix.mT).unflatten(1, (height, width))
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _affine(angle: Tensor, slant: Tensor, size: Tensor, shift: Tensor) -> Tensor:
    """``(M, 2, 3)``: turned by ``angle``, divided by ``size``, sheared by ``slant``, moved by ``shift`` ``(M, 2)``."""
    cos, sin, tan = angle.cos() / size, angle.sin() / size, slant.tan()
    x = torch.stack([cos + tan * sin, tan * cos - sin, shift[:, 0]], dim=1)
    y = torch.stack([sin, cos, shift[:, 1]], dim=1)
    return torch.stack([x, y], dim=1)


def _span(side: int, centre: Tensor, part: float) -> Tensor:
    """``(M, side)`` bool: the pixels of a part of a side around ``centre`` ``(M,)`` in (0, 1), cut off at the edge."""
    length = round(part * side)
    place = torch.arange(side, device=centre.device) - (centre * side).floor()[:, None] + length // 2
    return (place >= 0) & (place < length)


def _random(x: Tensor, key: Tensor, stream: int, count: int) -> Tensor:
    """``(M, count)`` numbers in (0, 1), the same for an image whatever comes after it."""
    image = torch.arange(len(x), device=x.device)[:, None]
    return rng.uniform(key, stream, image, torch.arange(count, device=x.device)).to(x.dtype)


def _whole(random: Tensor, most: int) -> Tensor:
    """Whole numbers from ``-most`` to ``most``, all as likely, of numbers in (0, 1)."""
    return (random * (2 * most + 1)).floor().clamp(max=2 * most).long() - most
