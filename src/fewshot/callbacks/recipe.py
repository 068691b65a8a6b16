"""The settings of a run travel in its checkpoints."""

from typing import Any

import pytorch_lightning as pl


class Recipe(pl.Callback):
    """Write ``text``, the settings as YAML, into every checkpoint under the key ``recipe``."""

    def __init__(self, text: str) -> None:
        self.text = text

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["recipe"] = self.text
