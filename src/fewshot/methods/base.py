"""Train, evaluate and log any method.

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
from fewshot.methods.adapt import AdaptedParameters
from fewshot.methods.knownness import OpenSetProtocol
from fewshot.methods.predictor import ExtraLoss, Predictor
from fewshot.networks import PretrainedBackbone, find_pretrained
from fewshot.networks.drop_block import with_task_key
from fewshot.schedule import Schedule, budget_spent, constant, scale_rate, with_initial_rate

Terms = dict[str, Tensor]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


class Method(OpenSetProtocol):
    """Train a few-shot method and score test tasks.

    Args:
        engine: runs the task axis and inner loops.
        bn: see ``BatchNormProtocol``.
        optimizer: makes the optimiser of the outer loop; None for a method without parameters.
        schedule: factor of the learning rate over the budget.
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
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.sum_tasks = sum_tasks
        self._window: list[Tensor] = []
        # Metrics, which sum over processes: Lightning's own mean counts unequal batches as integers.
        self.val_accuracy = MeanMetric()
        self.val_loss = MeanMetric()

    # What a method writes

    @property
    def features(self) -> int:
        """Return D, the length of ``Prediction.features``.

        Raises:
            UserError: the method learns no features.
        """
        raise UserError(f"{type(self).__name__} learns no features: it cannot be the host of MetaGAN")

    @property
    def adapted_parameters(self) -> int:
        """Count the numbers that adapt to a task.

        For MetaGAN, return the count of the host.
        """
        return sum(host.adapted_parameters for host in self.children() if isinstance(host, Method))

    @property
    def feature_extractor(self) -> PretrainedBackbone | None:
        """Return the backbone whose features can be computed once.

        None if the method trains or adapts the backbone, or has no pretrained backbone.
        """
        backbone = find_pretrained(self.network)
        trains = backbone is not None and any(parameter.requires_grad for parameter in backbone.parameters())
        return None if trains or self.adapts_backbone else backbone

    @property
    def adapts_backbone(self) -> bool:
        """Tell whether the fit to a task changes the backbone."""
        return any(isinstance(part, AdaptedParameters) and part.has_backbone for part in self.modules())

    @abstractmethod
    def fit_task(self, episode: Episode, extra: ExtraLoss | None = None) -> Predictor:
        """Adapt to the support set of one task.

        The episode has no task axis. Everything learned that the prediction depends on belongs into
        ``Predictor.state``: the prediction may not read parameters from ``self``.

        Args:
            episode: one task.
            extra: a further term of the support loss; methods without a support loss ignore the term.
        """

    def task_terms(self, episode: Episode) -> Terms:
        """Return the scalars of one training task.

        The scalar ``objective`` is differentiated; the other scalars are logged.

        A term that a task does not have is not-a-number, such as the accuracy of a task without labels.
        """
        return self.query_terms(self.fit_task(episode), episode)

    def query_terms(self, predict: Predictor, episode: Episode) -> Terms:
        """Return loss, accuracy and objective on query images."""
        prediction, statistics = self.predict_queries(predict, episode.query_x)
        loss = episode.if_labeled(self.query_loss(prediction.logits, episode.query_y))
        right = episode.if_labeled(accuracy(prediction.logits, episode.query_y), float("nan"))
        return {"objective": loss, "loss": loss, "accuracy": right} | statistics

    def query_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the outer loss of query images: cross-entropy."""
        return F.cross_entropy(logits, labels)

    def chunks(self, episodes: Episode) -> Iterator[Episode]:
        """Split a batch into pieces for the engine.

        Images that go through a pretrained network fill any device: one task is a piece, unless ``engine.chunk`` says
        otherwise.
        """
        backbone = find_pretrained(self.network)
        if self.engine.chunk is None and backbone is not None and not backbone.is_computed(episodes.support_x):
            return episodes.chunks(1)
        return self.engine.chunks(episodes, adapts=self.inner_steps > 0)

    def map_tasks(self, function: TaskFunction, episodes: Episode) -> Terms:
        """Apply a function to tasks and stack outputs.

        DropBlock follows the key of each task.
        """

        def keyed(episode: Episode) -> Terms:
            with with_task_key(self.network, episode.key):
                return function(episode)

        return self.engine.map_tasks(keyed, episodes)

    def prepare(self, episodes: Episode) -> None:
        """Set parameters from data before the first step."""

    # Training

    def training_step(self, episodes: Episode, batch_idx: int) -> None:
        """Take one meta-step on a meta-batch."""
        step = self.trainer.global_step
        if step == 0:
            self.prepare(episodes)
        optimizers = self._optimizers()
        spent = budget_spent(self.trainer)
        for optimizer, schedule in zip(optimizers, self.schedules(), strict=True):
            optimizer.zero_grad()
            scale_rate(optimizer, schedule(step, spent))
        done: list[Terms] = []
        for chunk in self.chunks(episodes):
            terms = self.map_tasks(self.task_terms, chunk)
            self.manual_backward(terms.pop("objective").sum())
            done.append({name: values.detach() for name, values in terms.items()})
        tasks = self.trainer.datamodule.task.meta_batch  # type: ignore[attr-defined]
        distributed.sum_gradients(self.parameters(), 1.0 if self.sum_tasks else 1 / tasks)
        every = {name: torch.cat([chunk_terms[name] for chunk_terms in done]) for name in done[0]}
        self._note_divergence(distributed.reduce_sum(every["loss"].sum()), step)
        self._update_statistics(every, tasks)
        self.update(optimizers, step)
        self._log_window(every, step)

    def update(self, optimizers: list[Any], step: int) -> None:
        """Clip gradients and step.

        The trainer counts the first optimiser's step only: one step is one meta-batch.
        """
        for number, optimizer in enumerate(optimizers):
            clip_gradients(optimizer, self.clip_norm, self.clip_value)
            (optimizer if number == 0 else optimizer.optimizer).step()

    def configure_optimizers(self) -> list[Optimizer]:
        """Make the optimiser of all parameters."""
        if self.make_optimizer is None:
            raise UserError(
                f"method.optimizer=null: {type(self).__name__} has parameters to train, and needs an optimizer"
            )
        return [with_initial_rate(self.make_optimizer(self.parameters()))]

    def schedules(self) -> list[Schedule]:
        """Return the schedule of each optimiser."""
        return [self.schedule]

    def _optimizers(self) -> list[Any]:
        optimizers = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def on_fit_start(self) -> None:
        """Refuse precisions that inner loops cannot have."""
        if self.trainer.precision == "16-mixed":
            raise UserError(
                "trainer.precision=16-mixed scales losses, which inner loops do not: use bf16-mixed or 32-true"
            )

    def on_train_start(self) -> None:
        """Begin the watch for non-finite losses."""
        self._diverged_at = torch.tensor(-1, device=self.device)

    def _note_divergence(self, loss: Tensor, step: int) -> None:
        """Note the first loss that is not finite.

        A CPU run stops there, a GPU run at the next log.
        """
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
        """Stop after a non-finite loss, else prepare BatchNorm."""
        self._raise_if_diverged()
        super().on_validation_start()

    def on_validation_epoch_end(self) -> None:
        """Stop where the validation loss is not finite."""
        loss = self.trainer.callback_metrics.get("val/loss")
        if self.trainer.state.fn == "fit" and loss is not None and not torch.isfinite(loss):
            self._diverged_at = torch.tensor(self.trainer.global_step - 1)
            self._raise_if_diverged()  # before these weights become a checkpoint

    def on_test_start(self) -> None:
        """Prepare BatchNorm."""
        self._calibrate()

    def _log_window(self, every: Terms, step: int) -> None:
        """Log means over tasks since the last log.

        Between logs nothing is read from the device.
        """
        sums = [torch.stack([values.nansum(), (~values.isnan()).sum()]) for values in every.values()]
        self._window.append(torch.stack(sums))
        if (step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            means = distributed.reduce_sum(torch.stack(self._window).sum(0))
            for name, mean in zip(every, means[:, 0] / means[:, 1], strict=True):
                self.log(f"train/{name}", mean, prog_bar=name == "loss")
            self._window.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the terms that are not logged yet."""
        if self._window:
            checkpoint["window"] = distributed.reduce_sum(torch.stack(self._window))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the terms that are not logged yet."""
        if "window" in checkpoint and distributed.rank() == 0:  # the sum over all processes
            self._window = list(checkpoint["window"].to(self.device))

    # Evaluation

    def predictor(self, episode: Episode) -> Predictor:
        return self.fit_task(episode)

    def logits(self, episodes: Episode) -> Tensor:
        """Return query logits ``(B, N*Q, N)``."""
        return torch.cat(list(self._logits(episodes)))

    def _logits(self, episodes: Episode) -> Iterator[Tensor]:
        for chunk in self.chunks(episodes):
            yield self.map_tasks(lambda e: {"logits": self.predictor(e)(e.query_x).logits}, chunk)["logits"]

    def _evaluate(self, episodes: Episode) -> Terms:
        terms = {"logits": self.logits(episodes)} if episodes.unknown_x is None else self.open_set(episodes)
        return terms | task_scores(terms["logits"], episodes.query_y)

    def validation_step(self, episodes: Episode, batch_idx: int) -> None:
        """Add validation tasks to the means."""
        scores = self._evaluate(episodes)
        for name, mean in (("accuracy", self.val_accuracy), ("loss", self.val_loss)):
            mean.update(scores[name])
            self.log(f"val/{name}", mean, prog_bar=name == "accuracy", batch_size=len(episodes))

    def test_step(self, episodes: Episode, batch_idx: int) -> dict[str, Any]:
        """Return logits, scores and any knownness for the callbacks."""
        return self._evaluate(episodes) | {"episodes": episodes}

    def pictures(self, episode: Episode) -> dict[str, Tensor]:
        """Return pictures of one task, by row label."""
        return {}


def task_scores(logits: Tensor, labels: Tensor) -> Terms:
    """Return accuracy and cross-entropy ``(B,)`` of each task.

    Both are over the query images of a task.

    Args:
        logits: ``(B, N*Q, N)``.
        labels: ``(B, N*Q)``.
    """
    return {
        "accuracy": (logits.argmax(-1) == labels).float().mean(1),
        "loss": F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1),
    }


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the fraction of right predictions."""
    return (logits.argmax(-1) == labels).float().mean()


def clip_gradients(optimizer: Optimizer, norm: float | None, value: float | None) -> None:
    """Clip gradients by value, then by joint norm."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if value is not None:
        nn.utils.clip_grad_value_(params, value)
    if norm is not None:
        nn.utils.clip_grad_norm_(params, norm)
