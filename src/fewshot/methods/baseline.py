"""Train the methods Baseline and Baseline++.

Pretrain on all classes, then fit a new head to each task.

Chen, Liu, Kira, Wang, Huang, "A closer look at few-shot classification", ICLR 2019.

A network and a head are trained to tell all training classes apart, by cross-entropy on minibatches (section 3.1).
For a task the head is replaced by one of its N classes, which is fit to the support set over frozen features.
Baseline (``head=linear``) has a linear head, Baseline++ (``head=cosine``) the scaled cosine to a vector of each class.
Recipes: ``baseline``, ``baseline_pp``; ``adapt`` lets more than the head move: fine-tuning.

``solver=logistic`` (recipe ``logistic``) takes the linear head to the optimum of L2-regularised logistic regression, on
features of length 1: Tian, Wang, Krishnan, Tenenbaum, Isola, "Rethinking few-shot image classification: a good
embedding is all you need?", ECCV 2020. See ``fewshot.methods.logistic_regression``.

Differs from the paper:
- a head is fit by ``test_steps`` steps of gradient descent on the whole support set, where the paper takes 100
  epochs of minibatches of 4 with momentum, dampening and weight decay: without chance, and all tasks at once;
- it starts at 0 (linear) or at the class means (cosine), not at random;
- Baseline++ has one scale, learned, where the authors' code has one for each class;
- Tian et al. distil the network after pretraining and augment the support set, which is not done here;
- images of a minibatch are drawn independently, not in epochs, and augmented only where the data says so.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods.adapt import AdaptedParameters, Params
from fewshot.methods.logistic_regression import fit_logistic
from fewshot.methods.predictor import ExtraLoss, Predictor, module_state
from fewshot.methods.pretraining import Pretrained
from fewshot.networks import Backbone, CosineHead, LinearHead, Prediction
from fewshot.networks.norm_layers import Statistics, normalising

HEADS = {"linear": LinearHead, "cosine": CosineHead}
SOLVERS = ("gradient", "logistic")


class Baseline(Pretrained):
    """Pretrain a classifier, then fit heads to tasks.

    The classifier has all training classes; each task has a new head.

    Args:
        backbone: images to features.
        ways: N of the test tasks.
        head: ``linear`` or ``cosine``.
        inner_rate: step size of the fit.
        test_steps: steps of the fit.
        solver: ``gradient``, or ``logistic`` for the optimum of regularised logistic regression, which takes
            no ``inner_rate`` and no ``test_steps``.
        regularisation: lambda of the logistic regression; scikit-learn's C is 1 / lambda.
        normalise: give features length 1, before the logistic regression.
        adapt, rank: the adapted parameters, see ``fewshot.methods.adapt``.
        base: see ``Method``. Under ``bn=running`` the fit normalises by the averages of the pretraining,
            as in the paper; otherwise by the statistics of the support set.
    """

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        inner_rate: float,
        test_steps: int,
        head: str = "linear",
        adapt: str = "head",
        rank: int = 4,
        solver: str = "gradient",
        regularisation: float = 1.0,
        normalise: bool = False,
        **base: Any,
    ) -> None:
        if head not in HEADS:
            raise UserError(f"method.head={head}: choose one of {', '.join(HEADS)}")
        super().__init__(backbone, HEADS[head](backbone.features), **base)
        if solver not in SOLVERS:
            raise UserError(f"method.solver={solver}: choose one of {', '.join(SOLVERS)}")
        if solver == "logistic" and (head, adapt) != ("linear", "head"):
            raise UserError(
                f"method.solver=logistic fits a linear head alone: method.head={head} method.adapt={adapt} "
                "need method.solver=gradient"
            )
        if normalise and solver != "logistic":
            raise UserError(f"method.normalise=true needs method.solver=logistic, not {solver}")
        if regularisation <= 0:
            raise UserError(f"method.regularisation={regularisation}: must be above 0")
        if test_steps < 1:
            raise UserError(f"method.test_steps={test_steps}: must be at least 1")
        if head == "linear" and adapt == "body":
            raise UserError("method.adapt=body: a linear head starts at 0 and has to move; choose another setting")
        self.adapted = AdaptedParameters(self.classifier, adapt, rank)
        self.ways = ways
        self.inner_rate = inner_rate
        self.test_steps = test_steps if solver == "gradient" else 0
        self.solver = solver
        self.regularisation = regularisation
        self.normalise = normalise
        self.frozen = adapt == "head"

    @property
    def inner_steps(self) -> int:  # type: ignore[override]
        """Return the number of inner steps now.

        In training the number is 0, since minibatches share the weights.
        """
        return 0 if self.training else self.test_steps

    @property
    def adapted_parameters(self) -> int:
        labels = torch.arange(self.ways, device=self.head.weight.device)
        support = self.head.weight.new_ones(self.ways, self.features)
        return self.adapted.count(self._with_head(self.head.task_parameters(support, labels, self.ways)))

    def _with_head(self, head: Params) -> Params:
        """Return the network's parameters with another head."""
        return dict(self.classifier.named_parameters()) | {f"head.{name}": value for name, value in head.items()}

    def chunks(self, episodes: Episode) -> Iterator[Episode]:
        """Split a batch into pieces for the engine.

        The small systems of logistic regression are solved faster together, which images would not repay.
        """
        together = self.solver == "logistic" and not self.training and episodes.query_x.shape[-2:] == (1, 1)
        return self.engine.chunks(episodes, adapts=self.inner_steps > 0 or together)

    def fit_task(self, episode: Episode, extra: ExtraLoss | None = None) -> Predictor:
        support_x = episode.support_x
        support_y = episode.support_y
        backbone = self.backbone
        head = self.head
        source = Statistics.RUNNING if self.bn == "running" and not self.training else Statistics.BATCH

        def features(params: Params) -> Tensor:
            with normalising(backbone, source):
                output: Tensor = functional_call(backbone, module_state(params, "backbone"), (support_x,))
                return output

        unadapted = features(dict(self.classifier.named_parameters()))
        if self.solver == "logistic":
            weight, bias = fit_logistic(self._scaled(unadapted), support_y, episode.ways, self.regularisation)
            return self._linear_predictor({"weight": weight, "bias": bias}, support_x)
        params = self._with_head(head.task_parameters(unadapted, support_y, episode.ways))

        def loss(fast: Params, step: int) -> Tensor:
            full = self.adapted.merge(params, fast)
            support = unadapted if self.frozen else features(full)
            return F.cross_entropy(functional_call(head, module_state(full, "head"), (support,)), support_y)

        fast = self.adapted.initial(params)
        rates = dict.fromkeys(fast, self.inner_rate)
        fast = self.engine.descend(loss, fast, rates, self.test_steps, second_order=False)
        return self.adapted_predictor(self.classifier, self.adapted.merge(params, fast), support_x)

    def _scaled(self, features: Tensor) -> Tensor:
        return F.normalize(features) if self.normalise else features

    def _linear_predictor(self, head: Params, support_x: Tensor) -> Predictor:
        """Return the predictor of a linear head on scaled features."""

        def predict(state: Params, x: Tensor) -> Prediction:
            rows = self.forward_queries(self.backbone, module_state(state, "backbone"), support_x, x)
            features = rows[-len(x) :]
            return Prediction(
                functional_call(self.head, module_state(state, "head"), (self._scaled(features),)), features
            )

        return Predictor(predict, self._with_head(head))
