"""Let waiting threads sleep.

Other programs then get their cores. OpenMP reads its variables when torch loads:
``os.environ.update(waiting_variables(os.environ))`` comes before ``import torch``. Processes that a run starts inherit
the variables.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path

# Threads of an operation wait for one another some thousand times a second. By default a waiting thread spins for
# some ten milliseconds, which takes a core from the thread that it waits for if other programs keep the cores busy.
# A thread that sleeps at once is slow to wake, which costs a quiet machine a tenth of its speed or more. These many
# rounds take about half a millisecond on a quiet machine, and a sixteenth beside busy programs: benchmarks/busy.py.
QUIET_SPINS = 8000
BUSY_SPINS = 1000
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
LOAD = Path("/proc/loadavg")
SAMPLES = 5
INTERVAL = 0.004  # seconds between two samples


def waiting_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables to set.

    There are none if the user has set any of ``VARIABLES``.
    """
    if any(name in environment for name in VARIABLES):
        return {}
    return {"GOMP_SPINCOUNT": str(BUSY_SPINS if is_busy() else QUIET_SPINS)}


def is_busy(load: Path = LOAD, own: int | None = None, cores: int | None = None) -> bool:
    """Tell whether other programs use the cores that torch would.

    Linux counts the threads that run now; a few samples leave out threads that run for a moment. On other systems the
    answer is no.

    Args:
        load: the file of the count.
        own: cores that this process may use; None for the system's answer.
        cores: of the machine; None for the system's answer.
    """
    cores = cores or os.cpu_count() or 1
    fewest = cores
    try:
        own = own or len(os.sched_getaffinity(0))
        for sample in range(SAMPLES):
            time.sleep(INTERVAL if sample else 0)
            running = int(load.read_text().split()[3].partition("/")[0])
            fewest = min(fewest, running - 1)  # without this process
    except (AttributeError, OSError, ValueError, IndexError):
        return False
    return fewest + own > cores
