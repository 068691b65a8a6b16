"""Time and peak memory of a meta-step of MAML, beside learn2learn."""

from dataclasses import dataclass, replace

import torch

from benchmarks.contender import Side
from benchmarks.meta_step_contenders import WIDTH, Inner, Ours, Peer, random_episodes
from benchmarks.report import Options, console, run, save
from benchmarks.rounds import Result, Row, alternate, geometric_mean, refuse_unequal

EXACT = 1e-8  # relative, in float64
# In float32 a ReLU whose input rounds to the other side of zero moves a gradient by a tenth, on either side.
CLOSE = {"loss": 1e-2, "gradient": 0.3}


@dataclass(frozen=True)
class Cell:
    """One setting: N ways, K shots, Q queries, and the inner loop."""

    inner: Inner
    shots: int
    queries: int
    tasks: int = 32
    width: int = WIDTH

    @property
    def name(self) -> str:
        inner, order = self.inner, "second" if self.inner.second_order else "first"
        return f"{inner.ways}w{self.shots}s-q{self.queries}-{inner.steps}step-{order}"


class Step:
    """A side: one meta-step on the same episodes every time."""

    def __init__(self, side: type[Ours] | type[Peer], cell: Cell, dtype: torch.dtype = torch.float32) -> None:
        self.side = side(cell.inner, width=cell.width, dtype=dtype)
        self.episodes = random_episodes(cell.tasks, cell.inner.ways, cell.shots, cell.queries, dtype=dtype)

    def step(self) -> None:
        self.side.step(self.episodes)

    def result(self) -> Result:
        return self.side.result(self.episodes)


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
    """Time and memory of one cell.

    Raises:
        Unequal: the sides differ in float64 on the first tasks, or in float32 on all of them.
    """
    few = replace(cell, tasks=min(cell.tasks, 4))
    ours_exact, peer_exact = (Step(side, few, torch.float64).result() for side in (Ours, Peer))
    refuse_unequal(ours_exact, peer_exact, EXACT, f"{cell.name} in float64")
    ours, peer = (Side(Step, side, cell, ours=side is Ours) for side in (Ours, Peer))
    with ours, peer:
        warm, warm_peer = (side.ask("result") for side in (ours, peer))
        for name, tolerance in CLOSE.items():
            refuse_unequal({name: warm[name]}, {name: warm_peer[name]}, tolerance, f"{cell.name} in float32")
        seconds = alternate(ours, peer, *((2, 2) if quick else ()))
        milliseconds, theirs = ([1e3 * value for value in side] for side in seconds)
        time = Row("meta_step", cell.name, "ms", milliseconds, theirs)
        memory = Row("meta_step_memory", cell.name, "MB", [ours.peak_mb()], [peer.peak_mb()])
    return time, memory


def main(options: Options) -> None:
    """The grid, and its geometric means."""
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
    """Geometric means over cells, as rows that have a ratio only."""
    means = []
    for case, ending in (("all", ""), ("second", "second"), ("first", "first")):
        ratios = [row.ratio for row in rows if row.benchmark == benchmark and row.case.endswith(ending)]
        if known := [ratio for ratio in ratios if ratio is not None]:
            means.append(Row(benchmark, f"geometric-mean-{case}", "times", fixed_ratio=geometric_mean(known)))
    return means


if __name__ == "__main__":
    run(main)
