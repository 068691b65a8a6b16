"""The score of every test episode."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassCalibrationError

from fewshot.metrics import interval


class Scores(pl.Callback):
    """Collects accuracy, loss, calibration and fingerprint of each test episode, in their order."""

    def __init__(self) -> None:
        self._parts: list[dict[str, Tensor]] = []

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._parts.clear()

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        episodes = outputs["episodes"]
        self._parts.append(
            {
                "accuracy": outputs["accuracy"].cpu(),
                "loss": outputs["loss"].cpu(),
                "fingerprint": episodes.fingerprint.cpu(),
                "probabilities": outputs["logits"].softmax(-1).float().cpu().flatten(0, 1),
                "labels": episodes.query_y.cpu().flatten(),
            }
        )

    def _joined(self, name: str) -> Tensor:
        return torch.cat([part[name] for part in self._parts])

    def rows(self) -> list[tuple[int, float, str]]:
        """``(episode, accuracy, fingerprint)``, the fingerprint as 16 hexadecimal digits."""
        names = (f"{number & (1 << 64) - 1:016x}" for number in self._joined("fingerprint").tolist())
        return list(zip(range(len(self)), self._joined("accuracy").double().tolist(), names, strict=True))

    def __len__(self) -> int:
        return sum(len(part["accuracy"]) for part in self._parts)

    def summary(self) -> dict[str, float]:
        """The ``test`` entry of ``result.json``; ``ece`` is over 15 bins of all query images (Guo et al. 2017)."""
        probabilities, labels = self._joined("probabilities"), self._joined("labels")
        calibration = MulticlassCalibrationError(num_classes=probabilities.shape[-1], n_bins=15)
        mean, half = interval(self._joined("accuracy").numpy().astype(np.float64))
        return {
            "accuracy": mean,
            "ci95": half,
            "episodes": len(self),
            "loss": float(self._joined("loss").mean()),
            "ece": float(calibration(probabilities, labels)),
        }
