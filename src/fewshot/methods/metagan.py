"""MetaGAN.

Zhang, Che, Ghahramani, Bengio, Song, "MetaGAN: an adversarial approach to few-shot learning", NeurIPS 2018.

The few-shot classifier D doubles as a discriminator with a fake outcome beside its N classes; a generator
G(z, h_T), conditioned on an encoding h_T of the support set, makes images that D must tell from real ones.
    L_D = CE(real, labels) - w_real E log p(real | real) - w_fake E log p(fake | generated)      (eq. 5, 6)
    L_G = -E log p(real | generated)  (non-saturating), or feature matching                      (eq. 7)
With an inner loop, L_D is also what the support set is fit with (inner weights); the outer loss is taken on
the query set with fresh fakes (outer weights), and G plays against the adapted classifier. A host
without an inner loop, such as a prototypical network, has the outer loss only: its scores are the logits.

The real term is over the unlabelled images of the episode; without any, the labelled ones stand in for them.
A task without labels has the real and the fake term only.

Differs from the paper:
- weights of the real and fake terms, inside and outside, are settings; so is the step fakes enter from;
- a learned fake logit, linear in the classifier's features, is offered beside the one fixed at 0;
- CE is the host's own loss: squared error for a relation network.
"""

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
    """A classifier of the framework, trained against a generator of images of the same task.

    Args:
        host: the few-shot classifier; it keeps its own optimiser, schedule, clipping and engine.
        encoder: support set to h_T.
        generator: noise and h_T to images in [-1, 1], of which 1 is ink.
        mean, std: the normalisation of the data, which generated images receive too.
        fake_logit: ``fixed`` at 0, or ``learned``: linear in the features, see ``prepare``.
        generator_loss: ``nonsaturating`` or ``feature_matching``.
        inner_real, inner_fake, outer_real, outer_fake: weights of the terms of L_D.
        inner_from: the inner step, counted from 0, from which the real and fake terms enter.
        inner_fakes, outer_fakes: generated images a task; None for as many as support images.
        generator_every: steps of the classifier for one of the generator; 0 never trains it.
        optimizer: of generator and encoder; a learned fake logit is trained with the host.
        schedule: of that optimiser.
    """

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
            raise UserError(f"{type(host).__name__} cannot be the classifier of MetaGAN: choose another method")
        if type(host).task_terms is not Method.task_terms:
            raise UserError(
                f"{type(host).__name__} is not trained by the loss of a query set: "
                "it cannot be the classifier of MetaGAN"
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
        self.host, self.encoder, self.generator = host, encoder, generator
        self.mean, self.std = mean, std
        features = host.features  # raises where none are learned
        self.fake_head = _zero(nn.Linear(features, 1)) if fake_logit == "learned" else None
        self.generator_loss = generator_loss
        self.inner_real, self.inner_fake = inner_real, inner_fake
        self.outer_real, self.outer_fake = outer_real, outer_fake
        self.inner_from, self.generator_every = inner_from, generator_every
        self.inner_fakes, self.outer_fakes = inner_fakes, outer_fakes

    @property
    def bn(self) -> str:
        return self.host.bn if "host" in self._modules else self._bn

    @bn.setter
    def bn(self, protocol: str) -> None:
        if "host" in self._modules:
            self.host.bn = protocol
        else:  # the base class sets it before there is a classifier
            self._bn = protocol

    @property
    def inner_steps(self) -> int:  # type: ignore[override]
        return self.host.inner_steps

    @property
    def network(self) -> nn.Module:
        return self.host.network

    @property
    def features(self) -> int:
        return self.host.features

    def generate(self, episode: Episode, number: int | None, stream: int) -> Tensor:
        """``(number, C, H, W)`` images of one task, normalised like its real ones; a function of its key."""
        number = number or len(episode.support_x)
        z = rng.normal(episode.key, (number, self.generator.noise), stream).to(episode.support_x)
        ink = (self.generator(z, self.encoder(episode.support_x)) + 1) / 2
        return (ink - self.mean) / self.std

    def real(self, prediction: Prediction) -> Tensor:
        """Log-odds ``(M,)`` that the inputs are real."""
        fake = self.fake_head(prediction.features).squeeze(-1) if self.fake_head is not None else 0.0
        return real_logit(prediction.logits, fake)

    def fit_task(self, episode: Episode, extra: ExtraLoss | None = None) -> Predictor:
        if not self.inner_steps or not (self.inner_real or self.inner_fake):
            return self.host.fit_task(episode)
        with torch.no_grad():  # the inner loop trains D only
            fakes = self.generate(episode, self.inner_fakes, TaskStream.INNER_FAKES) if self.inner_fake else None

        def terms(prediction: Prediction, predict, step: int) -> Tensor:
            if step < self.inner_from:
                return prediction.logits.new_zeros(())
            seen = prediction if episode.unlabeled_x is None else predict(episode.unlabeled_x)
            loss = self.inner_real * real_loss(self.real(seen))
            return loss if fakes is None else loss + self.inner_fake * fake_loss(self.real(predict(fakes)))

        return self.host.fit_task(episode, terms)

    def task_terms(self, episode: Episode) -> Terms:
        predict = self.fit_task(episode)
        prediction, statistics = self.host.classify(predict, episode.query_x)
        unlabeled = episode.unlabeled_x if episode.unlabeled_query_x is None else episode.unlabeled_query_x
        seen = prediction if unlabeled is None else predict(unlabeled)
        real = self.real(seen)
        ce = episode.if_labeled(self.host.query_loss(prediction.logits, episode.query_y))
        right = episode.if_labeled(accuracy(prediction.logits, episode.query_y), float("nan"))
        fakes = self.generate(episode, self.outer_fakes, TaskStream.OUTER_FAKES)
        fake = self.real(predict(fakes.detach()))
        terms = {"ce_loss": ce, "real_loss": real_loss(real), "fake_loss": fake_loss(fake)}
        loss = ce + self.outer_real * terms["real_loss"] + self.outer_fake * terms["fake_loss"]

        # G plays against D as it stands: no gradient of this term may reach D, nor of the above G.
        frozen = predict.detach()(fakes)
        if self.generator_loss == "nonsaturating":
            generator = real_loss(self._frozen_real(frozen))
        else:
            generator = feature_matching(seen.features.detach(), frozen.features)
        return (
            {"objective": loss + generator, "loss": loss, "accuracy": right}
            | terms
            | {
                "generator_loss": generator,
                "real_accuracy": (real > 0).float().mean(),
                "fake_accuracy": (fake < 0).float().mean(),
                # How unlike each other the fakes of a task are, beside its real images: 0 is one image for all noise.
                "fake_diversity": spread(fakes.detach()) / spread(episode.query_x),
            }
            | statistics
        )

    def _frozen_real(self, prediction: Prediction) -> Tensor:
        if self.fake_head is None:
            return real_logit(prediction.logits)
        weight, bias = self.fake_head.weight.detach(), self.fake_head.bias.detach()
        return real_logit(prediction.logits, F.linear(prediction.features, weight, bias).squeeze(-1))

    def prepare(self, episodes: Episode) -> None:
        """Let a learned fake logit start at the mean log-sum-exp of the logits, where p(real) is about a half.

        Negative distances lie far from 0: there one of the two terms would have no gradient, the other the largest.
        """
        if self.fake_head is not None:
            with torch.no_grad():
                reals = self.host.logits(episodes).logsumexp(-1)
                count = torch.tensor(float(reals.numel()), device=reals.device)
                self.fake_head.bias.copy_(distributed.reduce_sum(reals.sum()) / distributed.reduce_sum(count))

    def configure_optimizers(self) -> list[Optimizer]:
        assert self.make_optimizer is not None
        critic = self.host.configure_optimizers()[0]
        if self.fake_head is not None:
            critic.add_param_group({"params": list(self.fake_head.parameters())})
        players = [*self.encoder.parameters(), *self.generator.parameters()]
        return [with_initial_rate(critic), with_initial_rate(self.make_optimizer(players))]

    def schedules(self) -> list[Schedule]:
        return [self.host.schedule, self.schedule]

    def update(self, optimizers: list, step: int) -> None:
        critic, generator = optimizers
        self.host.update([critic], step)
        if self.generator_every and step % self.generator_every == 0:
            clip_gradients(generator, self.clip_norm, self.clip_value)
            generator.optimizer.step()  # not counted: a step is a meta-batch

    def pictures(self, episode: Episode) -> dict[str, Tensor]:
        """Support images of one task and images generated for it, in [0, 1]."""
        with torch.no_grad():
            fakes = self.generate(episode, self.outer_fakes, TaskStream.OUTER_FAKES)
        return {name: x * self.std + self.mean for name, x in (("real", episode.support_x), ("generated", fakes))}


def spread(x: Tensor) -> Tensor:
    """Mean squared distance of images ``(M, C, H, W)`` to their mean, over pixels."""
    return (x - x.mean(0)).square().mean()


def _zero(layer: nn.Linear) -> nn.Linear:
    """A fake logit that starts as a constant."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
