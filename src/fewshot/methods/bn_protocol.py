"""Choose the statistics that normalise query images.

Running averages are kept over tasks. A forward pass cannot keep running averages under ``vmap``: the statistics of a
pass become terms of the task, and the averages are updated once a meta-batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fewshot import distributed
from fewshot.engines import Engine
from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods.predictor import Predictor
from fewshot.networks import Prediction, find_pretrained
from fewshot.networks.norm_layers import Statistics, batch_norms, normalising, recording
from fewshot.networks.refused_layers import refuse_layers

BN_PROTOCOLS = ("transductive", "support", "running")
CALIBRATION_EPISODES = 100


class BatchNormProtocol(pl.LightningModule, ABC):
    """Give a method the setting ``bn``.

    Args:
        bn: the source of the statistics that normalise query images: ``transductive`` (the batch of query
            images), ``support`` (the support set only) or ``running`` (averages over training).
            Training uses batch statistics under ``running``. The inner loop always uses its own batch.

    Attributes:
        bn_estimated: whether the last evaluation had to estimate the running averages.
    """

    stores_statistics = False  # keeps running averages in training whatever ``bn`` is
    engine: Engine

    def __init__(self, bn: str) -> None:
        super().__init__()
        self.bn = bn
        self.bn_estimated = False

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, and refuse unfit layers.

        Layers are unfit if they cannot see many tasks at once.
        """
        if isinstance(value, nn.Module):
            refuse_layers(value)
        super().__setattr__(name, value)

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """Return the network whose batch norms follow ``bn``."""

    @abstractmethod
    def predictor(self, episode: Episode) -> Predictor:
        """Return the predictor to test on an episode."""

    @abstractmethod
    def chunks(self, episodes: Episode) -> Iterator[Episode]:
        """Split a batch into pieces for the engine."""

    @property
    def bn(self) -> str:
        """Return the protocol."""
        return self._bn

    @bn.setter
    def bn(self, protocol: str) -> None:
        if protocol not in BN_PROTOCOLS:
            raise UserError(f"bn={protocol}: choose one of {', '.join(BN_PROTOCOLS)}")
        self._bn = protocol

    @property
    def bn_protocol(self) -> str:
        """Return ``bn``; ``none`` without batch norms.

        A pretrained network is ``frozen``: its layers stay in evaluation mode.
        """
        if batch_norms(self.network):
            return self.bn
        return "none" if find_pretrained(self.network) is None else "frozen"

    def forward_queries(
        self, network: nn.Module, params: dict[str, Tensor], support_x: Tensor, x: Tensor, joint: bool = False
    ) -> Any:
        """Apply ``network`` to query images of one task.

        The images ``x`` are normalised as ``bn`` says. The output's last ``len(x)`` rows belong to ``x``. With
        ``joint``, or where the support set gives the statistics, the rows of ``support_x`` come first, out of the same
        pass.
        """
        source: Statistics | float = Statistics.BATCH
        if self.bn == "support" and batch_norms(network):
            source = len(support_x) / (len(support_x) + len(x))
            joint = True
        elif self.bn == "running" and not self.training:
            source = Statistics.RUNNING
        with normalising(network, source):
            return functional_call(network, params, (torch.cat([support_x, x]) if joint else x,))

    def adapted_predictor(self, network: nn.Module, params: dict[str, Tensor], support_x: Tensor) -> Predictor:
        """Return the predictor at parameters adapted to a task."""

        def predict(state: dict[str, Tensor], x: Tensor) -> Prediction:
            return Prediction(*(rows[-len(x) :] for rows in self.forward_queries(network, state, support_x, x)))

        return Predictor(predict, params)

    def predict_queries(self, predict: Predictor, query_x: Tensor) -> tuple[Prediction, dict[str, Tensor]]:
        """Predict query images; in training, also return statistics."""
        if not (self.training and (self.stores_statistics or self.bn == "running")):
            return predict(query_x), {}
        with recording(self.network) as recorded:
            prediction = predict(query_x)
        terms = {}
        for layer, passes in enumerate(recorded):
            if passes:
                terms[f"norm/{layer}/mean"], terms[f"norm/{layer}/var"] = passes[-1]
        return prediction, terms

    def _update_statistics(self, every: dict[str, Tensor], tasks: int) -> None:
        """Update running statistics by the meta-batch's mean.

        The mean is over the tasks of all processes. The statistics ``(B, C)`` are taken out of ``every``.
        """
        for number, layer in enumerate(batch_norms(self.network)):
            if f"norm/{number}/mean" in every:
                pair = torch.stack([every.pop(f"norm/{number}/{moment}").sum(0) for moment in ("mean", "var")])
                layer.update(*(distributed.reduce_sum(pair) / tasks))

    def _calibrate(self) -> None:
        """Estimate missing running averages and record this.

        Under ``bn=running``, fixed training episodes give the averages.
        """
        layers = batch_norms(self.network)
        self.bn_estimated = self.bn == "running" and any(layer.updates == 0 for layer in layers)
        if not self.bn_estimated:
            return
        self.bn = "transductive"

        def statistics(episode: Episode) -> dict[str, Tensor]:
            predict = self.predictor(episode)
            with recording(self.network) as recorded:
                predict(episode.query_x)
            return {
                f"{number}/{moment}": passes[-1][moment] for number, passes in enumerate(recorded) for moment in (0, 1)
            }

        with torch.no_grad():
            chunks = [
                self.engine.map_tasks(statistics, chunk)
                for episodes in self.trainer.datamodule.calibration(CALIBRATION_EPISODES, self.device)  # type: ignore[attr-defined]
                for chunk in self.chunks(episodes)
            ]
            for number, layer in enumerate(layers):
                mean, var = (torch.cat([chunk[f"{number}/{moment}"] for chunk in chunks]).mean(0) for moment in (0, 1))
                layer.running_mean.copy_(mean)
                layer.running_var.copy_(var)
        self.bn = "running"

    def on_validation_start(self) -> None:
        """Estimate running averages where they are missing."""
        self._calibrate()

    def on_test_start(self) -> None:
        """Estimate running averages where they are missing."""
        self._calibrate()
