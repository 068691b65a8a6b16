"""Warnings about a game that is lost, from metrics fed to the callback and from a run."""

import logging
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl

from fewshot.callbacks import Collapse
from fewshot.data import EpisodeData, Task
from fewshot.engines import VmapEngine
from methods_table import build
from synthetic_data import synthetic_split

HEALTHY = {"train/real_accuracy": 0.8, "train/fake_accuracy": 0.9, "train/fake_diversity": 0.3}
ALIKE, LOST = (
    HEALTHY | {"train/fake_diversity": 0.01},
    HEALTHY | {"train/real_accuracy": 1.0, "train/fake_accuracy": 1.0},
)


class MadeUp:
    def load(self):
        return {"train": synthetic_split()}


def told(caplog, *logs: dict[str, float], first: int = 1000) -> list[str]:
    """The warnings of a run that logs these metrics every 10 steps, from step ``first`` on."""
    callback, caplog.records[:] = Collapse(), []
    for step in range(first, first + 10 * len(logs)):
        trainer = SimpleNamespace(global_step=step, log_every_n_steps=10, is_global_zero=True)
        trainer.callback_metrics = logs[(step - first) // 10]
        callback.on_train_batch_end(trainer, None, None, None, step)
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_one_image_for_all_noise_is_told_once(caplog):
    assert not told(caplog, *[ALIKE] * 4)
    (message,) = told(caplog, *[ALIKE] * 30)
    assert message.startswith("step 1040: the generator makes nearly one image")
    assert "1.0%" in message
    assert "method.generator_loss=feature_matching" in message


def test_a_lost_generator_is_told_once(caplog):
    assert not told(caplog, *[LOST] * 9)
    (message,) = told(caplog, *[LOST] * 30)
    assert message.startswith("step 1090: the classifier tells all generated images from real ones")
    assert "method.optimizer.lr" in message


def test_both_are_told(caplog):
    assert len(told(caplog, *[ALIKE | LOST | {"train/fake_diversity": 0.0}] * 12)) == 2


@pytest.mark.parametrize("bad", [ALIKE, LOST])
def test_logs_must_be_in_a_row(caplog, bad):
    assert not told(caplog, *([bad] * 4 + [HEALTHY]) * 6)


def test_a_healthy_run_is_left_alone(caplog):
    one_sided = HEALTHY | {"train/real_accuracy": 1.0, "train/fake_accuracy": 0.2}
    assert not told(caplog, *[HEALTHY] * 30)
    assert not told(caplog, *[one_sided] * 30)
    assert not told(caplog, *[HEALTHY | {"train/fake_diversity": float("nan")}] * 30)


def test_a_new_generator_has_time_to_spread(caplog):
    assert not told(caplog, *[ALIKE] * 20, *[HEALTHY] * 10, first=10)
    assert len(told(caplog, *[ALIKE] * 30, first=10)) == 1


def test_metrics_are_read_at_log_steps_only_and_only_where_they_are(caplog):
    class Watched:
        global_step, log_every_n_steps, is_global_zero, reads = 0, 10, True, 0

        @property
        def callback_metrics(self):
            self.reads += 1
            return {"train/loss": 1.0}

    watched, callback = Watched(), Collapse()
    for watched.global_step in range(1, 101):
        callback.on_train_batch_end(watched, None, None, None, 0)
    assert watched.reads == 10


@pytest.mark.parametrize(("method", "warned"), [("metagan", True), ("maml", False)])
def test_in_a_run_it_sees_what_the_method_logged(tmp_path, caplog, method, warned):
    callback = Collapse()
    callback.young, callback.least_diversity = 0, 1e9  # any generator counts as collapsed
    data = EpisodeData(MadeUp(), Task(5, 1, 2, 5, 1, 2, 2, val_episodes=0), 0, 12)
    pl.Trainer(
        max_steps=12, log_every_n_steps=2, callbacks=[callback], accelerator="cpu", devices=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0,
        num_sanity_val_steps=0, default_root_dir=tmp_path,
    ).fit(build(method, VmapEngine()), datamodule=data)  # fmt: skip
    messages = [record.getMessage() for record in caplog.records if "nearly one image" in record.getMessage()]
    assert len(messages) == warned
    assert not warned or messages[0].startswith("step 10:")
