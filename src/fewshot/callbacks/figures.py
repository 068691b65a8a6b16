"""Draw the figures of a run.

The figures show test episodes, generated images and learning curves.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from fewshot.episode import Episode
from fewshot.figures.image_grid import image_rows, task_sheet
from fewshot.figures.learning_curves import learning_curves
from fewshot.methods import Method


class Figures(pl.Callback):
    """Draw figures and send copies to loggers.

    The files lie in ``folder``. Only loggers that take images get copies. The pictures of a method
    (``Method.pictures``) are drawn at every validation, for the same first validation tasks, and for the first task as
    one strip over time. Only data of 1 or 3 channels and more than one pixel are images.

    Args:
        folder: of the PNG files.
        episodes: number of test episodes that are drawn.
        watched: number of validation tasks that are drawn at each validation.
        moments: largest number of validations, evenly spaced, in the strip over time.
    """

    def __init__(self, folder: str | Path, episodes: int = 4, watched: int = 2, moments: int = 12) -> None:
        self.folder = Path(folder)
        self.episodes = episodes
        self.watched = watched
        self.moments = moments
        self._by_step: dict[int, dict[str, Any]] = {}  # pictures of the first watched task, by step

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx or trainer.state.fn != "fit" or trainer.sanity_checking or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, Method)
        if rows := _pictures(pl_module, batch[: self.watched]):
            step = trainer.global_step
            self._by_step[step] = rows[0]
            file = self.folder / f"generated_step{step:06d}.png"
            image_rows(rows, file)
            _send(trainer, "generated_over_steps", file)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if len(self._by_step) < 2 or not trainer.is_global_zero:  # a resumed run has read them in each process
            return
        steps = sorted(self._by_step)
        places = np.linspace(0, len(steps) - 1, min(len(steps), self.moments)).round().astype(int)
        shown = [steps[place] for place in places]
        first, *_, last = self._by_step[shown[0]]  # names of rows: "real" and "generated"
        strip = {first: self._by_step[shown[0]][first]} | {f"step {step}": self._by_step[step][last] for step in shown}
        image_rows(strip, self.folder / "generated_over_time.png")

    def state_dict(self) -> dict[str, Any]:
        return {
            "seen": {
                step: {name: torch.from_numpy(x) for name, x in row.items()} for step, row in self._by_step.items()
            }
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._by_step = {step: {name: x.numpy() for name, x in row.items()} for step, row in state_dict["seen"].items()}

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, Method)
        episodes = outputs["episodes"][: self.episodes]
        if not _are_images(episodes):
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        support, query = _in_unit_range(
            episodes.support_x * data.std + data.mean, episodes.query_x * data.std + data.mean
        )
        task_sheet(
            _shown(support),
            episodes.support_y.cpu().numpy(),
            _shown(query),
            episodes.query_y.cpu().numpy(),
            outputs["logits"][: self.episodes].softmax(-1).float().cpu().numpy(),
            self.folder / "test_episodes.png",
            range(0, len(episodes) * trainer.world_size, trainer.world_size),  # the first process has each so-many-th
        )
        if rows := _pictures(pl_module, episodes):
            image_rows(rows, self.folder / "generated.png")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        metrics = self.folder.parent / "metrics.csv"
        if metrics.exists():
            learning_curves(metrics, self.folder / "learning_curves.png")
        for file in sorted(self.folder.glob("*.png")):
            if not file.stem.startswith("generated_step"):  # these went as they came
                _send(trainer, file.stem, file)


def _send(trainer: pl.Trainer, name: str, file: Path) -> None:
    for logger in trainer.loggers:
        if hasattr(logger, "log_image"):
            logger.log_image(f"figures/{name}", [str(file)], step=trainer.global_step)


def _pictures(method: Method, episodes: Episode) -> list[dict[str, Any]]:
    """Return the method's pictures of each task.

    For most methods the list is empty.
    """
    if not _are_images(episodes):
        return []
    rows = [method.pictures(episodes[task]) for task in range(len(episodes))]
    return [{name: _shown(x) for name, x in row.items()} for row in rows] if any(rows) else []


def _are_images(episodes: Episode) -> bool:
    return episodes.support_x.shape[-3] in (1, 3) and episodes.support_x.shape[-1] > 1


def _in_unit_range(*images: Tensor) -> list[Tensor]:
    """Scale images to [0, 1] together.

    Pixels are there already; other values are drawn from black, the least, to white, the largest.
    """
    low = min(float(x.min()) for x in images)
    high = max(float(x.max()) for x in images)
    if low >= -0.01 and high <= 1.01:  # rounding of a normalisation
        return list(images)
    return [(x - low) / max(high - low, 1e-12) for x in images]


def _shown(x: Tensor) -> Any:
    """Convert image tensors for drawing.

    ``(..., C, H, W)`` becomes a numpy array ``(..., H, W[, C])`` in [0, 1].
    """
    x = x.detach().float().cpu().clamp(0, 1)
    return (x.squeeze(-3) if x.shape[-3] == 1 else torch.movedim(x, -3, -1)).numpy()
