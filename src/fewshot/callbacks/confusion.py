"""Record which test classes are confused."""

from pathlib import Path

import pytorch_lightning as pl
import torch

from fewshot.callbacks.scores import Scores
from fewshot.figures.confused_pairs import ConfusedPairs
from fewshot.figures.confusion_matrix import draw_shares


class Confusion(pl.Callback):
    """Write the confusion matrix of all test classes.

    The file is ``confusion.csv``. The hardest classes are drawn.

    Args:
        folder: of ``confusion.csv`` and ``confusion.png``.
        scores: has the predictions of all processes.
        most: classes that are drawn.
    """

    def __init__(self, folder: str | Path, scores: Scores, most: int = 15) -> None:
        self.folder = Path(folder)
        self.scores = scores
        self.most = most

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        sampler = trainer.datamodule.sampler("test")  # type: ignore[attr-defined]
        classes = sampler.classes(torch.arange(len(self.scores)))
        names = sampler.class_names
        pairs = ConfusedPairs.from_tasks(*(x.cpu().numpy() for x in (classes, *self.scores.predictions())))
        pairs.write(names, self.folder / "confusion.csv")
        worst = pairs.worst(self.most)
        total = int((pairs.true == pairs.predicted).sum())
        which = f"the {len(worst)} hardest" if len(worst) < total else "all"
        title = (
            f"{which} of {total} test classes, {len(self.scores)} tasks\n"
            "share of a class's queries that were called another, in tasks that held both\n"
            "on the diagonal: called right, in all tasks; grey: never in one task"
        )
        draw_shares(pairs.matrix(worst), [names[number] for number in worst], self.folder / "confusion.png", title)
