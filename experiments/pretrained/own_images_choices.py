"""Compare methods and scores of unknown images, on splits that no recorded accuracy is of.

python experiments/pretrained/own_images_choices.py DIR       # DIR/<class>/*, 25 classes
"""

import csv
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import fewshot
from fewshot.calibration import Bins
from fewshot.class_distances import ClassDistances
from fewshot.data.images import decode_files
from fewshot.open_set import auroc

SPLITS = range(100, 120)
METHODS = ("simpleshot", "ridge", "logistic", "protonet")
COLUMNS = (
    "support",
    "method",
    "accuracy",
    "calibration_error",
    "lost",
    "found",
    "auroc",
    "auroc_euclidean",
    "auroc_probability",
)


def read_features(root: Path) -> dict[str, Tensor]:
    """Return the features of each class."""
    backbone = fewshot.pretrained("efficientnet_lite0").method.backbone
    found = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        pixels = np.stack([image.pixels for image in decode_files(sorted(folder.iterdir()), backbone.decoding)])
        found[folder.name] = torch.cat([backbone.encode(part) for part in torch.from_numpy(pixels).split(8)])
    return found


def compare(features: dict[str, Tensor], method: str, even: bool) -> list[float]:
    """Return mean scores of a method.

    Without ``even``, half of the classes have 2 support images and the others 12.
    """
    learner = replace(fewshot.pretrained("efficientnet_lite0", method), channels=1280, image_size=1, values=True)
    rows = []
    for seed in SPLITS:
        random = np.random.default_rng(seed)
        names = [sorted(features)[place] for place in random.permutation(len(features))]
        support, labels, queries, truth = [], [], [], []
        for place, name in enumerate(names[:20]):
            order = random.permutation(len(features[name]))
            shots = 5 if even else 2 if place < 10 else 12
            support.append(features[name][order[:shots]])
            queries.append(features[name][order[12:]])
            labels += [name] * shots
            truth += [name] * len(queries[-1])
        x = torch.cat(support)
        predict = learner.fit(x, labels, unknown=0.05)
        known = predict.scores(torch.cat(queries))
        foreign = predict.scores(torch.cat([features[name] for name in names[20:]]))
        best = known.probabilities.max(1)
        right = np.array([predict.classes[place] for place in best.indices]) == np.array(truth)
        bins = Bins.from_predictions(best.values.numpy(), right)
        numbers = torch.tensor([predict.classes.index(name) for name in labels])
        plain = ClassDistances.fit(x, numbers, 20, whiten=False)
        rows.append(
            [
                right.mean(),
                np.nansum(bins.count * np.abs(bins.confidence - bins.accuracy)) / bins.count.sum(),
                float(known.unknown.double().mean()),
                float(foreign.unknown.double().mean()),
                auroc(known.knownness.numpy(), foreign.knownness.numpy()),
                auroc(
                    -plain(torch.cat(queries)).amin(1).numpy(),
                    -plain(torch.cat([features[name] for name in names[20:]])).amin(1).numpy(),
                ),
                auroc(best.values.numpy(), foreign.probabilities.amax(1).numpy()),
            ]
        )
    return np.mean(rows, 0).tolist()


if __name__ == "__main__":
    found = read_features(Path(sys.argv[1]))
    with Path(__file__).with_suffix(".csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for even in (True, False):
            for method in METHODS:
                scores = compare(found, method, even)
                writer.writerow(["5 each" if even else "2 or 12", method, *(f"{value:.4f}" for value in scores)])
                stream.flush()
