"""Measure how our meta-step scales.

Time and memory are measured over tasks, inner steps and image sizes.
"""

from dataclasses import dataclass, replace
from statistics import median

from benchmarks.contender import Contender
from benchmarks.meta_step_contenders import WIDTH, Inner, Ours, random_episodes
from benchmarks.report import Options, console, run_benchmarks, save
from benchmarks.rounds import Row
from benchmarks.tensor_memory import tensor_peak_mb

BASE = Inner(ways=5)
NAMES = ("scaling", "scaling_memory", "scaling_tensors")


@dataclass(frozen=True)
class Setting:
    """Hold one setting of the benchmark.

    The task is 5-way 1-shot with 1 query image a class.
    """

    name: str = ""
    inner: Inner = BASE
    tasks: int = 32
    size: int = 28
    width: int = WIDTH


class Step:
    """Repeat one meta-step."""

    def __init__(self, setting: Setting) -> None:
        self.ours = Ours(setting.inner, setting.size, setting.width)
        self.episodes = random_episodes(setting.tasks, setting.inner.ways, 1, 1, setting.size)

    def step(self) -> None:
        self.ours.step(self.episodes)

    def tensor_peak_mb(self) -> float:
        return tensor_peak_mb(self.step)


def settings(quick: bool) -> list[Setting]:
    """Vary one axis after the other.

    The centre is 32 tasks, 1 second-order step, 28 pixels.
    """
    tasks = [Setting(f"tasks-{n}", tasks=n) for n in (8, 16, 32, 64, 128, 256)]
    steps = [
        Setting(f"steps-{n}-{order}", inner=Inner(5, n, order == "second"))
        for order in ("second", "first")
        for n in (1, 2, 5, 10)
    ]
    sizes = [Setting(f"size-{n}", size=n) for n in (28, 42, 56, 84)]
    return [replace(s, tasks=2, width=8) for s in steps[4:]] if quick else [*tasks, *steps, *sizes]


def measure(setting: Setting) -> tuple[Row, Row, Row]:
    """Measure three warm steps and peak memory.

    The peaks are of the process and of tensors.
    """
    with Contender(Step, setting) as contender:
        contender.seconds()
        times = [1e3 * contender.seconds() for _ in range(3)]
        peak = contender.peak_mb()
        return (
            Row("scaling", setting.name, "ms", times),
            Row("scaling_memory", setting.name, "MB", [peak]),
            Row("scaling_tensors", setting.name, "MB", [contender.ask("tensor_peak_mb")]),
        )


def main(options: Options) -> None:
    """Measure each setting in a fresh process."""
    pairs = []
    for setting in settings(options.quick):
        if options.wants(setting.name):
            pairs.append(measure(setting))
            time, memory, _ = pairs[-1]
            console.print(f"{setting.name}: {median(time.ours):.0f} ms, {memory.ours[0]:.0f} MB")
    rows = [row for kind in zip(*pairs, strict=True) for row in kind]
    for name in NAMES[1:]:
        peaks = {row.case: row.ours[0] for row in rows if row.benchmark == name}
        if {"steps-1-first", "steps-10-first"} <= peaks.keys():
            growth = peaks["steps-10-first"] / peaks["steps-1-first"]
            rows.append(Row(name, "first-10-steps-over-1", "times", [growth]))
    save(rows, NAMES, options)


if __name__ == "__main__":
    run_benchmarks(main)
