"""Draw how a run tells unknown images."""

from pathlib import Path

import pytorch_lightning as pl

from fewshot.callbacks.scores import Scores
from fewshot.figures.open_set import draw_open_set


class OpenSet(pl.Callback):
    """Draw ``open_set.png`` where test tasks have unknown images.

    Args:
        folder: of the file.
        scores: has the knownness of all processes.
    """

    def __init__(self, folder: str | Path, scores: Scores) -> None:
        self.folder = Path(folder)
        self.scores = scores

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        tasks = self.scores.knownness()
        summary = self.scores.open_set_summary()
        if trainer.is_global_zero and tasks is not None and summary is not None:
            draw_open_set(*tasks, summary, self.folder / "open_set.png")
