"""Count the errors of a checkpoint on the one-shot runs, by ``python -m fewshot.classify`` on their folders.

python experiments/lake_one_shot/score.py checkpoint=PATH runs=DIR output=FILE.csv [ways=20] [SETTING=VALUE ...]

``write_runs.py`` beside this file writes DIR. With ``ways=5`` the 20 characters of a run become four tasks.
The CSV has a row for each run; further settings go to ``classify``.
"""

import contextlib
import csv
import io
import shutil
import sys
import tempfile
from pathlib import Path

from scipy import stats

from fewshot.classify import main as classify

CHARACTERS = 20


def errors(run: Path, ways: int, checkpoint: str, settings: list[str]) -> int:
    """Return how many of the 20 query images get a wrong label."""
    characters = sorted(folder.name for folder in (run / "support").iterdir())
    wrong = 0
    for first in range(0, CHARACTERS, ways):
        with tempfile.TemporaryDirectory() as name:
            task = Path(name)
            for part in ("support", "query"):
                for character in characters[first : first + ways]:
                    shutil.copytree(run / part / character, task / part / character)
            labels = task / "labels.csv"
            folders = [f"support={task}/support", f"query={task}/query", f"output={labels}"]
            with contextlib.redirect_stdout(io.StringIO()):
                status = classify([f"checkpoint={checkpoint}", *folders, *settings])
            if status:
                sys.exit(status)
            with labels.open() as table:
                wrong += sum(Path(row["file"]).parent.name != row["predicted"] for row in csv.DictReader(table))
    return wrong


def main(arguments: list[str]) -> None:
    """Score all runs, write the CSV and print the mean error."""
    given = {"ways": "20"} | dict(argument.split("=", 1) for argument in arguments)
    checkpoint, runs, output, ways = (given.pop(name) for name in ("checkpoint", "runs", "output", "ways"))
    settings = [f"{name}={value}" for name, value in given.items()]
    with (Path(runs) / "runs.csv").open() as table:
        rows = list(csv.DictReader(table))
    for row in rows:
        row["error"] = str(errors(Path(runs) / row["run"], int(ways), checkpoint, settings) / CHARACTERS)
    with Path(output).open("w", newline="") as table:
        writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    values = [100 * float(row["error"]) for row in rows]
    mean = sum(values) / len(values)
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    print(f"error {mean:.2f}% ± {half:.2f} over {len(values)} runs, {ways}-way")


if __name__ == "__main__":
    main(sys.argv[1:])
