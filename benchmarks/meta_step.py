"""Measure a MAML meta-step beside learn2learn.

Time and peak memory are measured.
"""

from dataclasses import dataclass, replace

import torch

from benchmarks.contender import Contender
from benchmarks.meta_step_contenders import WIDTH, Inner, Ours, Peer, random_episodes
from benchmarks.report import Options, console, run_benchmarks, save
from benchmarks.rounds import Result, Row, alternate, geometric_mean, refuse_unequal

EXACT = 1e-8  # relative, in float64
# In float32 a ReLU whose input rounds to the other side of zero moves a gradient by a tenth, for either contender.
CLOSE = {"loss": 1e-2, "gradient": 0.3}


@dataclass(frozen=True)
class Cell:
    """Hold one setting of the benchmark.

    A setting is N ways, K shots, Q queries, and the inner loop.
    """

    inner: Inner
    shots: int
    queries: int
    tasks: int = 32
    width: int = WIDTH

    @property
    def name(self) -> str:
        inner = self.inner
        order = "second" if inner.second_order else "first"
        return f"{inner.ways}w{self.shots}s-q{self.queries}-{inner.steps}step-{order}"


class Step:
    """Repeat a contender's meta-step on the same episodes."""

    def __init__(self, contender: type[Ours] | type[Peer], cell: Cell, dtype: torch.dtype = torch.float32) -> None:
        self.contender = contender(cell.inner, width=cell.width, dtype=dtype)
        self.episodes = random_episodes(cell.tasks, cell.inner.ways, cell.shots, cell.queries, dtype=dtype)

    def step(self) -> None:
        self.contender.step(self.episodes)

    def result(self) -> Result:
        return self.contender.result(self.episodes)


def cells(quick: bool) -> list[Cell]:
    shapes = ((5, 1, 1), (5, 1, 15), (5, 5, 5), (5, 5, 15), (20, 1, 1))
    grid = [
        Cell(Inner(ways, steps, second), shots, queries)
        for second in (True, False)
        for ways, shots, queries in shapes
        for steps in (1, 5)
    ]
    return [replace(cell, tasks=2, width=8) for cell in grid[:1]] if quick else grid


def compare(cell: Cell, quick: bool = False) -> tuple[Row, Row]:
    """Compare time and memory of one cell.

    Raises:
        Unequal: the contenders differ in float64 on the first tasks, or in float32 on all of them.
    """
    few = replace(cell, tasks=min(cell.tasks, 4))
    ours_exact, peer_exact = (Step(factory, few, torch.float64).result() for factory in (Ours, Peer))
    refuse_unequal(ours_exact, peer_exact, EXACT, f"{cell.name} in float64")
    ours, peer = (Contender(Step, factory, cell, ours=factory is Ours) for factory in (Ours, Peer))
    with ours, peer:
        warm, warm_peer = (contender.ask("result") for contender in (ours, peer))
        for name, tolerance in CLOSE.items():
            refuse_unequal({name: warm[name]}, {name: warm_peer[name]}, tolerance, f"{cell.name} in float32")
        seconds = alternate(ours, peer, *((2, 2) if quick else ()))
        milliseconds, theirs = ([1e3 * value for value in values] for values in seconds)
        time = Row("meta_step", cell.name, "ms", milliseconds, theirs)
        memory = Row("meta_step_memory", cell.name, "MB", [ours.peak_mb()], [peer.peak_mb()])
    return time, memory


def main(options: Options) -> None:
    """Measure the grid, and its geometric means."""
    pairs = []
    for cell in cells(options.quick):
        if options.wants(cell.name):
            pairs.append(compare(cell, options.quick))
            time, memory = pairs[-1]
            console.print(f"{cell.name}: {time.ratio:.2f} times as fast, {memory.ratio:.2f} times less memory")
    rows = [row for kind in zip(*pairs, strict=True) for row in kind]
    if not options.cases:
        rows += [mean for name in ("meta_step", "meta_step_memory") for mean in _means(rows, name)]
    save(rows, ("meta_step", "meta_step_memory"), options)


def _means(rows: list[Row], benchmark: str) -> list[Row]:
    """Return ratio rows of geometric means over cells."""
    means = []
    for case, order in (("all", ""), ("second", "second"), ("first", "first")):
        ratios = [row.ratio for row in rows if row.benchmark == benchmark and row.case.endswith(order)]
        if known := [ratio for ratio in ratios if ratio is not None]:
            means.append(Row(benchmark, f"geometric-mean-{case}", "times", fixed_ratio=geometric_mean(known)))
    return means


if __name__ == "__main__":
    run_benchmarks(main)
