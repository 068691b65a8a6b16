"""Send W&B more than metrics."""

from typing import Any

import pytorch_lightning as pl

from fewshot.callbacks.scores import Scores
from fewshot.loggers import Wandb


class Dashboard(pl.Callback):
    """Send steps, test episodes and failures to W&B.

    The test episodes are a table.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._set_step(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._set_step(trainer)

    def _set_step(self, trainer: pl.Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, Wandb):
                logger.steps = trainer.global_step
                logger.episodes = logger.steps * trainer.datamodule.task.meta_batch  # type: ignore[attr-defined]

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, Wandb):
                logger.steps = trainer.global_step + 1  # the row of the last step is complete

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        for scores in (callback for callback in trainer.callbacks if isinstance(callback, Scores)):  # type: ignore[attr-defined]
            columns = scores.columns()
            rows = [list(row) for row in zip(*columns.values(), strict=True)]
            for logger in trainer.loggers:
                if isinstance(logger, Wandb):
                    logger.log_table("test/per_episode", columns=list(columns), data=rows)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, Wandb):
                logger.finish(getattr(exception, "status", 1))
