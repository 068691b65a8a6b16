"""Peak memory of a run."""

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

_PROC = Path("/proc/self")


def reset_peak() -> None:
    """Begin a new peak: several runs of a sweep may share a process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # not Linux, or not allowed: the peak is then the process's
        (_PROC / "clear_refs").write_text("5")


def peak_mb(device: torch.device) -> float:
    """Peak memory in MB: what the allocator of a GPU held, else what the process had resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        lines = (_PROC / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024) / 1e6
