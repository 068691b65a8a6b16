"""Train MAML: model-agnostic meta-learning.

Finn, Abbeel, Levine, "Model-agnostic meta-learning for fast adaptation of deep networks", ICML 2017.

Inner loop (eq. 1): theta' = theta - alpha * grad_theta L(f_theta; support), repeated ``steps`` times.
Outer loop (eq. 4): minimise L(f_theta'; query) over theta, through the inner gradient (second order)
or with that gradient as a constant (``second_order=false``, section 5.2).

Recipes: ``fomaml`` (first order), ``anil`` (``adapt=head``, Raghu et al. 2020), ``boil`` (``adapt=body``,
Oh et al. 2021), ``meta_sgd`` (``learn_rates=true``, Li et al. 2017), ``maml_pseudo`` (``pseudo_labels``).

Differs from the paper:
- the outer loss is the mean over tasks; ``sum_tasks`` gives the sum;
- evaluation of ``bn=transductive``, ``support`` and ``running`` beside the paper's, which is transductive.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.nn import Parameter, ParameterList

from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods.adapt import AdaptedParameters, Params
from fewshot.methods.fixed_ways import FixedWays
from fewshot.methods.predictor import ExtraLoss, Predictor
from fewshot.methods.pseudo_label import PseudoLabels
from fewshot.networks import Backbone, LinearClassifier, Prediction
from fewshot.networks.classifier import HeadInit, near_zero
from fewshot.networks.norm_layers import Statistics, normalising


class MAML(FixedWays):
    """Train a network that a few steps adapt.

    The steps are gradient steps on the support set of a task.

    Args:
        backbone: images to features.
        ways: N; the head has N outputs, in training as in evaluation.
        inner_rate: step size alpha of the inner loop.
        steps, test_steps: inner steps in training and in evaluation.
        second_order: differentiate through the inner gradient.
        adapt, rank: the adapted parameters, see ``fewshot.methods.adapt``.
        learn_rates: learn a rate for every adapted number, beginning at ``inner_rate``.
        pseudo_labels: a term of the inner loss on the unlabelled images of a task; None for no term.
        head_init: fills the weight of the head in place; None for a head near zero.
        base: see ``Method``.
    """

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        inner_rate: float,
        steps: int,
        test_steps: int,
        second_order: bool = True,
        adapt: str = "all",
        rank: int = 4,
        learn_rates: bool = False,
        pseudo_labels: PseudoLabels | None = None,
        head_init: HeadInit | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if min(steps, test_steps) < 1:
            raise UserError(
                f"method.steps={steps}, method.test_steps={test_steps}: the inner loop needs at least 1 step"
            )
        if pseudo_labels is not None and pseudo_labels.start >= min(steps, test_steps):
            raise UserError(
                f"method.pseudo_labels.start={pseudo_labels.start}: counted from 0, it must be below "
                f"method.steps={steps} and method.test_steps={test_steps}"
            )
        self.classifier = LinearClassifier(backbone, ways, head_init or near_zero)
        self.ways = ways
        self.inner_rate = inner_rate
        self.steps = steps
        self.test_steps = test_steps
        self.second_order = second_order
        self.pseudo_labels = pseudo_labels
        self.adapted = AdaptedParameters(self.classifier, adapt, rank)
        start = self.adapted.initial(dict(self.classifier.named_parameters()))
        self.rates = ParameterList(
            Parameter(value.detach().new_full(value.shape, inner_rate)) for value in start.values() if learn_rates
        )

    def fit_task(self, episode: Episode, extra: ExtraLoss | None = None) -> Predictor:
        self.refuse_other_ways(episode)
        support_x = episode.support_x
        support_y = episode.support_y
        params: Params = dict(self.classifier.named_parameters())
        pseudo = None if self.pseudo_labels is None else self.pseudo_labels(episode)

        def predict(fast: Params, x: Tensor) -> Prediction:
            with normalising(self.classifier, Statistics.BATCH):
                prediction: Prediction = functional_call(self.classifier, self.adapted.merge(params, fast), (x,))
                return prediction

        def loss(fast: Params, step: int) -> Tensor:
            prediction = predict(fast, support_x)
            value = episode.if_labeled(F.cross_entropy(prediction.logits, support_y))
            for term in (pseudo, extra):
                if term is not None:
                    value = value + term(prediction, lambda x: predict(fast, x), step)
            return value

        fast = self.adapted.initial(params)
        rates = dict(zip(fast, self.rates or [self.inner_rate] * len(fast), strict=True))
        fast = self.engine.descend(loss, fast, rates, self.inner_steps, self.second_order)
        return self.adapted_predictor(self.classifier, self.adapted.merge(params, fast), support_x)
