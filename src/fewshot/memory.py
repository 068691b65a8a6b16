"""Measure peak memory, and keep freed memory."""

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

_PROC = Path("/proc/self")
# Of glibc's malloc.h; the first threshold that a version of it accepts is set.
_MMAP_THRESHOLD = -3
_TRIM_THRESHOLD = -1
_TOP_PAD = -2
_LARGEST = (1 << 30, 32 << 20)


def keep_freed() -> bool:
    """Keep freed memory for the next tensors.

    Return whether freed memory is kept. glibc returns large blocks to the system. A step of training frees and takes
    the same ones again, and a CPU spent up to a third of its time on the page faults that this costs. Other allocators
    are not changed.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    kept = any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST)
    return kept and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1) and mallopt(_TOP_PAD, 64 << 20))


def reset_peak() -> None:
    """Begin a new measurement of peak memory.

    Several runs of a sweep may share a process.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # not Linux, or not allowed: the peak is then the process's
        (_PROC / "clear_refs").write_text("5")


def peak_mb(device: torch.device) -> float:
    """Return the peak memory in MB.

    The peak counts allocated memory on a GPU, else resident memory.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        lines = (_PROC / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024) / 1e6
