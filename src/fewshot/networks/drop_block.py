"""Drop blocks of features by masks of tasks.

A mask is a function of the task.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot import rng
from fewshot.streams import TaskStream


class DropBlock(nn.Module):
    """Set squares of feature maps to 0 in training.

    Ghiasi, Lin, Le, "DropBlock", NeurIPS 2018, algorithm 1.

    The mask of a pass is a function of the task's key, of the layer, and of the number of earlier passes of the task:
    ``with_task_key`` sets the key. The remaining features are scaled up, over the images of a pass together.

    Args:
        rate: the dropped fraction of a map, about.
        size: side of a square, at most the side of the map.

    Input ``(M, C, H, W)``.

    Raises:
        RuntimeError: in training, outside of ``with_task_key``.
    """

    def __init__(self, rate: float = 0.1, size: int = 5) -> None:
        super().__init__()
        self.rate = rate
        self.size = size
        self.key: Tensor | None = None
        self.layer = 0
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return features with squares dropped, in training only."""
        if not self.training or not self.rate:
            return x
        if self.key is None:
            raise RuntimeError("DropBlock in training needs the key of a task: use with_task_key()")
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
def with_task_key(module: nn.Module, key: Tensor) -> Iterator[None]:
    """Let a task's ``key`` decide the dropped squares."""
    layers = [layer for layer in module.modules() if isinstance(layer, DropBlock)]
    for number, layer in enumerate(layers):
        layer.key = key
        layer.layer = number
        layer.passes = 0
    try:
        yield
    finally:
        for layer in layers:
            layer.key = None
