"""Define the one data type that crosses folders."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Episode:
    """Hold B few-shot tasks.

    A task has N ways, and K shots and Q queries for each class. One task alone has no axis B.

    Attributes:
        ways: N, a plain number: shapes inside ``vmap`` may not depend on tensors.
        support_x: ``(B, N*K, C, H, W)`` float, normalised; the order carries nothing.
        support_y: ``(B, N*K)`` int64 in [0, N).
        query_x: ``(B, N*Q, C, H, W)``.
        query_y: ``(B, N*Q)``.
        key: ``(B,)`` int64, the seed of all random parts of a task: see ``fewshot.streams.TaskStream``.
        fingerprint: ``(B,)`` int64 that names the support and query images and their labels, whatever their order.
        unlabeled_x: ``(B, (N+D)*U, C, H, W)``, U images of each of the N classes and of D distractor classes;
            None without such images. An episode does not hold their labels.
        unlabeled_query_x: as ``unlabeled_x``, for outer losses; in training only.
        labeled: ``(B,)`` bool, whether the task's labels are true; None where all labels are true. In a task without
            labels ``support_y`` and ``query_y`` say nothing of the images.
        unknown_x: ``(B, U*Q, C, H, W)``, Q images of each of U classes that the support set does not have; None without
            such images. In test only.
    """

    ways: int
    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    key: Tensor
    fingerprint: Tensor
    unlabeled_x: Tensor | None = None
    unlabeled_query_x: Tensor | None = None
    labeled: Tensor | None = None
    unknown_x: Tensor | None = None

    def if_labeled(self, value: Tensor, otherwise: float = 0.0) -> Tensor:
        """Return ``value`` if labeled, else ``otherwise``.

        The episode must be one task alone.
        """
        return value if self.labeled is None else torch.where(self.labeled, value, otherwise)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, without None."""
        named = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in named if isinstance(value, Tensor)}

    def with_tensors(self, tensors: dict[str, Tensor]) -> "Episode":
        """Return the same tasks with other tensors."""
        return replace(self, **tensors)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.key)

    def __getitem__(self, which: int | slice) -> "Episode":
        """Return one task or a slice of tasks.

        One task (an int) has no axis B.
        """
        return self.with_tensors({name: value[which] for name, value in self.tensors().items()})

    def chunks(self, size: int) -> Iterator["Episode"]:
        """Yield at most ``size`` tasks at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]
