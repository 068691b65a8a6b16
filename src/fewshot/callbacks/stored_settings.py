"""Keep a run's settings in its checkpoints."""

from typing import Any

import pytorch_lightning as pl

from fewshot.old_checkpoints import FORMAT


class StoredSettings(pl.Callback):
    """Write the settings into every checkpoint.

    The settings are YAML text. The number of the format is written too.

    Args:
        text: the settings before interpolations were resolved.

    Attributes:
        training: training has begun, so that what a checkpoint holds was restored.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.training = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.training = True

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["format"] = FORMAT
        checkpoint["settings"] = self.text
