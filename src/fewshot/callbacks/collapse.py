"""A word of warning when the game of MetaGAN is lost for one of its players."""

import logging
from typing import Any

import pytorch_lightning as pl

log = logging.getLogger(__name__)

REAL, FAKE, DIVERSITY = "train/real_accuracy", "train/fake_accuracy", "train/fake_diversity"


class Collapse(pl.Callback):
    """Warns once when the generator makes one image for all noise, and once when no fake deceives D any more.

    Reads what MetaGAN logs of its fakes; methods that log no such thing are left alone. A new generator makes
    nearly one image: one that came to a diversity of 0.6 had less than 0.02 for its first 90 steps on Omniglot,
    where one that collapsed stayed near 0.007.
    """

    young = 200  # steps in which the diversity says nothing
    least_diversity, diversity_logs = 0.02, 5
    most_accuracy, accuracy_logs = 0.995, 10

    def __init__(self) -> None:
        self._in_a_row = {"alike": 0, "lost": 0}
        self._told: set[str] = set()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step % trainer.log_every_n_steps or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        seen = trainer.callback_metrics
        if not {REAL, FAKE, DIVERSITY} <= seen.keys():
            return
        real, fake, diversity = (float(seen[name]) for name in (REAL, FAKE, DIVERSITY))
        if self._lasts("alike", step > self.young and diversity < self.least_diversity, self.diversity_logs):
            log.warning(
                "step %d: the generator makes nearly one image for all noise (the spread of a task's images is %.1f%% "
                "of that of its real ones): try method.generator_loss=feature_matching or another method.optimizer.lr",
                *(step, 100 * diversity),
            )
        if self._lasts("lost", min(real, fake) > self.most_accuracy, self.accuracy_logs):
            log.warning(
                "step %d: the classifier tells all generated images from real ones, so they teach it nothing any more: "
                "try a higher method.optimizer.lr, or a lower method.inner_fake and method.outer_fake",
                step,
            )

    def _lasts(self, case: str, holds: bool, logs: int) -> bool:
        """Whether ``case`` has held for so many logs in a row; True once."""
        self._in_a_row[case] = self._in_a_row[case] + 1 if holds else 0
        if self._in_a_row[case] < logs or case in self._told:
            return False
        self._told.add(case)
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"in_a_row": self._in_a_row, "told": sorted(self._told)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._in_a_row, self._told = state_dict["in_a_row"], set(state_dict["told"])
