"""Measure a classifier after each inner step."""

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

from fewshot.figures.inner_steps import Curve, draw_inner_steps
from fewshot.methods import Method
from fewshot.methods.base import task_scores
from fewshot.methods.inner_trajectory import adapting_method, logits_by_step


class InnerSteps(pl.Callback):
    """Write ``inner_steps.csv`` and draw ``inner_steps.png``.

    As figure 3 of Finn et al. 2017, for classification. Methods without an inner loop leave neither file.

    Args:
        folder: of the two files.
        episodes: number of test episodes, from the first on.
        steps: every number of inner steps up to this one; where a test takes more, ten numbers between them too.
    """

    def __init__(self, folder: str | Path, episodes: int = 100, steps: int = 10) -> None:
        self.folder = Path(folder)
        self.episodes = episodes
        self.steps = steps

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Method)
        host = adapting_method(pl_module)
        if host is None or not trainer.is_global_zero:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        sampler = data.sampler("test")
        steps = self._numbers(host.test_steps)
        parts = []
        with trainer.precision_plugin.test_step_context():
            for numbers in torch.arange(min(self.episodes, data.task.test_episodes)).split(data.eval_batch):
                episodes = sampler(numbers)
                logits = logits_by_step(pl_module, episodes, steps)  # (B, S, N*Q, N)
                each = [task_scores(logits[:, place], episodes.query_y) for place in range(len(steps))]
                parts.append(torch.stack([torch.stack([of["accuracy"], of["loss"]]) for of in each]).cpu())
        accuracy, loss = torch.cat(parts, dim=2).double().numpy().transpose(1, 0, 2)
        curve = Curve.from_tasks(steps, accuracy, loss)
        curve.write(self.folder / "inner_steps.csv")
        draw_inner_steps(curve, self.folder / "inner_steps.png", host.test_steps)

    def _numbers(self, test_steps: int) -> list[int]:
        """Return the increasing numbers of inner steps.

        ``test_steps`` is among the numbers.
        """
        further = np.linspace(self.steps, max(self.steps, test_steps), 11).round().astype(int).tolist()
        return sorted({*range(self.steps + 1), *further})
