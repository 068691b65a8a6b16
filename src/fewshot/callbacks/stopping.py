"""Stop a run by budget or signal."""

import logging
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl

from fewshot import distributed

log = logging.getLogger(__name__)


class Stopped(Exception):
    """Report that a signal stopped the run.

    The checkpoint is written before the exception.
    """

    def __init__(self, number: int, checkpoint: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; checkpoint: {checkpoint}")
        self.status = 128 + number


class Stopping(pl.Callback):
    """Stop a run after its current step.

    On Ctrl-C or SIGTERM finish the step, write ``checkpoint`` and raise ``Stopped``. A second signal stops at once. A
    validation is finished too, since the resumed run must have its result; the checkpoint of the validation serves
    then. Several ranks stop at the same step: they agree whenever they log.

    The callback also asks for a validation at the last step, so that the weights a run ends with are candidates
    for its best checkpoint, whatever the interval.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self._received: int | None = None
        self._since = 0.0
        self._before: dict[int, Any] = {}
        self._validated = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            if time.monotonic() - self._since > 1:  # a terminal, and who started this process, may both send the first
                raise KeyboardInterrupt
            return
        self._received = number
        self._since = time.monotonic()
        if distributed.rank() == 0:
            name = signal.Signals(number).name
            log.warning("%s: finishing this step, then a checkpoint; again to stop at once", name)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step >= trainer.max_steps > 0:
            trainer.should_stop = True
        every = trainer.val_check_batch
        validates = trainer.should_stop or bool(every and step % every == 0)
        if not validates and (not distributed.is_distributed() or step % trainer.log_every_n_steps == 0):  # type: ignore[attr-defined]
            self._leave(trainer, save=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated = True  # its checkpoint is written after this, by a callback that comes last

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._validated:
            self._validated = False
            self._leave(trainer, save=False)

    def _leave(self, trainer: pl.Trainer, save: bool) -> None:
        if distributed.any_rank(self._received is not None, trainer.strategy.root_device):
            if save:
                trainer.save_checkpoint(self.checkpoint)
            raise Stopped(self._received or signal.SIGTERM, self.checkpoint)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
