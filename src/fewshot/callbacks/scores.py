"""Keep the scores of all test episodes."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from fewshot import distributed
from fewshot.calibration import COUNT, Bins
from fewshot.methods.knownness import OpenSetProtocol
from fewshot.open_set import SCORES, OpenSetScores, auroc, fpr95
from fewshot.result import MeanScores
from fewshot.statistics import interval


class Scores(pl.Callback):
    """Collect the scores of each test episode.

    The scores are accuracy, loss, probabilities and fingerprint, and of open-set tasks the knownness of their images.
    """

    def __init__(self) -> None:
        self._parts: list[dict[str, Tensor]] = []
        self._all: dict[str, Tensor] = {}
        self._score = ""

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
                "probabilities": outputs["logits"].softmax(-1).float().cpu(),
                "labels": episodes.query_y.cpu(),
            }
            | ({"knownness": outputs["knownness"].double().cpu()} if "knownness" in outputs else {})
        )

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather the episodes of all ranks, in order.

        Rank r of W scored the episodes r, r + W, r + 2W, ...
        """
        mine = {name: torch.cat([part[name] for part in self._parts]) for name in self._parts[0]}
        everyone = distributed.gather([mine])
        count = sum(len(part["accuracy"]) for part in everyone)
        self._all = {name: values.new_empty(count, *values.shape[1:]) for name, values in mine.items()}
        for rank, part in enumerate(everyone):
            for name, values in part.items():
                self._all[name][rank :: len(everyone)] = values
        if (tasks := self.knownness()) is not None:
            assert isinstance(pl_module, OpenSetProtocol)
            self._score = pl_module.knownness_score
            pairs = list(zip(*tasks, strict=True))
            for name, score in zip(SCORES, (auroc, fpr95), strict=True):
                self._all[name] = torch.tensor([score(known, unknown) for known, unknown in pairs], dtype=torch.float64)

    def rows(self) -> list[tuple[int, float, str]]:
        """Return ``(episode, accuracy, fingerprint)`` of each episode.

        The fingerprint has 16 hexadecimal digits.
        """
        columns = self.columns()
        return list(zip(*(columns[name] for name in ("episode", "accuracy", "fingerprint")), strict=True))

    def columns(self) -> dict[str, list[Any]]:
        """Return the columns of ``episodes.csv``."""
        scores = {name: self._all[name].double().tolist() for name in ("accuracy", *SCORES) if name in self._all}
        names = [f"{number & (1 << 64) - 1:016x}" for number in self._all["fingerprint"].tolist()]
        episodes = list(range(len(self)))
        return {"episode": episodes, "accuracy": scores.pop("accuracy"), "fingerprint": names} | scores

    def knownness(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Return the knownness of query images and of unknown images.

        The arrays are ``(episodes, N*Q)`` and ``(episodes, U*Q)``; None without unknown images.
        """
        if "knownness" not in self._all:
            return None
        known, unknown = self._all["knownness"].tensor_split([self._all["labels"].shape[1]], dim=1)
        return known.numpy(), unknown.numpy()

    def predictions(self) -> tuple[Tensor, Tensor]:
        """Return true and predicted query labels.

        The labels are ``(episodes, N*Q)``.
        """
        return self._all["labels"], self._all["probabilities"].argmax(-1)

    def calibration(self) -> Bins:
        """Return the accuracy by confidence.

        Confidence is the highest probability. All query images count.
        """
        confidence, predicted = self._all["probabilities"].flatten(0, 1).max(-1)
        return Bins.from_predictions(confidence.numpy(), (predicted == self._all["labels"].flatten()).numpy())

    def __len__(self) -> int:
        return len(self._all["accuracy"])

    def summary(self) -> MeanScores:
        """Return the ``test`` entry of ``result.json``."""
        mean, half_width = interval(self._all["accuracy"].numpy().astype(np.float64))
        probabilities = self._all["probabilities"].flatten(0, 1)
        labels = self._all["labels"].flatten()
        ece = multiclass_calibration_error(probabilities, labels, probabilities.shape[1], n_bins=COUNT, norm="l1")
        return MeanScores(
            mean, half_width, len(self), float(self._all["loss"].mean()), float(ece), self.open_set_summary()
        )

    def open_set_summary(self) -> OpenSetScores | None:
        """Return the entry ``test.open_set``; None without unknown images."""
        if "knownness" not in self._all:
            return None
        (area, area_ci), (alarms, alarms_ci) = (interval(self._all[name].numpy()) for name in SCORES)
        return OpenSetScores(self._score, area, area_ci, alarms, alarms_ci)
