"""The most that tensors hold at once: exact, where what a process has resident depends on its allocator too."""

from collections.abc import Callable
from itertools import accumulate

from torch.profiler import profile


def most_held_mb(work: Callable[[], object]) -> float:
    """The peak, in MB, of what ``work`` allocates, on any device."""
    with profile(profile_memory=True) as seen:
        work()
    held, waiting = [], list(seen.profiler.kineto_results.experimental_event_tree())  # type: ignore[union-attr]
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.tag.name == "Allocation":
            held.append((event.start_time_ns, event.typed[1].alloc_size))
    return max(accumulate(size for _, size in sorted(held))) / 1e6
