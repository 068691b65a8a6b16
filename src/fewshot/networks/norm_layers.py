"""Normalise features, right under second-order gradients and ``vmap``.

``batch_norm_function`` has derivatives of its own; ``refused_layers`` lists the layers of torch that are refused.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

import torch
from torch import Tensor, nn

from fewshot.networks.batch_norm_function import batch_normalise


class Statistics(Enum):
    """Name the source of mean and variance."""

    BATCH = "batch"
    RUNNING = "running"


class BatchNorm(nn.Module):
    """Normalise by the statistics of one task.

    The layer is batch normalisation (Ioffe and Szegedy 2015).

    The batch is the images of one task; the task axis comes from the engine, so statistics never
    cross tasks. ``forward`` does not change running statistics: ``vmap`` forbids it.
    ``recording`` collects the statistics of a pass, and the method averages them over the meta-batch.

    Input ``(M, C, H, W)`` or ``(M, C)``.
    """

    running_mean: Tensor
    running_var: Tensor
    updates: Tensor

    def __init__(self, features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.source: Statistics | float = Statistics.BATCH
        self.recorded: list[tuple[Tensor, Tensor]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised features."""
        shape = (1, -1) + (1,) * (x.ndim - 2)
        if self.source is Statistics.BATCH:
            x, mean, var = batch_normalise(x, self.weight, self.bias, self.eps)
            if self.recorded is not None:
                self.recorded.append((mean, var))
            return x
        if self.source is Statistics.RUNNING:
            mean = self.running_mean
            var = self.running_var
        else:  # of the first rows only: the support set
            var, mean = torch.var_mean(x[: round(self.source * len(x))], (0, *range(2, x.ndim)), correction=0)
        x = (x - mean.view(shape)) * torch.rsqrt(var.view(shape) + self.eps)
        return torch.addcmul(self.bias.view(shape), x, self.weight.view(shape))

    @torch.no_grad()
    def update(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics towards new statistics.

        The new ``mean`` and ``var`` ``(C,)`` are of a meta-batch. The first update replaces the initial values.
        """
        weight = torch.where(self.updates == 0, 1.0, self.momentum)
        self.running_mean.lerp_(mean.to(self.running_mean), weight.to(self.running_mean))
        self.running_var.lerp_(var.to(self.running_var), weight.to(self.running_var))
        self.updates += 1


class GroupNorm(nn.GroupNorm):
    """Normalise groups of channels.

    The layer replaces ``nn.GroupNorm``, which fails under ``vmap``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised features."""
        rows, channels, *space = x.shape
        count = math.prod(space)
        return torch.native_group_norm(
            x.contiguous(), self.weight, self.bias, rows, channels, count, self.num_groups, self.eps
        )[0]


def is_norm(layer: nn.Module) -> bool:
    """Tell whether a layer normalises.

    Libraries have many norm layers; the names of all of them say so: ``LayerNorm2d``, ``BatchNormAct2d``, ``RmsNorm``.
    """
    return "Norm" in type(layer).__name__


def batch_norms(module: nn.Module) -> list[BatchNorm]:
    """Return the batch norms in fixed order."""
    return [layer for layer in module.modules() if isinstance(layer, BatchNorm)]


@contextmanager
def normalising(module: nn.Module, source: Statistics | float) -> Iterator[None]:
    """Normalise by ``source`` in this context.

    A number is a fraction: the first part of the batch gives the statistics. A count would not do, since the batch of a
    head can be longer, such as pairs of an image and a class.
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
    """Collect the statistics of every pass.

    In this context, each layer has a list of ``(mean, variance)``.
    """
    layers = batch_norms(module)
    recorded: list[list[tuple[Tensor, Tensor]]] = [[] for _ in layers]
    for layer, collected in zip(layers, recorded, strict=True):
        layer.recorded = collected
    try:
        yield recorded
    finally:
        for layer in layers:
            layer.recorded = None


NORMS = ("batch", "group", "layer", "none")


def make_norm(kind: str, features: int) -> nn.Module:
    """Build a norm layer by its name.

    Names: ``batch``, ``group`` (8 groups), ``layer`` (one group) or ``none``.
    """
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
