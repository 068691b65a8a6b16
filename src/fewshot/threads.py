"""Let waiting threads sleep.

Other programs then get their cores. OpenMP reads its variables when torch loads:
``os.environ.update(waiting_variables(os.environ))`` comes before ``import torch``. Processes that a run starts inherit
the variables.
"""

from collections.abc import Mapping

# Threads of an operation wait for one another some thousand times a second. By default a waiting thread spins for
# some ten milliseconds, which takes a core from the thread that it waits for if other programs keep the cores busy.
# A thread that sleeps at once is slow to wake, which costs a quiet machine a tenth of its speed or more. These many
# rounds take about a quarter of a millisecond: see benchmarks/busy.py.
SPIN_COUNT = 4000
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def waiting_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables to set.

    There are none if the user has set any of ``VARIABLES``.
    """
    if any(name in environment for name in VARIABLES):
        return {}
    return {"GOMP_SPINCOUNT": str(SPIN_COUNT)}
