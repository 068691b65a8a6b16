"""Label ten random splits of photographs by ``classify``, and score the files that it writes.

python experiments/pretrained/own_images.py photos DIR       # DIR/<class>/*, 25 classes
python experiments/pretrained/own_images.py cifar_fs DIR     # DIR/{val,test}/<class>/*
"""

import csv
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from fewshot.calibration import Bins
from fewshot.classify import main
from fewshot.open_set import auroc

WAYS = 20
SHOTS = 5
QUERIES = 30
UNKNOWN_CLASSES = 5
RATE = 0.05
SPLITS = 10
COLUMNS = ("seed", "accuracy", "calibration_error", "lost", "found", "auroc", "seconds")


def classes_of(folder: Path) -> list[Path]:
    """Return the folders of classes."""
    return sorted(path for path in folder.iterdir() if path.is_dir())


def link(files: list[Path], folder: Path) -> None:
    """Make links to files in a new folder."""
    folder.mkdir(parents=True)
    for file in files:
        (folder / file.name).symlink_to(file.resolve())


def make_split(name: str, root: Path, seed: int, target: Path) -> None:
    """Draw classes and images, and link these in ``target/support`` and ``target/query``."""
    random = np.random.default_rng(seed)

    def drawn(items: list[Path]) -> list[Path]:
        return [items[place] for place in random.permutation(len(items))]

    if name == "photos":
        order = drawn(classes_of(root))
        known, unknown = order[:WAYS], order[WAYS : WAYS + UNKNOWN_CLASSES]
    else:
        known = drawn(classes_of(root / "test"))[:WAYS]
        unknown = drawn(classes_of(root / "val"))[:UNKNOWN_CLASSES]
    for folder in known:
        files = drawn(sorted(folder.iterdir()))
        link(files[:SHOTS], target / "support" / folder.name)
        link(files[SHOTS : SHOTS + QUERIES], target / "query" / folder.name)
    for folder in unknown:
        link(drawn(sorted(folder.iterdir()))[:QUERIES], target / "query" / folder.name)


def score(file: Path, classes: set[str]) -> list[float]:
    """Return accuracy, calibration error, lost, found and AUROC of a file of labels.

    Accuracy and calibration are of the class with the largest probability, whether or not it is called unknown.
    """
    rows = list(csv.DictReader(file.open(encoding="utf-8")))
    names = [name for name in rows[0] if name in classes]
    truth = [row["file"].split("/")[0] for row in rows]
    is_known = np.array([true in classes for true in truth])
    probabilities = np.array([[float(row[name]) for name in names] for row in rows])
    right = np.array([names[place] for place in probabilities.argmax(1)]) == np.array(truth)
    bins = Bins.from_predictions(probabilities.max(1)[is_known], right[is_known])
    error = np.nansum(bins.count * np.abs(bins.confidence - bins.accuracy)) / bins.count.sum()
    rejected = np.array([row["predicted"] == "unknown" for row in rows])
    knownness = np.array([float(row["knownness"]) for row in rows])
    return [
        float(right[is_known].mean()),
        float(error),
        float(rejected[is_known].mean()),
        float(rejected[~is_known].mean()),
        auroc(knownness[is_known], knownness[~is_known]),
    ]


def run(name: str, root: Path, method: str) -> None:
    """Label the splits, and write a line for each."""
    target = Path(__file__).parent / f"own_images_{name}{'' if method == 'simpleshot' else f'_{method}'}.csv"
    with target.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for seed in range(SPLITS):
            with tempfile.TemporaryDirectory() as folder:
                split = Path(folder)
                make_split(name, root, seed, split)
                start = time.perf_counter()
                given = [f"{key}={split / key}" for key in ("support", "query")]
                output = split / "labels.csv"
                status = main(
                    ["backbone=efficientnet_lite0", f"method={method}", *given, f"output={output}", f"unknown={RATE}"]
                )
                seconds = time.perf_counter() - start
                assert status == 0
                scores = score(output, {path.name for path in classes_of(split / "support")})
            writer.writerow([seed, *(f"{value:.4f}" for value in scores), f"{seconds:.1f}"])
            stream.flush()


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "simpleshot")
