"""What all methods share: the meta-step, evaluation, logging.

A method has a ``network`` and writes ``fit_task``: adapt to the support set of one episode and return a
predictor. The engine adds the task axis. One step is one meta-batch, however many optimisers a method has.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from fewshot import distributed
from fewshot.engines import Engine
from fewshot.engines.engine import TaskFunction
from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods.bn_protocol import BatchNormProtocol
from fewshot.methods.predictor import ExtraLoss, Predictor
from fewshot.networks.drop_block import drawing
from fewshot.schedule import Schedule, budget_spent, constant, scale_rate, with_initial_rate

Terms = dict[str, Tensor]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


class Method(BatchNormProtocol):
    """A few-shot learner.

    Args:
        engine: runs the task axis and inner loops.
        bn: see ``BatchNormProtocol``.
        optimizer: of the outer loop, made from the parameters; None for a method without any.
        schedule: factor of its learning rate over the budget.
        clip_norm, clip_value: limits of the outer gradient's norm and of its entries.
        sum_tasks: the outer loss is the sum over the meta-batch, not the mean.
    """

    inner_steps = 0
    test_steps = 0  # inner steps in evaluation, of methods that take any

    def __init__(
        self,
        engine: Engine,
        bn: str,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule = constant,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        sum_tasks: bool = False,
    ) -> None:
        super().__init__(bn)
        self.automatic_optimization = False
        self.engine = engine
        self.make_optimizer, self.schedule = optimizer, schedule
        self.clip_norm, self.clip_value, self.sum_tasks = clip_norm, clip_value, sum_tasks
        self._window: list[Tensor] = []
        # Metrics, which sum over processes: Lightning's own mean counts unequal batches as integers.
        self.val_accuracy, self.val_loss = MeanMetric(), MeanMetric()

    # What a method writes

    @property
    def features(self) -> int:
        """D, the length of ``Prediction.features``, where features are learned."""
        raise UserError(f"{type(self).__name__} learns no features: it cannot be the classifier of another method")

    @property
    def adapted_parameters(self) -> int:
        """How many numbers fitting a task moves by gradient descent; of a method around another, those of that."""
        return sum(part.adapted_parameters for part in self.children() if isinstance(part, Method))

    @abstractmethod
    def fit_task(self, episode: Episode, extra: ExtraLoss | None = None) -> Predictor:
        """Adapt to the support set of one task (no task axis).

        ``extra`` is added to the support loss of methods that have one; others ignore it.
        """

    def task_terms(self, episode: Episode) -> Terms:
        """The scalars of one training task: ``objective`` is differentiated, the rest is logged.

        A term that a task does not have, such as the accuracy of one without labels, is not-a-number.
        """
        return self.query_terms(self.fit_task(episode), episode)

    def query_terms(self, predict: Predictor, episode: Episode) -> Terms:
        """Those of ``predict`` on the query images."""
        prediction, statistics = self.classify(predict, episode.query_x)
        loss = episode.if_labeled(self.query_loss(prediction.logits, episode.query_y))
        right = episode.if_labeled(accuracy(prediction.logits, episode.query_y), float("nan"))
        return {"objective": loss, "loss": loss, "accuracy": right} | statistics

    def query_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The outer loss of query images: cross-entropy."""
        return F.cross_entropy(logits, labels)

    def chunks(self, episodes: Episode) -> Iterator[Episode]:
        return self.engine.chunks(episodes, adapts=self.inner_steps > 0)

    def each(self, function: TaskFunction, episodes: Episode) -> Terms:
        """``function`` of every task, stacked; what a network drops at random is decided by the task's key."""

        def keyed(episode: Episode) -> Terms:
            with drawing(self.network, episode.key):
                return function(episode)

        return self.engine.each(keyed, episodes)

    def prepare(self, episodes: Episode) -> None:
        """Set what starts from data, before the first step is taken on ``episodes``; most methods have nothing."""

    # Training

    def training_step(self, episodes: Episode, batch_idx: int) -> None:
        step = self.trainer.global_step
        if step == 0:
            self.prepare(episodes)
        optimizers = self._optimizers()
        spent = budget_spent(self.trainer)
        for optimizer, schedule in zip(optimizers, self.schedules(), strict=True):
            optimizer.zero_grad()
            scale_rate(optimizer, schedule(step, spent))
        parts: list[Terms] = []
        for chunk in self.chunks(episodes):
            terms = self.each(self.task_terms, chunk)
            self.manual_backward(terms.pop("objective").sum())
            parts.append({name: values.detach() for name, values in terms.items()})
        tasks = self.trainer.datamodule.task.meta_batch  # type: ignore[attr-defined]
        distributed.sum_gradients(self.parameters(), 1.0 if self.sum_tasks else 1 / tasks)
        every = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        self._watch(distributed.reduce_sum(every["loss"].sum()), step)
        self._update_statistics(every, tasks)
        self.update(optimizers, step)
        self._log_window(every, step)

    def update(self, optimizers: list[Any], step: int) -> None:
        """Clip and step. Only the first optimiser's step is counted, so a step of the trainer is a meta-batch."""
        for number, optimizer in enumerate(optimizers):
            clip_gradients(optimizer, self.clip_norm, self.clip_value)
            (optimizer if number == 0 else optimizer.optimizer).step()

    def configure_optimizers(self) -> list[Optimizer]:
        assert self.make_optimizer is not None, f"{type(self).__name__} has nothing to train"
        return [with_initial_rate(self.make_optimizer(self.parameters()))]

    def schedules(self) -> list[Schedule]:
        """One for each optimiser."""
        return [self.schedule]

    def _optimizers(self) -> list[Any]:
        optimizers = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def on_fit_start(self) -> None:
        if self.trainer.precision == "16-mixed":
            raise UserError(
                "trainer.precision=16-mixed scales losses, which inner loops do not: use bf16-mixed or 32-true"
            )

    def on_train_start(self) -> None:
        self._diverged_at = torch.tensor(-1, device=self.device)

    def _watch(self, loss: Tensor, step: int) -> None:
        """Note the first step whose loss is not finite; on a CPU stop there, on a GPU at the next log."""
        bad = ~torch.isfinite(loss) & (self._diverged_at < 0)
        self._diverged_at = torch.where(bad, step, self._diverged_at)
        if self.device.type == "cpu" or step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._raise_if_diverged()

    def _raise_if_diverged(self) -> None:
        at = int(getattr(self, "_diverged_at", -1))
        if at >= 0:
            raise UserError(
                f"the loss is not finite at step {at}: lower the learning rate or the inner rate; "
                "the checkpoints are from before that step"
            )

    def on_validation_start(self) -> None:
        self._raise_if_diverged()
        super().on_validation_start()

    def on_validation_epoch_end(self) -> None:
        loss = self.trainer.callback_metrics.get("val/loss")
        if self.trainer.state.fn == "fit" and loss is not None and not torch.isfinite(loss):
            self._diverged_at = torch.tensor(self.trainer.global_step - 1)
            self._raise_if_diverged()  # before these weights become a checkpoint

    def on_test_start(self) -> None:
        self._calibrate()

    def _log_window(self, every: Terms, step: int) -> None:
        """Log means over the tasks since the last log, so that nothing is read from the device in between."""
        sums = [torch.stack([values.nansum(), (~values.isnan()).sum()]) for values in every.values()]
        self._window.append(torch.stack(sums))
        if (step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            means = distributed.reduce_sum(torch.stack(self._window).sum(0))
            for name, mean in zip(every, means[:, 0] / means[:, 1], strict=True):
                self.log(f"train/{name}", mean, prog_bar=name == "loss")
            self._window.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._window:
            checkpoint["window"] = distributed.reduce_sum(torch.stack(self._window))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "window" in checkpoint and distributed.rank() == 0:  # it is that of all processes
            self._window = list(checkpoint["window"].to(self.device))

    # Evaluation

    def predictor(self, episode: Episode) -> Predictor:
        return self.fit_task(episode)

    def logits(self, episodes: Episode) -> Tensor:
        """``(B, N*Q, N)`` logits of the query images."""
        return torch.cat(list(self._logits(episodes)))

    def _logits(self, episodes: Episode) -> Iterator[Tensor]:
        for chunk in self.chunks(episodes):
            yield self.each(lambda e: {"logits": self.predictor(e)(e.query_x).logits}, chunk)["logits"]

    def _evaluate(self, episodes: Episode) -> Terms:
        logits = self.logits(episodes)
        return {"logits": logits} | scores(logits, episodes.query_y)

    def validation_step(self, episodes: Episode, batch_idx: int) -> None:
        found = self._evaluate(episodes)
        for name, mean in (("accuracy", self.val_accuracy), ("loss", self.val_loss)):
            mean.update(found[name])
            self.log(f"val/{name}", mean, prog_bar=name == "accuracy", batch_size=len(episodes))

    def test_step(self, episodes: Episode, batch_idx: int) -> dict[str, Any]:
        return self._evaluate(episodes) | {"episodes": episodes}

    def pictures(self, episode: Episode) -> dict[str, Tensor]:
        """Images that show what the method does on one task, by row label; most methods have none."""
        return {}


def scores(logits: Tensor, labels: Tensor) -> Terms:
    """Accuracy and cross-entropy ``(B,)`` of the query images of each task: ``(B, N*Q, N)`` and ``(B, N*Q)``."""
    return {
        "accuracy": (logits.argmax(-1) == labels).float().mean(1),
        "loss": F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1),
    }


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The fraction that is right."""
    return (logits.argmax(-1) == labels).float().mean()


def clip_gradients(optimizer: Optimizer, norm: float | None, value: float | None) -> None:
    """Clip all gradients of an optimiser by value, then by their joint norm."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if value is not None:
        nn.utils.clip_grad_value_(params, value)
    if norm is not None:
        nn.utils.clip_grad_norm_(params, norm)
