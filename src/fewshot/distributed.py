"""Several processes that train one run: each draws its own tasks of the meta-batch.

Lightning's ``DistributedDataParallel`` wrapper averages the means of processes, during one backward pass. Here a
step has a backward pass for every chunk of tasks, and processes may hold unequal numbers of tasks: gradients are
summed once, after all of them, and divided by the number of tasks.
"""

import os
from collections.abc import Iterable
from typing import TypeVar

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn

T = TypeVar("T")


class TaskParallel(DDPStrategy):
    """Lightning's DDP without its wrapper; the method sums its gradients itself (``sum_gradients``)."""

    def configure_ddp(self) -> None:
        """All processes begin with the weights of the first."""
        assert self.model is not None
        for tensor in self.model.state_dict().values():
            dist.broadcast(tensor, 0)


def rank() -> int:
    """Of this process, also before Lightning has set up the others."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0)))


def launched() -> bool:
    """Whether torchrun or SLURM has started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_NTASKS", 1)) > 1


def several() -> bool:
    """Whether more than one process trains this run."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def total(value: Tensor) -> Tensor:
    """The sum of ``value`` over processes."""
    if several():
        value = value.clone()
        dist.all_reduce(value)
    return value


def anywhere(holds: bool, device: torch.device) -> bool:
    """Whether something holds in one process at least; all of them must ask."""
    return bool(total(torch.tensor(float(holds), device=device))) if several() else holds


def sum_gradients(parameters: Iterable[nn.Parameter], scale: float = 1.0) -> None:
    """Replace each gradient by ``scale`` times its sum over processes; one message for all of them.

    A parameter without a gradient here has one of zeros where another process may have more.
    """
    trained = [p for p in parameters if p.requires_grad]
    if not several():
        for parameter in trained:
            if parameter.grad is not None and scale != 1.0:
                parameter.grad.mul_(scale)
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])
    dist.all_reduce(flat)
    flat *= scale
    for parameter, part in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
        parameter.grad = part.view_as(parameter)


def gathered(items: list[T]) -> list[T]:
    """The items of all processes, those of the first process first."""
    if not several():
        return items
    parts: list[list[T]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]
