"""Hold images or features, grouped by class."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256

import torch
from torch import Tensor

from fewshot.errors import UserError


@dataclass(frozen=True)
class Split:
    """Group images, or feature vectors, by class.

    Attributes:
        name: dataset and split, for messages and fingerprints, for example ``"glyphs/test"``.
        images: ``(M, C, H, W)``, the images of one class next to each other: uint8 for pixels of 0 to 255, or float32
            for values that are used without scaling. Features ``(M, D)`` become ``(M, D, 1, 1)``.
        counts: ``(classes,)`` int64, how many images each class has.
        classes: a unique name for each class, in the same order.
        first: ``(classes,)`` int64, where each class begins in ``images``; None where the classes lie one after
            another and ``counts`` sums to ``M``.
        check: raises UserError when the images on disk have changed, before they are read; None for images in memory.

    Raises:
        ValueError: the parts do not fit each other, or a value is not finite.
    """

    name: str
    images: Tensor
    counts: Tensor
    classes: tuple[str, ...]
    first: Tensor | None = None
    check: Callable[[], None] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.images.ndim == 2:
            object.__setattr__(self, "images", self.images[:, :, None, None])
        if self.images.dtype not in (torch.uint8, torch.float32) or self.images.ndim != 4:
            raise ValueError(
                f"{self.name}: images must be uint8 or float32, (M, C, H, W) or (M, D), "
                f"not {self.images.dtype} {tuple(self.images.shape)}"
            )
        if self.images.dtype == torch.float32 and not bool(self.images.isfinite().all()):
            raise ValueError(f"{self.name}: images hold values that are not finite")
        whole = self.first is not None or int(self.counts.sum()) == len(self.images)
        if not whole or len(self.counts) != len(self.classes):
            raise ValueError(f"{self.name}: images, counts and class names do not add up")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"{self.name}: class names repeat")

    @cached_property
    def starts(self) -> Tensor:
        """Return where each class begins in ``images``.

        The result is ``(classes,)`` int64.
        """
        return self.counts.cumsum(0) - self.counts if self.first is None else self.first

    def only(self, kept: Tensor) -> "Split":
        """Return a split with fewer classes.

        ``kept`` is ``(classes,)`` bool. The images are shared, not copied.
        """
        classes = tuple(name for name, keep in zip(self.classes, kept.tolist(), strict=True) if keep)
        return replace(self, counts=self.counts[kept], classes=classes, first=self.starts[kept])

    @cached_property
    def digest(self) -> int:
        """Hash the classes to 63 bits.

        The number of images of each class enters the hash. Pixels do not enter: a last-bit difference in a resize must
        not make two machines' test episodes look different.
        """
        text = "\n".join([self.name, *(f"{c}\t{n}" for c, n in zip(self.classes, self.counts.tolist(), strict=True))])
        return int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1


def assert_disjoint(classes: Mapping[str, Iterable[str]]) -> None:
    """Refuse a class that is in two splits.

    Raises:
        UserError: the message names the class and both splits.
    """
    owner: dict[str, str] = {}
    for split, names in classes.items():
        for name in names:
            if owner.setdefault(name, split) != split:
                raise UserError(f"class {name!r} is in both {owner[name]} and {split}: splits must be disjoint")
