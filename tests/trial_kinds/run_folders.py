"""Run folders with random damage and hostile contents, read by the report."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from trial_kinds import ACCEPTED, WRONG, Trial, kind

SECRET = "SECRET of another folder"
ENTRIES = (
    "method", "name", "data", "split", "label_fraction", "task", "seed", "bn", "test", "val", "train", "parameters",
    "adapted_parameters", "peak_memory_mb", "device", "git_commit", "overrides", "format", "path",
)  # fmt: skip
WITHIN = {
    "task": ("ways", "shots", "name", "distractors"),
    "test": ("accuracy", "ci95", "loss", "ece", "open_set"),
    "train": ("steps", "seconds", "episodes_per_second"),
    "val": ("accuracy",),
}
VALUES = (
    None, True, 0, -1, 1.5, 2**63, 10**400, 1e308, float("nan"), float("inf"), -float("inf"), [], {}, [[]], {"a": 1},
    "", "$\\bad$", "\x1b[31m", "a\nb", "\ud800", "\udcfc", "x" * 5000, "=1+1", "@a", "<b>", "|", "\u202e", "{{ 7*7 }}",
    [10**30], ["=1", "\x1b]0;a\x07"], ["a" * 100_000], ["seed=\ud800"],
)  # fmt: skip
CELLS = (
    "", "nan", "inf", "-1", "2", "1e400", "1" * 5000, "x" * 200_000, '"', "\x00", "\x1b[31m", "=1", "0.5", "9" * 30,
    "\ud800",
)  # fmt: skip


def make_run(folder: Path, random: Random) -> None:
    """Write all files of a run with 20 test episodes."""
    accuracy = [random.randint(0, 15) / 15 for _ in range(20)]
    result = {
        "method": random.choice(["maml", "protonet", "anil"]),
        "data": "glyphs",
        "task": {"name": "5w1s", "ways": 5, "shots": 1},
        "seed": random.randint(0, 2),
        "bn": "support",
        "test": {
            **{"accuracy": sum(accuracy) / 20, "ci95": 0.1, "episodes": 20, "loss": 1.0, "ece": 0.1},
            "open_set": {"knownness": "logit", "auroc": 0.7, "fpr95": 0.4},
        },
        "val": {"accuracy": 0.5},
        "train": {"steps": 10, "episodes": 320, "seconds": 9.0, "episodes_per_second": 35.0},
        "device": "cpu",
        "overrides": ["method=maml", f"method.lr={random.random()}"],
    }
    files = {
        "result.json": json.dumps(result),
        "episodes.csv": "episode,accuracy,fingerprint,auroc,fpr95\n"
        + "".join(f"{number},{value},{number:016x},{1 - value / 2},0.5\n" for number, value in enumerate(accuracy)),
        "metrics.csv": "step,episodes,seconds,train/loss,val/accuracy\n9,320,9.0,1.0,\n9,,,,0.5\n",
        "calibration.csv": "low,high,count,confidence,accuracy\n"
        + "".join(f"{bin / 15},{(bin + 1) / 15},{bin},{(bin + 0.5) / 15},0.5\n" for bin in range(15)),
        ".hydra/overrides.yaml": "- method=maml\n- seed=1\n",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    if random.random() < 0.3:
        (folder / "result.json").unlink()
        (folder / "error.txt").write_text("out of memory\nTraceback\n")
    (folder / "figures").mkdir()
    Image.new("RGB", (40, 20), "red").save(folder / "figures/embedding.png")
    np.savez_compressed(
        folder / "figures/boundary.npz",
        axis=np.linspace(0.1, 0.9, 5),
        probabilities=np.full((1, 5, 5, 2), 0.5),
        **{f"{part}_x": np.full((1, 2, 2), 0.5) for part in ("support", "query")},
        **{f"{part}_y": np.array([[0, 1]]) for part in ("support", "query")},
        accuracy=np.ones(1),
    )


def flip_bytes(file: Path, random: Random) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(random.choice([1, 5, 50])):
        content[random.randrange(len(content))] = random.randrange(256)
    file.write_bytes(content)


def cut(file: Path, random: Random) -> None:
    os.truncate(file, random.randrange(file.stat().st_size))


def fill(file: Path, random: Random) -> None:
    file.write_bytes(
        random.choice(
            [random.randbytes(5000), b"\0" * 5000, b"[" * 100_000, b"{" * 100_000, b",\n" * 50_000, b"- " * 50_000]
        )
    )


def repeat(file: Path, random: Random) -> None:
    file.write_bytes(file.read_bytes() * random.choice([2, 500]))


def grow(file: Path, random: Random) -> None:
    os.truncate(file, 2 ** random.randrange(20, 40))


def replace(file: Path, random: Random) -> None:
    """Put something that is no file in the file's place."""
    file.unlink()
    kind = random.randrange(7)
    if kind == 0:
        os.mkfifo(file)
    elif kind == 1:
        file.mkdir()
    elif kind < 6:
        file.symlink_to(["/dev/zero", "/etc/passwd", file.name, "../../elsewhere"][kind - 2])


def change_entry(file: Path, random: Random) -> None:
    result = json.loads(file.read_text())
    for _ in range(random.randint(1, 3)):
        name = random.choice(ENTRIES)
        if name in WITHIN and random.random() < 0.7 and isinstance(result.get(name), dict):
            result[name][random.choice(WITHIN[name])] = random.choice(VALUES)
        else:
            result[name] = random.choice(VALUES)
    file.write_text(json.dumps(result))


def change_cell(file: Path, random: Random) -> None:
    rows = [line.split(",") for line in file.read_text().splitlines()]
    for _ in range(random.randint(1, 4)):
        row = random.choice(rows)
        row[random.randrange(len(row))] = random.choice(CELLS)
    text = "\n".join(",".join(row) for row in rows)
    file.write_bytes(text.encode("utf-8", "surrogatepass"))


Damage = Callable[[Path, Random], None]
ANY: tuple[Damage, ...] = (flip_bytes, cut, fill, repeat, grow, replace)


def damage(folder: Path, random: Random) -> str:
    """Damage one to three files of a run; return what was done."""
    done = []
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    for file in random.sample(files, random.randint(1, min(3, len(files)))):
        kinds = ANY
        if file.name == "result.json":
            kinds += (change_entry,) * 8
        elif file.suffix == ".csv":
            kinds += (change_cell,) * 4
        if file.stat().st_size:
            change = random.choice(kinds)
            change(file, random)
            done.append(f"{change.__name__} {file.relative_to(folder)}")
    return ", ".join(done)


@kind
def damaged(random: Random, workshop: Path) -> Trial:
    """Damage one of three runs: the report names that run, and compares the others."""
    top = workshop / "try"
    shutil.rmtree(top)
    for number in range(3):
        make_run(top / f"runs/{number}", random)
    (top / "runs/elsewhere").write_text(SECRET)
    what = damage(top / "runs/1", random)

    def command() -> int:
        from fewshot.report.__main__ import main

        sys.argv = ["report", str(top / "runs"), "--output", str(top / "out")]
        status = main()
        for name in ("report.html", "report.csv", "report.md", "report.tex"):
            if SECRET in (top / "out" / name).read_text(encoding="utf-8"):
                print(f"{name} shows a file outside of the run")
                return WRONG
        return status

    return Trial(what, command, right=ACCEPTED)
