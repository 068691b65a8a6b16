"""Measure training steps alone and beside busy processes.

Forty steps are measured; three processes are busy.

The peer lets waiting threads spin.

``GOMP_SPINCOUNT=2000 python -m benchmarks.busy`` measures another spin than that of ``fewshot.threads``.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from benchmarks.contender import Contender
from benchmarks.framework import Run
from benchmarks.report import Options, console, run_benchmarks, save
from benchmarks.rounds import Row, alternate
from fewshot.threads import VARIABLES, waiting_variables

NEIGHBOURS = 3
STEPS = 40
SETTINGS = ("method=protonet", "task.val_episodes=0", "trainer.max_steps=1000000", "figures=false")


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables for processes that start within.

    No other variable of ``VARIABLES`` is set.
    """
    before = dict(os.environ)
    for name in VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep ``count`` single-threaded processes busy within."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def start(variables: dict[str, str], steps: int) -> Contender:
    """Start a run that trains ``steps`` when asked."""
    with environment(variables):
        return Contender(Run, steps, *SETTINGS)


def main(options: Options) -> None:
    """Measure both cases alternately and print the ratio.

    Beside busy processes, both sides start beside them.
    """
    steps = 2 if options.quick else STEPS
    own = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    rows = []
    for case, neighbours, least, most in (("alone", 0, 10, 10), ("beside-three", NEIGHBOURS, 3, 5)):
        if not options.wants(case):
            continue
        with busy_processes(neighbours), start(own or waiting_variables({}), steps) as ours, start({}, steps) as peer:
            for contender in (ours, peer):
                contender.seconds()
            rounds = (1, 1) if options.quick else (least, most)
            seconds = alternate(ours, peer, *rounds, enough_seconds=120)
        times = [[1e3 * value / steps for value in values] for values in seconds]
        rows.append(Row("busy", case, "ms", times[0], times[1]))
    save(rows, ("busy",), options)
    if len(rows) == 2:
        alone, busy = rows
        console.print(f"busy over alone: {slowdown(alone.ours, busy.ours)}, peer {slowdown(alone.peer, busy.peer)}")


def slowdown(alone: list[float], busy: list[float]) -> str:
    """Return the slowdown of the busy case, by medians."""
    return f"{median(busy) / median(alone):.1f} times"


if __name__ == "__main__":
    run_benchmarks(main)
