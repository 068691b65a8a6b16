"""Train Reptile.

Nichol, Achiam, Schulman, "On first-order meta-learning algorithms", arXiv:1803.02999, 2018.

For each task, ``steps`` steps of gradient descent on minibatches of its support set lead from theta to phi; then
    theta <- theta + eps * mean over tasks of (phi - theta)      (algorithm 2)
theta - phi is handed to the outer optimiser as a gradient: SGD at rate eps is the paper's step, others are possible.
There are more shots in training than at test (section 6.2), so that minibatches differ.

Differs from the paper:
- the inner optimiser is plain gradient descent, where the authors' has Adam with beta_1 = 0;
- a task's minibatches take its shuffled support set in turn, over and over; at test a step takes the whole set;
- query images are predicted together (``bn=transductive``), or under ``bn=support`` and ``running``.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods.adapt import AdaptedParameters, Params
from fewshot.methods.base import Terms
from fewshot.methods.fixed_ways import FixedWays
from fewshot.methods.predictor import ExtraLoss, Predictor
from fewshot.networks import Backbone, LinearClassifier
from fewshot.networks.norm_layers import Statistics, normalising


class Reptile(FixedWays):
    """Train a network towards the weights adapted to tasks.

    Args:
        backbone: images to features.
        ways: N; the head has N outputs, in training as in evaluation.
        inner_rate: step size of the inner loop.
        steps, test_steps: inner steps in training and in evaluation.
        batch: images of an inner step in training, at most; None for the whole support set.
        adapt, rank: the adapted parameters in evaluation, see ``fewshot.methods.adapt``; in training all parameters
            adapt, since a parameter that stays would learn nothing.
        base: see ``Method``.
    """

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        inner_rate: float,
        steps: int,
        test_steps: int,
        batch: int | None = 10,
        adapt: str = "all",
        rank: int = 4,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        for name, value in {"steps": steps, "test_steps": test_steps, "batch": batch}.items():
            if value is not None and value < 1:
                raise UserError(f"method.{name}={value}: must be at least 1")
        self.classifier = LinearClassifier(backbone, ways)
        self.ways = ways
        self.inner_rate = inner_rate
        self.steps = steps
        self.test_steps = test_steps
        self.batch = batch
        self.adapted_in_training = AdaptedParameters(self.classifier, "all")
        self.adapted = AdaptedParameters(self.classifier, adapt, rank)

    def task_terms(self, episode: Episode) -> Terms:
        """Return the terms of one task.

        The objective has the gradient theta - phi; the query terms are computed at phi.
        """
        predict = self.fit_task(episode).detach()
        terms = self.query_terms(predict, episode)
        away = [
            (theta * (theta - predict.state[name]).detach()).sum() for name, theta in self.classifier.named_parameters()
        ]
        return terms | {"objective": sum(away[1:], away[0])}

    def fit_task(self, episode: Episode, extra: ExtraLoss | None = None) -> Predictor:
        self.refuse_other_ways(episode)
        support_x = episode.support_x
        support_y = episode.support_y
        params: Params = dict(self.classifier.named_parameters())
        adapted = self.adapted_in_training if self.training else self.adapted
        count = len(support_y)
        size = min(self.batch or count, count) if self.training else count

        def loss(fast: Params, step: int) -> Tensor:
            images = [number % count for number in range(step * size, (step + 1) * size)]
            with normalising(self.classifier, Statistics.BATCH):
                logits = functional_call(self.classifier, adapted.merge(params, fast), (support_x[images],)).logits
            return episode.if_labeled(F.cross_entropy(logits, support_y[images]))

        fast = adapted.initial(params)
        rates = dict.fromkeys(fast, self.inner_rate)
        fast = self.engine.descend(loss, fast, rates, self.inner_steps, second_order=False)
        return self.adapted_predictor(self.classifier, adapted.merge(params, fast), support_x)
