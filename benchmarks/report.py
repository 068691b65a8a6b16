"""Print a benchmark's table and keep its files.

``results.csv`` holds a row for each case, ``bounds.csv`` the 95% intervals of ratios, ``rounds.csv`` every single
value, ``machine.txt`` the machine and the versions of each benchmark. A benchmark replaces its own rows only.
"""

import argparse
import csv
import io
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import ROOT
from benchmarks.rounds import Row, Unequal
from fewshot.errors import UserError
from fewshot.files import write_bytes
from fewshot.provenance import device_name, git_commit, versions

RESULTS = ("benchmark", "case", "ours", "peer", "unit", "ratio")
BOUNDS = ("benchmark", "case", "rounds", "ratio", "lower", "upper")
ROUNDS = ("benchmark", "case", "side", "round", "value")
console = Console()
if not console.is_terminal:
    console.width = 140  # a file has room


@dataclass(frozen=True)
class Options:
    """Hold the options of the command line.

    Attributes:
        quick: tiny sizes, to see that the benchmark works; the figures mean nothing.
        out: folder of the files.
        cases: run only those whose names contain this.
    """

    quick: bool = False
    out: Path = ROOT / "benchmarks"
    cases: str = ""

    def wants(self, case: str) -> bool:
        return self.cases in case


Benchmark = Callable[[Options], None]


def run_benchmarks(*benchmarks: Benchmark) -> None:
    """Run each benchmark with command-line options.

    An error of the user is one line.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--out", type=Path, default=Options.out, help="folder of the csv files")
    parser.add_argument("--cases", default="", help="only cases whose names contain this")
    options = Options(**vars(parser.parse_args()))
    try:
        for benchmark in benchmarks:
            benchmark(options)
    except (UserError, Unequal) as error:
        sys.exit(f"error: {error}")


def save(rows: Sequence[Row], names: Iterable[str], options: Options) -> None:
    """Print rows and replace older rows in files.

    The rows are of the benchmarks ``names``.

    Where ``options.cases`` left some cases out, the older rows of these cases stay.
    """
    if not rows:
        raise UserError(f"--cases {options.cases}: {', '.join(names)} has no such case")
    _show(rows)
    owned = set(names)
    ran = {(row.benchmark, row.case) for row in rows}

    def stays(benchmark: str, case: str) -> bool:
        return benchmark not in owned or (bool(options.cases) and (benchmark, case) not in ran)

    results = [
        (row.benchmark, row.case, _middle(row.ours), _middle(row.peer), row.unit, _short(row.ratio)) for row in rows
    ]
    bounds = [
        (row.benchmark, row.case, len(row.ratios), _short(row.ratio), *map(_short, row.bounds))
        for row in rows
        if row.bounds
    ]
    rounds = [
        (row.benchmark, row.case, side, number, f"{value:.6g}")
        for row in rows
        for side, values in (("ours", row.ours), ("peer", row.peer))
        for number, value in enumerate(values)
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    tables = (("results.csv", RESULTS, results), ("bounds.csv", BOUNDS, bounds), ("rounds.csv", ROUNDS, rounds))
    for name, header, new in tables:
        _replace(options.out / name, header, [[str(value) for value in row] for row in new], stays)
    _note_machine(options.out / "machine.txt", next(iter(names)))


def _replace(file: Path, header: Sequence[str], new: list[list[str]], stays: Callable[[str, str], bool]) -> None:
    old: list[list[str]] = []
    if file.exists():
        columns, *old = csv.reader(file.read_text().splitlines())
        if tuple(columns) != tuple(header):
            raise UserError(f"{file} has the columns {','.join(columns)}: move it away, or choose another --out")
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([header, *(r for r in old if stays(r[0], r[1])), *new])
    write_bytes(file, stream.getvalue().encode())


def _show(rows: Sequence[Row]) -> None:
    table = Table(*RESULTS, "95% interval")
    for row in rows:
        bounds = " to ".join(map(_short, row.bounds)) if row.bounds else ""
        table.add_row(
            row.benchmark, row.case, _middle(row.ours), _middle(row.peer), row.unit, _short(row.ratio), bounds
        )
    console.print(table)


def _middle(values: list[float]) -> str:
    return f"{median(values):.4g}" if values else ""


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _note_machine(file: Path, benchmark: str) -> None:
    """Write the machine of each benchmark's last run."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": git_commit(ROOT),
        "device": device_name(device),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        **{name: text for name, text in versions().items() if name != "fewshot"},
        "learn2learn": version("learn2learn"),
    }
    lines = file.read_text().splitlines() if file.exists() else []
    kept = [line for line in lines if line.partition(":")[0] != benchmark]
    text = "; ".join(f"{name} {value}" for name, value in facts.items())
    write_bytes(file, "".join(f"{line}\n" for line in (*kept, f"{benchmark}: {text}")).encode())


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()
