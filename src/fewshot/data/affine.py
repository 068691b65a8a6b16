"""Images of training tasks turned, scaled, sheared and shifted at random, on the device."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from fewshot import rng
from fewshot.augment import sample
from fewshot.errors import UserError


@dataclass(frozen=True)
class Affine:
    """Changes each image of each task by numbers of its own, all uniform (the kinds are those of Koch et al. 2015).

    What comes in from outside of an image is its edge, repeated.

    Attributes:
        degrees: the largest turn, either way.
        scale: the largest change of width and of height, each for itself: 0.2 is from 0.8 to 1.2 times.
        shear: the largest slant in degrees, either way.
        shift: the largest move along each side, as a part of it: 2 of 28 pixels.
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
    def of(cls, setting: bool | Mapping[str, Any] | None) -> "Affine | None":
        """What ``data.augment`` asks for.

        Raises:
            UserError: that is neither true, false nor numbers of these names.
        """
        names = [field.name for field in fields(cls)]
        if isinstance(setting, Mapping) and set(setting) <= set(names):
            return cls(**{str(name): value for name, value in setting.items()})
        if setting is None or isinstance(setting, bool):
            return cls() if setting else None
        raise UserError(f"data.augment={setting}: choose true, false, or numbers for {', '.join(names)}")

    def __call__(self, x: Tensor, key: Tensor) -> Tensor:
        """Images ``(B, n, C, H, W)`` changed by their places in tasks of keys ``(B,)``; the same shape."""
        image = torch.arange(x.shape[1], device=x.device)[:, None]
        random = rng.uniform(key[:, None, None], image, torch.arange(6, device=x.device)).to(x.dtype)
        return sample(x.flatten(0, 1), self.matrices(2 * random.flatten(0, 1) - 1)).view_as(x)

    def matrices(self, u: Tensor) -> Tensor:
        """``(M, 2, 3)``, from places in the result to places in the image, of numbers ``(M, 6)`` in (-1, 1).

        The image is scaled, then sheared along x, then turned, then shifted; this is the inverse of it all.
        """
        angle, slant = (self.degrees * u[:, 0]).deg2rad(), (self.shear * u[:, 1]).deg2rad()
        width, height = 1 + self.scale * u[:, 2], 1 + self.scale * u[:, 3]
        right, down = 2 * self.shift * u[:, 4], 2 * self.shift * u[:, 5]  # a side is 2 long
        cos, sin, tan = angle.cos(), angle.sin(), slant.tan()
        x = torch.stack([cos + tan * sin, sin - tan * cos], dim=1) / width[:, None]
        y = torch.stack([-sin, cos], dim=1) / height[:, None]
        linear = torch.stack([x, y], dim=1)
        return torch.cat([linear, -linear @ torch.stack([right, down], dim=1)[..., None]], dim=2)
