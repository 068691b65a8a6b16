"""Pictures of a run: a sheet of test episodes, what the method itself has to show, learning curves."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from fewshot.methods import Method
from fewshot.report.plot import learning_curves
from fewshot.report.sheet import image_rows, task_sheet


class Figures(pl.Callback):
    """Draws into ``folder`` and sends the same pictures to a logger that takes images.

    Args:
        folder: for the PNG files.
        episodes: how many test episodes are drawn.
    """

    def __init__(self, folder: str | Path, episodes: int = 4) -> None:
        self.folder, self.episodes = Path(folder), episodes

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, Method)
        episodes = outputs["episodes"][: self.episodes]
        data = trainer.datamodule  # type: ignore[attr-defined]
        task_sheet(
            _shown(episodes.support_x * data.std + data.mean),
            episodes.support_y.cpu().numpy(),
            _shown(episodes.query_x * data.std + data.mean),
            episodes.query_y.cpu().numpy(),
            outputs["logits"][: self.episodes].argmax(-1).cpu().numpy(),
            self.folder / "test_episodes.png",
        )
        rows = [pl_module.pictures(episodes[task]) for task in range(len(episodes))]
        if any(rows):
            image_rows([{name: _shown(x) for name, x in row.items()} for row in rows], self.folder / "generated.png")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        metrics = self.folder.parent / "metrics.csv"
        if metrics.exists():
            learning_curves(metrics, self.folder / "learning_curves.png")
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                for file in sorted(self.folder.glob("*.png")):
                    logger.log_image(f"figures/{file.stem}", [str(file)])


def _shown(x: Tensor) -> Any:
    """``(..., C, H, W)`` to ``(..., H, W[, C])`` numpy in [0, 1]."""
    x = x.detach().float().cpu().clamp(0, 1)
    return (x.squeeze(-3) if x.shape[-3] == 1 else torch.movedim(x, -3, -1)).numpy()
