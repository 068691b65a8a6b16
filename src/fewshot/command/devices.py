"""The share of a machine that a run has where several go on at once."""

import fcntl
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch


def gpus() -> list[str]:
    """The visible GPUs as ``CUDA_VISIBLE_DEVICES`` names them. CUDA is not initialised."""
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in named.split(",")][:count] if named else [str(index) for index in range(count)]


def workers(wanted: int, jobs: int, gpus: int, cores: int) -> int:
    """How many processes run ``jobs``: ``wanted``, where -1 is one a GPU or a core, -2 one less; none without a job."""
    if wanted < 0:
        wanted = max(1, (gpus if gpus > 1 else cores) + 1 + wanted)
    return min(wanted, jobs)


def threads(processes: int, cores: int) -> int:
    """The share of each process."""
    return max(1, cores // processes)


def claim(gpus: Sequence[str], number: int) -> str | None:
    """Keep this process to one of several ``gpus``: to a free one, else to that of ``number``. Before CUDA is used.

    The choice holds, for other processes of this user too, as long as the process lives.
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
