"""Count training episodes and seconds."""

import time
from typing import Any

import pytorch_lightning as pl

from fewshot.result import Training


class Throughput(pl.Callback):
    """Count training episodes and seconds, without validation.

    Logged beside the losses: ``episodes`` and ``seconds`` since the start, ``episodes_per_second`` since
    the last log. The counts go on in a resumed run.
    """

    def __init__(self) -> None:
        self.episodes = 0
        self.seconds = 0.0
        self._since: float | None = None
        self._mark = (0, 0.0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since = time.perf_counter()
        self._mark = (self.episodes, self.seconds)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.episodes += trainer.datamodule.task.meta_batch  # type: ignore[attr-defined]
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._pause()
            self._since = time.perf_counter()
            episodes, seconds = self._mark
            rate = (self.episodes - episodes) / max(self.seconds - seconds, 1e-9)
            self._mark = (self.episodes, self.seconds)
            pl_module.log("episodes", float(self.episodes))
            pl_module.log("seconds", self.seconds)
            pl_module.log("episodes_per_second", rate, prog_bar=True)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._pause()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._since = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._pause()

    def _pause(self) -> None:
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
            self._since = None

    def summary(self, steps: int) -> Training:
        """Return the ``train`` entry of ``result.json``."""
        rate = self.episodes / self.seconds if self.seconds else 0.0
        return Training(steps, self.episodes, self.seconds, rate)

    def state_dict(self) -> dict[str, Any]:
        return {"episodes": self.episodes, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.episodes = state_dict["episodes"]
        self.seconds = state_dict["seconds"]
