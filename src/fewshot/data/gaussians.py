"""Draw a few-shot problem in the plane.

The whole problem fits into one picture.
"""

import math

import torch
from torch import Tensor

from fewshot.data.split import Split
from fewshot.data.split_cache import check_memory
from fewshot.errors import UserError


class Gaussians:
    """Load classes that are Gaussians in the unit square.

    A point is an "image" ``(2, 1, 1)`` uint8: its coordinates, in 256 levels. Centres are uniform, the standard
    deviations along two rotated axes too; points outside of the square are moved to its edge.

    Args:
        classes: how many of each split.
        points: how many of each class.
        spread: least and largest standard deviation, where the square has side 1.
        seed: of the classes and their points; another seed makes other classes.

    Raises:
        UserError: a number is not allowed, or the points would fill the memory.
    """

    def __init__(
        self,
        classes: dict[str, int] | None = None,
        points: int = 50,
        spread: tuple[float, float] = (0.02, 0.08),
        seed: int = 0,
    ) -> None:
        self.classes = dict(classes or {"train": 200, "val": 40, "test": 40})
        self.points = points
        self.spread = tuple(spread)
        self.seed = seed
        if min(points, *self.classes.values()) < 1:
            raise UserError(f"data.dataset: {self.classes} classes of {points} points: every number must be at least 1")
        check_memory(points * sum(self.classes.values()), (2, 1, 1), "data.dataset.points")
        if len(self.spread) != 2 or not 0 < self.spread[0] <= self.spread[1]:
            raise UserError(f"data.dataset.spread={list(self.spread)}: needs the least and the largest, above 0")

    def load(self) -> dict[str, Split]:
        """Draw the splits, by name.

        Images are ``(classes * points, 2, 1, 1)`` uint8.
        """
        generator = torch.Generator().manual_seed(self.seed)
        return {name: self._split(name, number, generator) for name, number in self.classes.items()}

    def _split(self, name: str, number: int, generator: torch.Generator) -> Split:
        least, largest = self.spread
        centres = torch.rand(number, 1, 2, generator=generator)
        centres = 0.1 + 0.8 * centres  # so that few points fall outside
        deviations = least + (largest - least) * torch.rand(number, 1, 2, generator=generator)
        noise = deviations * torch.randn(number, self.points, 2, generator=generator)
        points = centres + noise @ _rotation_matrices(math.pi * torch.rand(number, generator=generator))
        levels = (255 * points.clamp(0, 1)).round().to(torch.uint8)
        names = tuple(f"seed {self.seed} {name} {place}" for place in range(number))
        return Split(f"gaussians/{name}", levels.view(-1, 2, 1, 1), torch.full((number,), self.points), names)


def _rotation_matrices(angles: Tensor) -> Tensor:
    """Return rotations ``(M, 2, 2)`` by ``angles`` ``(M,)``."""
    cos = angles.cos()
    sin = angles.sin()
    return torch.stack([cos, sin, -sin, cos], dim=-1).view(-1, 2, 2)
