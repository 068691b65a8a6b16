"""Show the progress of a run."""

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

from fewshot.schedule import time_left

log = logging.getLogger(__name__)
_SHORT = {"train/loss": "loss", "val/accuracy": "val_acc", "episodes_per_second": "episodes/s"}
LONGEST_SILENCE = 60.0  # seconds


class Progress(RichProgressBar):
    """Show progress by a bar or lines.

    A terminal shows a bar. Elsewhere a line is logged each minute and at each validation.

    Args:
        clock: the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(leave=True)
        self.clock = clock
        self.interactive = sys.stderr.isatty() and sys.stdout.isatty()
        if not self.interactive:
            self.disable()
        self._last_line = clock()
        # Step and time at the start of training, and where the rate is counted from.
        self._start = (0, self._last_line)
        self._mark = self._start
        self._rate: float | None = None

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        return {short: metrics[name] for name, short in _SHORT.items() if name in metrics}

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"  # there are steps, no epochs

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._start = (trainer.global_step, self.clock())
        self._mark = self._start

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._silent_for_long():
            self._measure_rate(trainer)
            loss = trainer.callback_metrics.get("train/loss")
            self._log_step(trainer, [] if loss is None else [f"training loss {loss:.4f}"])

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_start(trainer, pl_module)
        if trainer.state.fn == "fit":
            self._measure_rate(trainer)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        self._log_scored("validation", batch_idx, trainer.num_val_batches)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit":
            self._mark = (trainer.global_step, self.clock())
            metrics = trainer.callback_metrics
            accuracy = 100 * metrics["val/accuracy"]
            self._log_step(trainer, [f"validation accuracy {accuracy:.2f}%", f"loss {metrics['val/loss']:.4f}"])

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        self._log_scored("test", batch_idx, trainer.num_test_batches)

    def _silent_for_long(self) -> bool:
        return not self.interactive and self.clock() - self._last_line >= LONGEST_SILENCE

    def _measure_rate(self, trainer: pl.Trainer) -> None:
        """Measure the training episodes per second.

        The measurement begins at the last line or validation.
        """
        now = (trainer.global_step, self.clock())
        steps = now[0] - self._mark[0]
        seconds = now[1] - self._mark[1]
        if steps and seconds > 0:
            self._rate = steps * trainer.datamodule.task.meta_batch / seconds  # type: ignore[attr-defined]
        self._mark = now

    def _log_step(self, trainer: pl.Trainer, parts: list[str]) -> None:
        """Log the step, rate and time left.

        ``parts`` come after the step.
        """
        if self.interactive or not trainer.is_global_zero:
            return
        step = trainer.global_step
        if self._rate is not None:
            parts.append(f"{self._rate:{'.0f' if self._rate >= 10 else '.2g'}} training episodes/s")
        steps = step - self._start[0]
        seconds_per_step = (self.clock() - self._start[1]) / steps if steps else None
        left = time_left(trainer, seconds_per_step)
        if left is not None and left > 0:
            parts.append(f"{duration(left)} left")
        budget = f" of {trainer.max_steps}" if trainer.max_steps > 0 else ""
        log.info("step %d%s: %s", step, budget, ", ".join(parts))
        self._last_line = self.clock()

    def _log_scored(self, name: str, batch: int, batches: list[int | float]) -> None:
        """Log the progress of validation or test.

        A line is logged only after a long silence.
        """
        if self._silent_for_long():
            log.info("%s: %.0f%% of the episodes are scored", name, 100 * (batch + 1) / sum(batches))
            self._last_line = self.clock()


def duration(seconds: float) -> str:
    """Return a time in words.

    Examples are ``40 s``, ``12 min`` and ``2 h 05 min``.
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
