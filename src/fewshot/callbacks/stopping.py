"""How a run stops: with a last validation at the end of its budget, with a checkpoint on a signal."""

import logging
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl

log = logging.getLogger(__name__)


class Stopped(Exception):
    """A signal ended the run after its checkpoint was written."""

    def __init__(self, number: int, checkpoint: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; checkpoint: {checkpoint}")
        self.status = 128 + number


class Stopping(pl.Callback):
    """On Ctrl-C or SIGTERM finish the step, write ``checkpoint`` and raise ``Stopped``; a second signal does not wait.

    Also asks for a validation at the last step, so that the weights a run ends with are candidates
    for its best checkpoint, whatever the interval.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            raise KeyboardInterrupt
        self._received = number
        log.warning("%s: finishing this step, then a checkpoint; again to stop at once", signal.Signals(number).name)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._leave(trainer)
        if trainer.global_step >= trainer.max_steps > 0:
            trainer.should_stop = True

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        self._leave(trainer)

    def _leave(self, trainer: pl.Trainer) -> None:
        if self._received is not None:
            trainer.save_checkpoint(self.checkpoint)
            raise Stopped(self._received, self.checkpoint)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
