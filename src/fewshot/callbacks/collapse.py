"""Warn when MetaGAN's adversarial training fails.

The generator or the classifier then no longer learns from the other.
"""

import logging
from typing import Any

import pytorch_lightning as pl

log = logging.getLogger(__name__)

REAL = "train/real_accuracy"
FAKE = "train/fake_accuracy"
DIVERSITY = "train/fake_diversity"


class Collapse(pl.Callback):
    """Warn of failed adversarial training.

    A generator may collapse, and a classifier may recognise every fake. Each warning comes once. The callback reads
    the metrics of fakes that MetaGAN logs; other methods log none. A new generator makes nearly one image: one that
    came to a diversity of 0.6 had less than 0.02 for its first 90 steps on Omniglot, where one that collapsed stayed
    near 0.007.
    """

    young = 200  # steps in which the diversity says nothing
    least_diversity = 0.02
    diversity_logs = 5
    most_accuracy = 0.995
    accuracy_logs = 10

    def __init__(self) -> None:
        self._in_a_row = {"alike": 0, "lost": 0}
        self._warned: set[str] = set()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step % trainer.log_every_n_steps or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        metrics = trainer.callback_metrics
        if not {REAL, FAKE, DIVERSITY} <= metrics.keys():
            return
        real, fake, diversity = (float(metrics[name]) for name in (REAL, FAKE, DIVERSITY))
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
        """Return whether ``case`` has lasted long enough.

        The case must be true in ``logs`` logs in a row. The result is True only once.
        """
        self._in_a_row[case] = self._in_a_row[case] + 1 if holds else 0
        if self._in_a_row[case] < logs or case in self._warned:
            return False
        self._warned.add(case)
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"in_a_row": self._in_a_row, "told": sorted(self._warned)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._in_a_row = state_dict["in_a_row"]
        self._warned = set(state_dict["told"])
