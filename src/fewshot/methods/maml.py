"""Model-agnostic meta-learning.

Finn, Abbeel, Levine, "Model-agnostic meta-learning for fast adaptation of deep networks", ICML 2017.

Inner loop (eq. 1): theta' = theta - alpha * grad_theta L(f_theta; support), repeated ``steps`` times.
Outer loop (eq. 4): minimise L(f_theta'; query) over theta, through the inner gradient (second order)
or taking that gradient for a constant (``second_order=false``, section 5.2).

Recipes: ``fomaml`` (first order), ``anil`` (``adapt=head``, Raghu et al. 2020), ``boil`` (``adapt=body``,
Oh et al. 2021), ``meta_sgd`` (``learn_rates=true``, Li et al. 2017), ``maml_pseudo`` (``pseudo_labels``).

Differs from the paper:
- the outer loss is the mean over tasks; ``sum_tasks`` gives the sum;
- evaluation of ``bn=transductive``, ``support`` and ``running`` beside the paper's, which is transductive.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import Parameter, ParameterList

from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods.base import Method
from fewshot.methods.predictor import ExtraLoss, Predictor
from fewshot.methods.pseudo_label import PseudoLabels
from fewshot.networks import Backbone, LinearClassifier, Prediction
from fewshot.networks.classifier import HeadInit, near_zero
from fewshot.networks.norm import Statistics, normalising

ADAPT = ("all", "head", "body")


class MAML(Method):
    """A network that a few gradient steps fit to a task.

    Args:
        backbone: images to features.
        ways: N; the head has N outputs, in training as in evaluation.
        inner_rate: step size alpha of the inner loop.
        steps, test_steps: inner steps in training and in evaluation.
        second_order: differentiate through the inner gradient.
        adapt: which parameters the inner loop moves: ``all``, ``head`` or ``body``.
        learn_rates: learn a rate for every parameter, beginning at ``inner_rate``.
        pseudo_labels: a term of the inner loss on the unlabelled images of a task; None for none.
        head_init: fills the weight of the head in place; None for one near zero.
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
        learn_rates: bool = False,
        pseudo_labels: PseudoLabels | None = None,
        head_init: HeadInit | None = None,
        **base,
    ) -> None:
        super().__init__(**base)
        if adapt not in ADAPT:
            raise UserError(f"method.adapt={adapt}: choose one of {', '.join(ADAPT)}")
        if min(steps, test_steps) < 1:
            raise UserError(
                f"method.steps={steps}, method.test_steps={test_steps}: the inner loop needs at least 1 step"
            )
        if pseudo_labels is not None and pseudo_labels.start >= min(steps, test_steps):
            raise UserError(
                f"method.pseudo_labels.start={pseudo_labels.start}: counted from 0, it must be below "
                f"method.steps={steps} and method.test_steps={test_steps}"
            )
        self.learner = LinearClassifier(backbone, ways, head_init or near_zero)
        self.ways, self.inner_rate, self.steps, self.test_steps = ways, inner_rate, steps, test_steps
        self.second_order, self.pseudo_labels = second_order, pseudo_labels
        self.adapted = [
            name
            for name, _ in self.learner.named_parameters()
            if adapt == "all" or name.startswith("head.") == (adapt == "head")
        ]
        start = dict(self.learner.named_parameters())
        self.rates = ParameterList(
            Parameter(start[name].detach().new_full(start[name].shape, inner_rate))
            for name in self.adapted
            if learn_rates
        )

    @property
    def network(self) -> nn.Module:
        return self.learner

    @property
    def features(self) -> int:
        return self.learner.backbone.features

    @property
    def inner_steps(self) -> int:  # type: ignore[override]
        """How many inner steps the present mode takes."""
        return self.steps if self.training else self.test_steps

    def fit_task(self, episode: Episode, extra: ExtraLoss | None = None) -> Predictor:
        if episode.ways != self.ways:
            raise UserError(
                f"the classifier has {self.ways} outputs, but a task has {episode.ways} ways: "
                "this method needs task.train_ways equal to task.ways, and keeps the ways that it was trained on"
            )
        support_x, support_y = episode.support_x, episode.support_y
        start: dict[str, Tensor] = dict(self.learner.named_parameters())
        kept = {name: value for name, value in start.items() if name not in self.adapted}
        pseudo = None if self.pseudo_labels is None else self.pseudo_labels(episode)

        def predict(params: dict[str, Tensor], x: Tensor) -> Prediction:
            with normalising(self.learner, Statistics.BATCH):
                return functional_call(self.learner, kept | params, (x,))

        def loss(params: dict[str, Tensor], step: int) -> Tensor:
            prediction = predict(params, support_x)
            value = episode.if_labeled(F.cross_entropy(prediction.logits, support_y))
            for term in (pseudo, extra):
                if term is not None:
                    value = value + term(prediction, lambda x: predict(params, x), step)
            return value

        def query(params: dict[str, Tensor], x: Tensor) -> Prediction:
            output = self.run(self.learner, params, support_x, x)
            return Prediction(*(rows[-len(x) :] for rows in output))

        fast = {name: start[name] for name in self.adapted}
        rates = dict(zip(self.adapted, self.rates or [self.inner_rate] * len(self.adapted), strict=True))
        fast = self.engine.descend(loss, fast, rates, self.inner_steps, self.second_order)
        return Predictor(query, kept | fast)
