"""Log to TensorBoard."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from fewshot.errors import UserError
from fewshot.loggers.hparams import sortable
from fewshot.result import Result


class TensorBoard(TensorBoardLogger):
    """Extend Lightning's logger by images and test scores.

    The HPARAMS tab shows the test scores beside the settings.
    """

    def __init__(self, save_dir: str, **options: Any) -> None:
        try:
            super().__init__(save_dir, default_hp_metric=False, **options)
        except ModuleNotFoundError as error:
            raise UserError("logger=tensorboard: pip install tensorboard") from error

    @rank_zero_only
    def continue_from(self, step: int) -> None:
        self._kwargs["purge_step"] = step

    @rank_zero_only
    def log_image(self, key: str, images: Sequence[str], step: int) -> None:
        """Show PNG files beside their step's metrics.

        Lightning counts the steps of metrics from 0.
        """
        for image in images:
            with Image.open(image) as picture:
                self.experiment.add_image(key, np.asarray(picture.convert("RGB")), max(step - 1, 0), dataformats="HWC")

    @rank_zero_only
    def conclude(self, scores: dict[str, float], result: Result) -> None:
        """Log the test scores beside the settings."""
        settings = sortable(dict(self.hparams)) | {"bn": result.bn}
        self.log_hyperparams(settings, scores, result.train.steps)
