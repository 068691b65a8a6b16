"""Lines of a log without a terminal: one a minute and one a validation."""

import logging
import re

import pytest
import pytorch_lightning as pl

from fewshot.callbacks import Progress
from fewshot.callbacks.progress import duration
from fewshot.data import EpisodeData, Task
from fewshot.engines import VmapEngine
from methods_table import build
from synthetic_data import synthetic_split


class MadeUp:
    def load(self):
        return {name: synthetic_split(name=f"made/{name}", seed=len(name)) for name in ("train", "val", "test")}


class SlowMachine(pl.Callback):
    """Let a clock go on by some seconds for each training step and each batch of evaluation."""

    def __init__(self, step: float, batch: float) -> None:
        self.now, self.step, self.batch = 1000.0, step, batch

    def clock(self) -> float:
        return self.now

    def on_train_batch_start(self, *arguments) -> None:
        self.now += self.step

    def on_validation_batch_start(self, *arguments) -> None:
        self.now += self.batch

    def on_test_batch_start(self, *arguments) -> None:
        self.now += self.batch


def lines(caplog, tmp_path, step: float, batch: float = 0.0, interactive: bool = False, **options) -> list[str]:
    """Fit with 4 tasks a step and a validation of 2 batches, test, and return the lines."""
    caplog.set_level(logging.INFO)
    machine = SlowMachine(step, batch)
    progress = Progress(machine.clock)
    progress.interactive = interactive
    settings = {"max_steps": 12, "log_every_n_steps": 2, "val_check_interval": 8} | options
    trainer = pl.Trainer(
        **settings, check_val_every_n_epoch=None, callbacks=[machine, progress], logger=False, accelerator="cpu",
        devices=1, enable_model_summary=False, enable_checkpointing=False, inference_mode=False,
        num_sanity_val_steps=0, default_root_dir=tmp_path,
    )  # fmt: skip
    task = Task(5, 1, 2, 5, 1, 2, 4, val_episodes=4, test_episodes=8)
    data = EpisodeData(MadeUp(), task, 0, 100, eval_batch=2)
    method = build("protonet", VmapEngine())
    trainer.fit(method, datamodule=data)
    trainer.test(method, datamodule=data, verbose=False)
    return [record.getMessage() for record in caplog.records if record.name == "fewshot.callbacks.progress"]


def test_training_says_a_line_at_least_every_minute(caplog, tmp_path):
    said = lines(caplog, tmp_path, step=25.0)
    assert [line.split(":")[0] for line in said] == [f"step {step} of 12" for step in (3, 6, 8, 11)]
    numbers = r"step 6 of 12: training loss \d+\.\d{4}, 0\.16 training episodes/s, 2 min left"
    assert re.fullmatch(numbers, said[1]), said[1]
    validation = r"step 8 of 12: validation accuracy \d+\.\d\d%, loss \d+\.\d{4}, 0\.16 training episodes/s, 2 min left"
    assert re.fullmatch(validation, said[2]), said[2]


def test_a_line_says_no_loss_before_one_is_logged(caplog, tmp_path):
    said = lines(caplog, tmp_path, step=61.0, log_every_n_steps=2)
    assert said[0] == "step 1 of 12: 0.066 training episodes/s, 11 min left"
    assert "training loss" in said[1]


def test_fast_training_says_its_validations_only(caplog, tmp_path):
    said = lines(caplog, tmp_path, step=0.01)
    assert [line.split(",")[0].split(":")[0] for line in said] == ["step 8 of 12"]
    assert "400 training episodes/s" in said[0]


def test_long_validations_and_tests_are_not_silent_either(caplog, tmp_path):
    said = lines(caplog, tmp_path, step=0.0, batch=40.0)
    assert said[0] == "validation: 100% of the episodes are scored"
    assert said[1].startswith("step 8 of 12: validation accuracy")
    assert said[2:] == [f"test: {share}% of the episodes are scored" for share in (50, 100)]


def test_a_run_with_a_budget_of_time_says_the_time_left(caplog, tmp_path):
    said = lines(caplog, tmp_path, step=70.0, max_steps=-1, max_time={"hours": 5}, limit_train_batches=3, max_epochs=1)
    assert said[0].startswith("step 1: ")
    assert said[0].endswith("5 h 00 min left")


def test_a_terminal_has_the_bar_and_no_lines(caplog, tmp_path):
    assert not lines(caplog, tmp_path, step=61.0, interactive=True)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (3600, "60 min"), (5430, "1 h 30 min"), (7500, "2 h 05 min")],
)
def test_durations_in_words(seconds, text):
    assert duration(seconds) == text
