"""Images turned and mirrored, as classes of their own or as one more thing that is drawn."""

import torch
from torch import Tensor

from fewshot.errors import UserError

ROTATIONS = (False, True, "random", "mirrored")
MOST_TURNED = 320_000_000  # bytes of the images in all turns; of more, each batch is turned when it is drawn
QUARTERS = 4


def copies(rotations: bool | str, setting: str = "rotations") -> int:
    """How many classes ``data.rotations``, or another ``setting`` of the data, makes of each.

    Raises:
        UserError: it is none of ``ROTATIONS``.
    """
    if rotations not in ROTATIONS:
        raise UserError(f"data.{setting}={rotations}: choose true, false, random or mirrored")
    return {True: QUARTERS, "mirrored": 2 * QUARTERS}.get(rotations, 1)


def turn_name(number: int) -> str:
    """What a turn is called: ``90°``, or ``90°, mirrored``."""
    return f"{90 * (number % QUARTERS)}°{', mirrored' * (number >= QUARTERS)}"


def turned(x: Tensor, number: int) -> Tensor:
    """Images ``(..., S, S)`` by ``number`` quarter turns; from 4 on mirrored, left and right, before that."""
    return torch.rot90(x if number < QUARTERS else x.flip(-1), number % QUARTERS, (-2, -1))


class Turns:
    """Rows of ``images`` ``(M, C, H, W)`` in any turn that ``rotations`` asks for.

    Raises:
        UserError: it asks for some, and the images are not square.
    """

    def __init__(self, images: Tensor, rotations: bool | str) -> None:
        height, width = images.shape[2:]
        if rotations and height != width:
            raise UserError(f"data.rotations={rotations} needs square images, not {height} x {width}")
        self.images = images
        self.numbers = range(max(QUARTERS, copies(rotations)) if rotations else 1)
        self.every: Tensor | None = None  # turn after turn, so that drawing copies whole rows
        if not rotations:
            self.every = images
        elif len(self.numbers) * images.numel() <= MOST_TURNED:
            self.every = torch.cat([turned(images, number) for number in self.numbers])

    def __call__(self, rows: Tensor, turns: Tensor) -> Tensor:
        """``(m, C, H, W)`` of rows and turns ``(m,)``."""
        if self.every is not None:
            return self.every.index_select(0, turns * len(self.images) + rows if len(self.numbers) > 1 else rows)
        x = result = self.images.index_select(0, rows)
        for number in self.numbers[1:]:
            result = torch.where((turns == number)[:, None, None, None], turned(x, number), result)
        return result
