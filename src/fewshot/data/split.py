"""A split: the images of some classes, held as one tensor."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256

import torch
from torch import Tensor

from fewshot.errors import UserError


@dataclass(frozen=True)
class Split:
    """Images grouped by class.

    Attributes:
        name: dataset and split, for messages and fingerprints, for example ``"glyphs/test"``.
        images: ``(M, C, H, W)`` uint8, the images of one class next to each other.
        counts: ``(classes,)`` int64, how many images each class has.
        classes: a unique name for each class, in the same order.
        first: ``(classes,)`` int64, where each class begins in ``images``; None where they lie one after another and
            ``counts`` sums to ``M``.
    """

    name: str
    images: Tensor
    counts: Tensor
    classes: tuple[str, ...]
    first: Tensor | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"{self.name}: images must be uint8 (M, C, H, W), not {self.images.dtype} {tuple(self.images.shape)}"
            )
        whole = self.first is not None or int(self.counts.sum()) == len(self.images)
        if not whole or len(self.counts) != len(self.classes):
            raise ValueError(f"{self.name}: images, counts and class names do not add up")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"{self.name}: class names repeat")

    @cached_property
    def starts(self) -> Tensor:
        """``(classes,)`` int64: where each class begins in ``images``."""
        return self.counts.cumsum(0) - self.counts if self.first is None else self.first

    def only(self, kept: Tensor) -> "Split":
        """The classes where ``kept`` ``(classes,)`` bool is true, of the same images: nothing is copied."""
        classes = tuple(name for name, keep in zip(self.classes, kept.tolist(), strict=True) if keep)
        return replace(self, counts=self.counts[kept], classes=classes, first=self.starts[kept])

    @cached_property
    def digest(self) -> int:
        """63 bits that name the classes and how many images each has.

        Identity, not pixels: a last-bit difference in a resize must not make two machines'
        test episodes look different.
        """
        text = "\n".join([self.name, *(f"{c}\t{n}" for c, n in zip(self.classes, self.counts.tolist(), strict=True))])
        return int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1


def assert_disjoint(classes: Mapping[str, Iterable[str]]) -> None:
    """Raise UserError where one of the ``classes`` is in two splits."""
    owner: dict[str, str] = {}
    for split, names in classes.items():
        for name in names:
            if owner.setdefault(name, split) != split:
                raise UserError(f"class {name!r} is in both {owner[name]} and {split}: splits must be disjoint")
