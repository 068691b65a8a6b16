"""Draw decision boundaries of classifiers of points.

The classifier has adapted to a task.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.figures.decision_boundary import draw_decision_boundaries
from fewshot.files import write_bytes
from fewshot.methods import MetaGAN, Method


class DecisionBoundary(pl.Callback):
    """Save and draw predictions over the plane.

    The predictions belong to the first test tasks. Data must have two numbers an example, such as ``Gaussians``.
    ``fewshot.figures.decision_boundary`` describes the file ``boundary.npz``; the figure is ``boundary.png``.

    Args:
        folder: of the two files.
        tasks: number of tasks.
        resolution: points along one side of the grid.
    """

    def __init__(self, folder: str | Path, tasks: int = 2, resolution: int = 150) -> None:
        self.folder = Path(folder)
        self.tasks = tasks
        self.resolution = resolution

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.datamodule.splits["test"].images.shape[1:] != (2, 1, 1):  # type: ignore[attr-defined]
            raise UserError("callbacks: a decision boundary is drawn of points of the plane only: data=gaussians")

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
        episodes = outputs["episodes"][: self.tasks]
        data = trainer.datamodule  # type: ignore[attr-defined]
        per_task = [
            self._predict_plane(pl_module, episodes[task], data.mean, data.std) for task in range(len(episodes))
        ]
        arrays = {name: np.stack([task[name].float().cpu().numpy() for task in per_task]) for name in per_task[0]}
        for name in ("support_y", "query_y"):
            arrays[name] = arrays[name].astype(np.int64)
        arrays["accuracy"] = outputs["accuracy"][: self.tasks].cpu().numpy()
        stream = io.BytesIO()
        np.savez_compressed(stream, axis=self._axis().numpy(), **arrays)  # type: ignore[arg-type]
        write_bytes(self.folder / "boundary.npz", stream.getvalue())
        draw_decision_boundaries({type(pl_module).__name__: self.folder / "boundary.npz"}, self.folder / "boundary.png")

    def _axis(self) -> Tensor:
        """Return evenly spaced points in [0, 1].

        The points are the middles of ``resolution`` equal parts.
        """
        return (torch.arange(self.resolution) + 0.5) / self.resolution

    def _predict_plane(self, method: Method, episode: Episode, mean: float, std: float) -> dict[str, Tensor]:
        y, x = torch.meshgrid(self._axis(), self._axis(), indexing="ij")
        points = torch.stack([x, y], dim=-1).view(-1, 2, 1, 1).to(episode.support_x)
        prediction = method.predictor(episode)((points - mean) / std)
        square = (self.resolution, self.resolution)
        arrays = {
            "probabilities": prediction.logits.softmax(-1).view(*square, -1),
            "support_x": (episode.support_x * std + mean).flatten(1),
            "query_x": (episode.query_x * std + mean).flatten(1),
            "support_y": episode.support_y,
            "query_y": episode.query_y,
        }
        if isinstance(method, MetaGAN):
            arrays["real"] = method.real_log_odds(prediction).sigmoid().view(square)
        generated = method.pictures(episode).get("generated")
        return arrays if generated is None else arrays | {"generated": generated.flatten(1)}
