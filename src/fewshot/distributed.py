"""Train one run in several processes.

Each process draws its own tasks of the meta-batch. Lightning's ``DistributedDataParallel`` wrapper averages the means
of processes, during one backward pass. Here a step has a backward pass for every chunk of tasks, and processes may hold
unequal numbers of tasks: gradients are summed once, after all of them, and divided by the number of tasks.
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
    """Set up Lightning's DDP without its wrapper.

    Methods call ``sum_gradients`` instead.
    """

    def configure_ddp(self) -> None:
        """Copy the weights of rank 0 to all ranks."""
        assert self.model is not None
        for tensor in self.model.state_dict().values():
            dist.broadcast(tensor, 0)


def rank() -> int:
    """Return the rank of this process.

    The rank is known even before the process group exists.
    """
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0)))


def started_by_launcher() -> bool:
    """Return whether a launcher started this process.

    A launcher, torchrun or SLURM, starts several processes.
    """
    return "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_NTASKS", 1)) > 1


def is_distributed() -> bool:
    """Return whether the world size is above 1."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def reduce_sum(value: Tensor) -> Tensor:
    """Return the sum of ``value`` over all ranks."""
    if is_distributed():
        value = value.clone()
        dist.all_reduce(value)
    return value


def any_rank(condition: bool, device: torch.device) -> bool:
    """Return whether ``condition`` is true on any rank.

    All ranks must call the function.
    """
    return bool(reduce_sum(torch.tensor(float(condition), device=device))) if is_distributed() else condition


def sum_gradients(parameters: Iterable[nn.Parameter], scale: float = 1.0) -> None:
    """Replace gradients by their scaled sum over ranks.

    One message carries all gradients. A parameter without a gradient on this rank counts as zeros.
    """
    trained = [p for p in parameters if p.requires_grad]
    if not is_distributed():
        for parameter in trained:
            if parameter.grad is not None and scale != 1.0:
                parameter.grad.mul_(scale)
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])
    dist.all_reduce(flat)
    flat *= scale
    for parameter, part in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
        parameter.grad = part.view_as(parameter)


def gather(items: list[T]) -> list[T]:
    """Return the items of all ranks, in order."""
    if not is_distributed():
        return items
    parts: list[list[T]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]
