"""What a person sees while a run goes on."""

import logging
import sys

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

log = logging.getLogger(__name__)
_SHORT = {"train/loss": "loss", "val/accuracy": "val_acc", "episodes_per_second": "episodes/s"}


class Progress(RichProgressBar):
    """Lightning's rich bar; one line a validation instead where the output is not a terminal."""

    def __init__(self) -> None:
        super().__init__(leave=True)
        self.interactive = sys.stderr.isatty() and sys.stdout.isatty()
        if not self.interactive:
            self.disable()

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict:
        metrics = super().get_metrics(trainer, pl_module)
        return {short: metrics[name] for name, short in _SHORT.items() if name in metrics}

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"  # there are steps, no epochs

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        seen = trainer.callback_metrics
        if trainer.state.fn == "fit" and not self.interactive:
            rate = seen.get("episodes_per_second")
            log.info(
                "step %d: validation accuracy %.2f%%, loss %.4f%s",
                trainer.global_step,
                100 * seen["val/accuracy"],
                seen["val/loss"],
                "" if rate is None else f", {rate:{'.0f' if rate >= 10 else '.2g'}} training episodes/s",
            )
