"""DropBlock, whose masks are a function of the task and not of what was drawn before it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot import rng
from fewshot.streams import TaskStream


class DropBlock(nn.Module):
    """Squares of each feature map set to 0, in training (Ghiasi, Lin and Le 2018, algorithm 1).

    The mask of a pass is a function of the task's key, of the layer, and of how many passes of the task came before:
    ``drawing`` hands out the key. What is left is scaled up, over the images of a pass together.

    Args:
        rate: the part of a map that is dropped, about.
        size: side of a square; that of the map where it is smaller.

    Input ``(M, C, H, W)``.

    Raises:
        RuntimeError: in training, outside of ``drawing``.
    """

    def __init__(self, rate: float = 0.1, size: int = 5) -> None:
        super().__init__()
        self.rate, self.size = rate, size
        self.key: Tensor | None = None
        self.layer = self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        if self.key is None:
            raise RuntimeError("DropBlock in training needs the key of a task: use drawing()")
        height, width = x.shape[2:]
        size = min(self.size, height, width)
        places = (*x.shape[:2], height - size + 1, width - size + 1)
        number = torch.arange(torch.Size(places).numel(), device=x.device)
        gamma = self.rate / size**2 * (height * width) / (places[2] * places[3])
        corners = rng.uniform(self.key, TaskStream.DROP_BLOCK, self.layer, self.passes, number) < gamma
        self.passes += 1
        dropped = F.max_pool2d(F.pad(corners.float().view(places), [size - 1] * 4), size, 1)
        keep = 1 - dropped
        return x * (keep / keep.mean().clamp(min=1 / keep.numel())).to(x)


@contextmanager
def drawing(module: nn.Module, key: Tensor) -> Iterator[None]:
    """Within: the passes of one task, whose scalar ``key`` decides what is dropped."""
    layers = [layer for layer in module.modules() if isinstance(layer, DropBlock)]
    for number, layer in enumerate(layers):
        layer.key, layer.layer, layer.passes = key, number, 0
    try:
        yield
    finally:
        for layer in layers:
            layer.key = None
