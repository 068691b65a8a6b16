"""Rotate and mirror images.

The copies are classes of their own, or one more random choice.
"""

import torch
from torch import Tensor

from fewshot.errors import UserError

ROTATIONS = (False, True, "random", "mirrored")
MOST_BYTES = 320_000_000  # of all rotated images; more of them are rotated when a batch is drawn
QUARTERS = 4


def count_copies(rotations: bool | str, setting: str = "rotations") -> int:
    """Return how many classes each class becomes.

    ``setting`` is the key under ``data`` that holds ``rotations``, for the error.

    Raises:
        UserError: ``rotations`` is not one of ``ROTATIONS``.
    """
    if rotations not in ROTATIONS:
        raise UserError(f"data.{setting}={rotations}: choose true, false, random or mirrored")
    return {True: QUARTERS, "mirrored": 2 * QUARTERS}.get(rotations, 1)


def rotation_name(number: int) -> str:
    """Name a rotation: ``90°``, or ``90°, mirrored``."""
    return f"{90 * (number % QUARTERS)}°{', mirrored' * (number >= QUARTERS)}"


def rotate(x: Tensor, number: int) -> Tensor:
    """Rotate images by ``number`` times 90°.

    Images are ``(..., S, S)``. From number 4 on, the images are mirrored before the rotation.
    """
    return torch.rot90(x if number < QUARTERS else x.flip(-1), number % QUARTERS, (-2, -1))


class RotatedImages:
    """Rotate rows of images.

    ``images`` is ``(M, C, H, W)``; the setting ``rotations`` says which rotations are possible.

    Raises:
        UserError: rotations are asked for, and the images are not square or have a single pixel.
    """

    def __init__(self, images: Tensor, rotations: bool | str) -> None:
        height, width = images.shape[2:]
        if rotations and height != width:
            raise UserError(f"data.rotations={rotations} needs square images, not {height} x {width}")
        if rotations and height == 1:
            raise UserError(f"data.rotations={rotations} needs images, not features of 1 x 1: set data.rotations=false")
        self.images = images
        self.numbers = range(max(QUARTERS, count_copies(rotations)) if rotations else 1)
        self.rotated: Tensor | None = None  # rotation after rotation, so that a batch copies whole rows
        if not rotations:
            self.rotated = images
        elif len(self.numbers) * images.numel() * images.element_size() <= MOST_BYTES:
            self.rotated = torch.cat([rotate(images, number) for number in self.numbers])

    def __call__(self, rows: Tensor, rotations: Tensor) -> Tensor:
        """Return the images of rows and rotations.

        ``rows`` and ``rotations`` are ``(m,)``; the images are ``(m, C, H, W)``.
        """
        if self.rotated is not None:
            place = rotations * len(self.images) + rows if len(self.numbers) > 1 else rows
            return self.rotated.index_select(0, place)
        x = self.images.index_select(0, rows)
        result = x
        for number in self.numbers[1:]:
            result = torch.where((rotations == number)[:, None, None, None], rotate(x, number), result)
        return result
