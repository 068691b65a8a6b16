"""BatchNorm in a method: which statistics normalise query images, and running averages over tasks.

A forward pass cannot keep running averages under ``vmap``: it hands out what it saw as terms of the task, and
the averages are updated once a meta-batch.
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
from fewshot.networks import Prediction
from fewshot.networks.norm_layers import Statistics, batch_norms, normalising, recording
from fewshot.networks.refused_layers import refuse_layers

BN_PROTOCOLS = ("transductive", "support", "running")
CALIBRATION_EPISODES = 100


class BatchNormProtocol(pl.LightningModule, ABC):
    """The part of a method that speaks of BatchNorm.

    Args:
        bn: where the statistics that normalise query images come from: ``transductive`` (the batch they
            are in), ``support`` (the support set only) or ``running`` (averages over training).
            Training uses batch statistics under ``running``. The inner loop always sees its own batch.

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
        """Set an attribute; a network with layers that cannot see many tasks at once is refused."""
        if isinstance(value, nn.Module):
            refuse_layers(value)
        super().__setattr__(name, value)

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The network whose norm layers ``bn`` speaks of."""

    @abstractmethod
    def predictor(self, episode: Episode) -> Predictor:
        """The predictor that is tested on an episode."""

    @abstractmethod
    def chunks(self, episodes: Episode) -> Iterator[Episode]:
        """The pieces of a batch that the engine computes together."""

    @property
    def bn(self) -> str:
        return self._bn

    @bn.setter
    def bn(self, protocol: str) -> None:
        if protocol not in BN_PROTOCOLS:
            raise UserError(f"bn={protocol}: choose one of {', '.join(BN_PROTOCOLS)}")
        self._bn = protocol

    @property
    def bn_protocol(self) -> str:
        """What a result states: ``bn``, or ``none`` for a network without batch normalisation."""
        return self.bn if batch_norms(self.network) else "none"

    def run(
        self, network: nn.Module, params: dict[str, Tensor], support_x: Tensor, x: Tensor, joint: bool = False
    ) -> Any:
        """``network`` on query images ``x`` of one task, normalised as ``bn`` says.

        The output's last ``len(x)`` rows belong to ``x``. With ``joint``, or where the support set's
        statistics are wanted, those of ``support_x`` come before them, out of the same pass.
        """
        source: Statistics | float = Statistics.BATCH
        if self.bn == "support" and batch_norms(network):
            source, joint = len(support_x) / (len(support_x) + len(x)), True
        elif self.bn == "running" and not self.training:
            source = Statistics.RUNNING
        with normalising(network, source):
            return functional_call(network, params, (torch.cat([support_x, x]) if joint else x,))

    def adapted(self, network: nn.Module, params: dict[str, Tensor], support_x: Tensor) -> Predictor:
        """The predictor of a classifier ``network`` at the parameters that a task has come to."""

        def predict(state: dict[str, Tensor], x: Tensor) -> Prediction:
            return Prediction(*(rows[-len(x) :] for rows in self.run(network, state, support_x, x)))

        return Predictor(predict, params)

    def classify(self, predict: Predictor, query_x: Tensor) -> tuple[Prediction, dict[str, Tensor]]:
        """The prediction on query images and, in training, the statistics that its pass saw."""
        if not (self.training and (self.stores_statistics or self.bn == "running")):
            return predict(query_x), {}
        with recording(self.network) as seen:
            prediction = predict(query_x)
        terms = {}
        for layer, passes in enumerate(seen):
            if passes:
                terms[f"norm/{layer}/mean"], terms[f"norm/{layer}/var"] = passes[-1]
        return prediction, terms

    def _update_statistics(self, every: dict[str, Tensor], tasks: int) -> None:
        """Running statistics from those of each task, averaged over the meta-batch of all processes.

        The statistics ``(B, C)`` are taken out of ``every``.
        """
        for number, layer in enumerate(batch_norms(self.network)):
            if f"norm/{number}/mean" in every:
                pair = torch.stack([every.pop(f"norm/{number}/{part}").sum(0) for part in ("mean", "var")])
                layer.update(*(distributed.reduce_sum(pair) / tasks))

    def _calibrate(self) -> None:
        """Under ``bn=running`` without stored averages: estimate them from fixed training episodes, and say so."""
        layers = batch_norms(self.network)
        self.bn_estimated = self.bn == "running" and any(layer.updates == 0 for layer in layers)
        if not self.bn_estimated:
            return
        self.bn = "transductive"

        def passes(episode: Episode) -> dict[str, Tensor]:
            predict = self.predictor(episode)
            with recording(self.network) as seen:
                predict(episode.query_x)
            return {f"{n}/{part}": s[-1][part] for n, s in enumerate(seen) for part in (0, 1)}

        with torch.no_grad():
            parts = [
                self.engine.each(passes, chunk)
                for episodes in self.trainer.datamodule.calibration(CALIBRATION_EPISODES, self.device)  # type: ignore[attr-defined]
                for chunk in self.chunks(episodes)
            ]
            for number, layer in enumerate(layers):
                mean, var = (torch.cat([part[f"{number}/{p}"] for part in parts]).mean(0) for p in (0, 1))
                layer.running_mean.copy_(mean)
                layer.running_var.copy_(var)
        self.bn = "running"

    def on_validation_start(self) -> None:
        self._calibrate()

    def on_test_start(self) -> None:
        self._calibrate()
