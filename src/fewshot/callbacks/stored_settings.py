"""Keep the settings of a run in its checkpoints."""

from typing import Any

import pytorch_lightning as pl

from fewshot.old_checkpoints import FORMAT


class StoredSettings(pl.Callback):
    """Write the settings, as YAML, into every checkpoint, with the number of its format.

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
