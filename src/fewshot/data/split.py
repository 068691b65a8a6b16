"""A split: the images of some classes, held as one tensor."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images grouped by class.

    Attributes:
        name: dataset and split, for messages and fingerprints, for example ``"glyphs/test"``.
        images: ``(M, C, H, W)`` uint8, the images of one class next to each other.
        counts: ``(classes,)`` int64, how many images each class has; sums to ``M``.
        classes: a unique name for each class, in the same order.
    """

    name: str
    images: Tensor
    counts: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"{self.name}: images must be uint8 (M, C, H, W), not {self.images.dtype} {tuple(self.images.shape)}"
            )
        if int(self.counts.sum()) != len(self.images) or len(self.counts) != len(self.classes):
            raise ValueError(f"{self.name}: images, counts and class names do not add up")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"{self.name}: class names repeat")

    @cached_property
    def starts(self) -> Tensor:
        """``(classes,)`` int64: where each class begins in ``images``."""
        return self.counts.cumsum(0) - self.counts

    @cached_property
    def digest(self) -> int:
        """63 bits that name the classes and how many images each has.

        Identity, not pixels: a last-bit difference in a resize must not make two machines'
        test episodes look different.
        """
        text = "\n".join([self.name, *(f"{c}\t{n}" for c, n in zip(self.classes, self.counts.tolist(), strict=True))])
        return int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1
