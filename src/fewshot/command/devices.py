"""Share a machine between simultaneous runs."""

import fcntl
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch


def gpus() -> list[str]:
    """Return the visible GPUs, without initialising CUDA.

    The names are as in ``CUDA_VISIBLE_DEVICES``.
    """
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in named.split(",")][:count] if named else [str(index) for index in range(count)]


def workers(wanted: int, jobs: int, gpus: int, cores: int) -> int:
    """Return how many processes run ``jobs``.

    ``wanted`` is that number; -1 means one for each GPU or core, -2 one less. No job has no process.
    """
    if wanted < 0:
        wanted = max(1, (gpus if gpus > 1 else cores) + 1 + wanted)
    return min(wanted, jobs)


def threads(processes: int, cores: int) -> int:
    """Return the threads of each process."""
    return max(1, cores // processes)


def claim(gpus: Sequence[str], number: int) -> str | None:
    """Limit this process to one of several GPUs.

    Call before CUDA is used. A free GPU is chosen, else the GPU of ``number``. The choice holds, for other processes of
    this user too, as long as the process lives.
    """
    if len(gpus) < 2:
        return None
    chosen = next((gpu for gpu in gpus if _lock(gpu)), gpus[number % len(gpus)])
    os.environ["CUDA_VISIBLE_DEVICES"] = chosen
    return chosen


def _lock(gpu: str) -> bool:
    name = f"fewshot-{os.getuid()}-gpu-{gpu.replace('/', '_')}.lock"
    held = os.open(Path(tempfile.gettempdir(), name), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        return False
    return True  # and never closed
