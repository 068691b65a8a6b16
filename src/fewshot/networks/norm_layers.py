"""Normalisation layers that are right under second-order gradients and ``vmap``.

``nn.BatchNorm2d(track_running_stats=False)``, ``nn.LayerNorm`` and affine ``nn.InstanceNorm2d`` give
silently wrong second-order gradients under ``torch.func.vmap`` (torch 2.13): scale and shift inside the
fused kernel are at fault; ``batch_norm_function`` has derivatives of its own. ``nn.GroupNorm`` is right.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

import torch
from torch import Tensor, nn

from fewshot.networks.batch_norm_function import batch_normalise


class Statistics(Enum):
    """Where the mean and variance of a batch norm come from."""

    BATCH = "batch"
    RUNNING = "running"


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015) that knows what a task is.

    The batch is the images of one task; the task axis comes from the engine, so statistics never
    cross tasks. Running statistics are not touched in ``forward``: under ``vmap`` they cannot be.
    ``recording`` hands out what a pass saw, and the method averages it over the meta-batch.

    Input ``(M, C, H, W)`` or ``(M, C)``.
    """

    running_mean: Tensor
    running_var: Tensor
    updates: Tensor

    def __init__(self, features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.source: Statistics | float = Statistics.BATCH
        self.seen: list[tuple[Tensor, Tensor]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.ndim - 2)
        if self.source is Statistics.BATCH:
            x, mean, var = batch_normalise(x, self.weight, self.bias, self.eps)
            if self.seen is not None:
                self.seen.append((mean, var))
            return x
        if self.source is Statistics.RUNNING:
            mean, var = self.running_mean, self.running_var
        else:  # of the first rows only: the support set
            var, mean = torch.var_mean(x[: round(self.source * len(x))], (0, *range(2, x.ndim)), correction=0)
        x = (x - mean.view(shape)) * torch.rsqrt(var.view(shape) + self.eps)
        return torch.addcmul(self.bias.view(shape), x, self.weight.view(shape))

    @torch.no_grad()
    def update(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics towards ``mean`` and ``var`` ``(C,)``, as averaged over a meta-batch.

        The first update replaces the initial values, so that they never linger.
        """
        weight = torch.where(self.updates == 0, 1.0, self.momentum)
        self.running_mean.lerp_(mean.to(self.running_mean), weight.to(self.running_mean))
        self.running_var.lerp_(var.to(self.running_var), weight.to(self.running_var))
        self.updates += 1


class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm``, whose own call asks of memory what cannot be answered under ``vmap``."""

    def forward(self, x: Tensor) -> Tensor:
        rows, channels, *space = x.shape
        count = math.prod(space)
        return torch.native_group_norm(
            x.contiguous(), self.weight, self.bias, rows, channels, count, self.num_groups, self.eps
        )[0]


def batch_norms(module: nn.Module) -> list[BatchNorm]:
    """The batch norms of ``module``, in a fixed order."""
    return [layer for layer in module.modules() if isinstance(layer, BatchNorm)]


@contextmanager
def normalising(module: nn.Module, source: Statistics | float) -> Iterator[None]:
    """Within: normalise by ``source``; a number stands for the statistics of that first part of the batch.

    A part and not a count: where a head sees pairs of an image and a class, its batch is longer.
    """
    layers = batch_norms(module)
    before = [layer.source for layer in layers]
    for layer in layers:
        layer.source = source
    try:
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer.source = old


@contextmanager
def recording(module: nn.Module) -> Iterator[list[list[tuple[Tensor, Tensor]]]]:
    """Within: collect ``(mean, variance)`` of every pass on batch statistics, a list for each layer."""
    layers = batch_norms(module)
    seen: list[list[tuple[Tensor, Tensor]]] = [[] for _ in layers]
    for layer, collected in zip(layers, seen, strict=True):
        layer.seen = collected
    try:
        yield seen
    finally:
        for layer in layers:
            layer.seen = None


NORMS = ("batch", "group", "layer", "none")


def norm(kind: str, features: int) -> nn.Module:
    """``batch``, ``group`` (8 groups), ``layer`` (one group: over channels and space) or ``none``."""
    if kind == "batch":
        return BatchNorm(features)
    if kind == "none":
        return nn.Identity()
    if kind in ("group", "layer"):
        groups = 8 if kind == "group" else 1
        if features % groups:
            raise ValueError(f"norm=group needs a multiple of 8 channels, not {features}")
        return GroupNorm(groups, features)
    raise ValueError(f"norm={kind!r}: choose one of {', '.join(NORMS)}")
