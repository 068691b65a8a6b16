"""Extend Lightning's loggers by resumed runs and figures."""

from collections.abc import Iterable
from dataclasses import asdict

from pytorch_lightning.loggers import Logger

from fewshot.loggers.metrics_csv import CSV
from fewshot.loggers.tensor_board import TensorBoard
from fewshot.loggers.weights_and_biases import Wandb
from fewshot.result import Result

__all__ = ["CSV", "TensorBoard", "Wandb", "conclude", "continue_from"]

wandb_logger = Wandb  # as the recipes of older checkpoints call it


def continue_from(loggers: Iterable[Logger], step: int) -> None:
    """Continue the logs of a resumed run.

    Call this before anything is logged. The checkpoint was written after ``step`` steps.
    """
    for logger in loggers:
        if isinstance(logger, CSV | TensorBoard | Wandb):
            logger.continue_from(step)


def conclude(loggers: Iterable[Logger], result: Result) -> None:
    """Log the test scores of ``result`` and end."""
    test = asdict(result.test)
    open_set = test.pop("open_set") or {}
    scores = {f"test/{name}": value for name, value in (test | open_set).items() if name != "knownness"}
    for logger in loggers:
        if isinstance(logger, TensorBoard | Wandb):
            logger.conclude(scores, result)
        else:
            logger.log_metrics(scores, step=result.train.steps)
        logger.finalize("success")
