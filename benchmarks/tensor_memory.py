"""Measure the peak memory of tensors.

The result is exact, while the peak of a process depends on its allocator.
"""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

from torch.profiler import profile


def tensor_peak_mb(work: Callable[[], object]) -> float:
    """Return the peak MB of tensors that ``work`` allocates."""
    with profile(profile_memory=True) as profiled:
        work()
    profiler: Any = profiled.profiler
    waiting = list(profiler.kineto_results.experimental_event_tree())
    changes: list[tuple[int, int]] = []  # time and bytes
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.tag.name == "Allocation":
            changes.append((event.start_time_ns, event.typed[1].alloc_size))
    return max(accumulate(size for _, size in sorted(changes))) / 1e6
