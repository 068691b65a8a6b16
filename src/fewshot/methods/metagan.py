"""Train MetaGAN: a classifier against a generator.

Zhang, Che, Ghahramani, Bengio, Song, "MetaGAN: an adversarial approach to few-shot learning", NeurIPS 2018.

The few-shot classifier D doubles as a discriminator with a fake outcome beside its N classes; a generator
G(z, h_T), conditioned on an encoding h_T of the support set, makes images that D must tell from real ones.
    L_D = CE(real, labels) - w_real E log p(real | real) - w_fake E log p(fake | generated)      (eq. 5, 6)
    L_G = -E log p(real | generated)  (non-saturating), or feature matching                      (eq. 7)
With an inner loop, L_D is also what the support set is fit with (inner weights); the outer loss is taken on
the query set with fresh fakes (outer weights), and G plays against the adapted classifier. A host
without an inner loop, such as a prototypical network, has the outer loss only: its scores are the logits.

The real term is over the unlabelled images of the episode; without such images, over the labelled images.
A task without labels has the real and the fake term only.

Differs from the paper:
- weights of the real and fake terms, inside and outside, are settings; so is the first step with fakes;
- a learned fake logit, linear in the classifier's features, is offered beside a logit fixed at 0;
- CE is the host's own loss: squared error for a relation network.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from fewshot import distributed, rng
from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods.base import Method, OptimizerFactory, Terms, accuracy, clip_gradients
from fewshot.methods.gan_losses import fake_loss, feature_matching, real_logit, real_loss
from fewshot.methods.predictor import ExtraLoss, Predictor
from fewshot.networks import Generator, Prediction, TaskEncoder
from fewshot.schedule import Schedule, with_initial_rate
from fewshot.streams import TaskStream

FAKE_LOGITS = ("fixed", "learned")
GENERATOR_LOSSES = ("nonsaturating", "feature_matching")


class MetaGAN(Method):
    """Train a host classifier against a generator.

    The host is any few-shot classifier; the generator makes images of the same task.

    Args:
        host: the few-shot classifier, with an optimiser, schedule, clipping and engine of its own.
        encoder: maps the support set to h_T.
        generator: maps noise and h_T to images in [-1, 1], where 1 is ink.
        mean, std: the normalisation of the data, for generated images too.
        fake_logit: ``fixed`` at 0, or ``learned``: linear in the features, see ``prepare``.
        generator_loss: ``nonsaturating`` or ``feature_matching``.
        inner_real, inner_fake, outer_real, outer_fake: weights of the terms of L_D.
        inner_from: the inner step, counted from 0, from which the real and fake terms enter.
        inner_fakes, outer_fakes: generated images a task; None for the number of support images.
        generator_every: steps of the classifier for one of the generator; 0 never trains it.
        optimizer: of generator and encoder; a learned fake logit is trained with the host.
        schedule: of that optimiser.
    """

    knownness_score = "real"

    def __init__(
        self,
        host: Method,
        encoder: TaskEncoder,
        generator: Generator,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        mean: float = 0.0,
        std: float = 1.0,
        fake_logit: str = "fixed",
        generator_loss: str = "nonsaturating",
        inner_real: float = 1.0,
        inner_fake: float = 1.0,
        outer_real: float = 1.0,
        outer_fake: float = 1.0,
        inner_from: int = 0,
        inner_fakes: int | None = None,
        outer_fakes: int | None = None,
        generator_every: int = 1,
    ) -> None:
        if not isinstance(host, Method) or isinstance(host, MetaGAN):
            raise UserError(f"{type(host).__name__} cannot be the host of MetaGAN: choose another method")
        if type(host).task_terms is not Method.task_terms:
            raise UserError(
                f"{type(host).__name__} is not trained by the loss of a query set: it cannot be the host of MetaGAN"
            )
        super().__init__(host.engine, host.bn, optimizer, schedule, sum_tasks=host.sum_tasks)
        if fake_logit not in FAKE_LOGITS:
            raise UserError(f"method.fake_logit={fake_logit}: choose one of {', '.join(FAKE_LOGITS)}")
        if generator_loss not in GENERATOR_LOSSES:
            raise UserError(f"method.generator_loss={generator_loss}: choose one of {', '.join(GENERATOR_LOSSES)}")
        for name, count in {"inner_fakes": inner_fakes, "outer_fakes": outer_fakes}.items():
            if count is not None and count < 1:
                raise UserError(f"method.{name}={count}: must be at least 1")
        if generator_every < 0:
            raise UserError(f"method.generator_every={generator_every}: must be at least 0")
        self.host = host
        self.encoder = encoder
        self.generator = generator
        self.mean = mean
        self.std = std
        features = host.features  # or UserError
        if not any(parameter.requires_grad for parameter in host.parameters()):
            raise UserError("the host of MetaGAN has no parameter to train: choose another backbone, or the host alone")
        self.fake_head = _start_at_zero(nn.Linear(features, 1)) if fake_logit == "learned" else None
        self.generator_loss = generator_loss
        self.inner_real = inner_real
        self.inner_fake = inner_fake
        self.outer_real = outer_real
        self.outer_fake = outer_fake
        self.inner_from = inner_from
        self.generator_every = generator_every
        self.inner_fakes = inner_fakes
        self.outer_fakes = outer_fakes

    @property
    def bn(self) -> str:
        """Return the host's protocol."""
        return self.host.bn if "host" in self._modules else self._bn

    @bn.setter
    def bn(self, protocol: str) -> None:
        if "host" in self._modules:
            self.host.bn = protocol
        else:  # the base class sets it before there is a classifier
            self._bn = protocol

    @property
    def inner_steps(self) -> int:  # type: ignore[override]
        """Return the number of the host's inner steps."""
        return self.host.inner_steps

    @property
    def network(self) -> nn.Module:
        return self.host.network

    @property
    def feature_extractor(self) -> None:
        """Return None: generated images have no features before."""
        return None

    @property
    def features(self) -> int:
        return self.host.features

    def generate(self, episode: Episode, number: int | None, stream: int) -> Tensor:
        """Generate images of one task.

        The images ``(number, C, H, W)`` are normalised like real images.

        Args:
            episode: the task, whose key decides the noise.
            number: None for the number of support images.
            stream: of ``TaskStream``.
        """
        number = number or len(episode.support_x)
        z = rng.normal(episode.key, (number, self.generator.noise), stream).to(episode.support_x)
        ink: Tensor = (self.generator(z, self.encoder(episode.support_x)) + 1) / 2
        return (ink - self.mean) / self.std

    def real_log_odds(self, prediction: Prediction) -> Tensor:
        """Return the log-odds ``(M,)`` of real inputs."""
        fake = self.fake_head(prediction.features).squeeze(-1) if self.fake_head is not None else 0.0
        return real_logit(prediction.logits, fake)

    def knownness(self, prediction: Prediction) -> Tensor:
        if self.knownness_score == "real":
            return self.real_log_odds(prediction)
        return super().knownness(prediction)

    def fit_task(self, episode: Episode, extra: ExtraLoss | None = None) -> Predictor:
        if not self.inner_steps or not (self.inner_real or self.inner_fake):
            return self.host.fit_task(episode)
        with torch.no_grad():  # the inner loop trains D only
            fakes = self.generate(episode, self.inner_fakes, TaskStream.INNER_FAKES) if self.inner_fake else None

        def terms(prediction: Prediction, predict: Callable[[Tensor], Prediction], step: int) -> Tensor:
            if step < self.inner_from:
                return prediction.logits.new_zeros(())
            reals = prediction if episode.unlabeled_x is None else predict(episode.unlabeled_x)
            loss = self.inner_real * real_loss(self.real_log_odds(reals))
            return loss if fakes is None else loss + self.inner_fake * fake_loss(self.real_log_odds(predict(fakes)))

        return self.host.fit_task(episode, terms)

    def task_terms(self, episode: Episode) -> Terms:
        """Return the losses of D and G.

        The losses are for one task (eq. 5 to 7).
        """
        predict = self.fit_task(episode)
        prediction, statistics = self.host.predict_queries(predict, episode.query_x)
        unlabeled = episode.unlabeled_x if episode.unlabeled_query_x is None else episode.unlabeled_query_x
        reals = prediction if unlabeled is None else predict(unlabeled)
        real = self.real_log_odds(reals)
        ce = episode.if_labeled(self.host.query_loss(prediction.logits, episode.query_y))
        right = episode.if_labeled(accuracy(prediction.logits, episode.query_y), float("nan"))
        fakes = self.generate(episode, self.outer_fakes, TaskStream.OUTER_FAKES)
        fake = self.real_log_odds(predict(fakes.detach()))
        terms = {"ce_loss": ce, "real_loss": real_loss(real), "fake_loss": fake_loss(fake)}
        loss = ce + self.outer_real * terms["real_loss"] + self.outer_fake * terms["fake_loss"]

        # G plays against a constant D: no gradient of this term may reach D, and no gradient of the terms above G.
        frozen = predict.detach()(fakes)
        if self.generator_loss == "nonsaturating":
            generator = real_loss(self._real_log_odds_of_constant_critic(frozen))
        else:
            generator = feature_matching(reals.features.detach(), frozen.features)
        return (
            {"objective": loss + generator, "loss": loss, "accuracy": right}
            | terms
            | {
                "generator_loss": generator,
                "real_accuracy": (real > 0).float().mean(),
                "fake_accuracy": (fake < 0).float().mean(),
                # How unlike each other the fakes of a task are, beside its real images: 0 is one image for all noise.
                "fake_diversity": pixel_variance(fakes.detach()) / pixel_variance(episode.query_x),
            }
            | statistics
        )

    def _real_log_odds_of_constant_critic(self, prediction: Prediction) -> Tensor:
        """Return log-odds without gradient of the fake logit."""
        if self.fake_head is None:
            return real_logit(prediction.logits)
        weight = self.fake_head.weight.detach()
        bias = self.fake_head.bias.detach()
        return real_logit(prediction.logits, F.linear(prediction.features, weight, bias).squeeze(-1))

    def prepare(self, episodes: Episode) -> None:
        """Set the first value of the fake logit.

        A learned fake logit starts at the mean log-sum-exp of the logits. There p(real) is about a half. Negative
        distances lie far from 0, where one of the two terms would have no gradient and the other term the largest.
        """
        if self.fake_head is not None:
            with torch.no_grad():
                reals = self.host.logits(episodes).logsumexp(-1)
                count = torch.tensor(float(reals.numel()), device=reals.device)
                self.fake_head.bias.copy_(distributed.reduce_sum(reals.sum()) / distributed.reduce_sum(count))

    def configure_optimizers(self) -> list[Optimizer]:
        """Make the optimisers of D and G.

        The optimiser of G also trains the encoder.
        """
        assert self.make_optimizer is not None
        critic = self.host.configure_optimizers()[0]
        if self.fake_head is not None:
            critic.add_param_group({"params": list(self.fake_head.parameters())})
        players = [*self.encoder.parameters(), *self.generator.parameters()]
        return [with_initial_rate(critic), with_initial_rate(self.make_optimizer(players))]

    def schedules(self) -> list[Schedule]:
        """Return the schedules of D and of G."""
        return [self.host.schedule, self.schedule]

    def update(self, optimizers: list[Any], step: int) -> None:
        """Update D, and G every ``generator_every`` steps.

        D is updated as the host is.
        """
        critic, generator = optimizers
        self.host.update([critic], step)
        if self.generator_every and step % self.generator_every == 0:
            clip_gradients(generator, self.clip_norm, self.clip_value)
            generator.optimizer.step()  # not counted: a step is a meta-batch

    def pictures(self, episode: Episode) -> dict[str, Tensor]:
        """Return support and generated images in [0, 1]."""
        with torch.no_grad():
            fakes = self.generate(episode, self.outer_fakes, TaskStream.OUTER_FAKES)
        return {name: x * self.std + self.mean for name, x in (("real", episode.support_x), ("generated", fakes))}


def pixel_variance(x: Tensor) -> Tensor:
    """Return the variance of images, averaged over pixels.

    Images are ``(M, C, H, W)``; the variance is over M.
    """
    return (x - x.mean(0)).square().mean()


def _start_at_zero(layer: nn.Linear) -> nn.Linear:
    """Set a layer to 0, for a constant logit."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
