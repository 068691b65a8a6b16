"""Train the methods Baseline and Baseline++.

Pretrain on all classes, then fit a new head to each task.

Chen, Liu, Kira, Wang, Huang, "A closer look at few-shot classification", ICLR 2019.

A network and a head are trained to tell all training classes apart, by cross-entropy on minibatches (section 3.1).
For a task the head is replaced by one of its N classes, which is fit to the support set over frozen features.
Baseline (``head=linear``) has a linear head, Baseline++ (``head=cosine``) the scaled cosine to a vector of each class.
Recipes: ``baseline``, ``baseline_pp``; ``adapt`` lets more than the head move: fine-tuning.

Differs from the paper:
- a head is fit by ``test_steps`` steps of gradient descent on the whole support set, where the paper takes 100
  epochs of minibatches of 4 with momentum, dampening and weight decay: without chance, and all tasks at once;
- it starts at 0 (linear) or at the class means (cosine), not at random;
- Baseline++ has one scale, learned, where the authors' code has one for each class;
- images of a minibatch are drawn independently, not in epochs, and augmented only where the data says so.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fewshot.data.batches import ClassBatches
from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods.adapt import AdaptedParameters, Params
from fewshot.methods.base import Method, Terms
from fewshot.methods.predictor import ExtraLoss, Predictor, module_state
from fewshot.networks import Backbone, ClassHead, Classifier, CosineHead, LinearHead
from fewshot.networks.norm_layers import Statistics, normalising

HEADS = {"linear": LinearHead, "cosine": CosineHead}


class Baseline(Method):
    """Pretrain a classifier, then fit heads to tasks.

    The classifier has all training classes; each task has a new head.

    Args:
        backbone: images to features.
        ways: N of the test tasks.
        head: ``linear`` or ``cosine``.
        inner_rate: step size of the fit.
        test_steps: steps of the fit.
        adapt, rank: the adapted parameters, see ``fewshot.methods.adapt``.
        base: see ``Method``. Under ``bn=running`` the fit normalises by the averages of the pretraining,
            as in the paper; otherwise by the statistics of the support set.
    """

    stores_statistics = True

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        inner_rate: float,
        test_steps: int,
        head: str = "linear",
        adapt: str = "head",
        rank: int = 4,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if head not in HEADS:
            raise UserError(f"method.head={head}: choose one of {', '.join(HEADS)}")
        if test_steps < 1:
            raise UserError(f"method.test_steps={test_steps}: must be at least 1")
        if head == "linear" and adapt == "body":
            raise UserError("method.adapt=body: a linear head starts at 0 and has to move; choose another setting")
        self.classifier = Classifier(backbone, HEADS[head](backbone.features))
        self.adapted = AdaptedParameters(self.classifier, adapt, rank)
        self.ways = ways
        self.inner_rate = inner_rate
        self.test_steps = test_steps
        self.frozen = adapt == "head"

    def setup(self, stage: str) -> None:
        """Give the head an output for each class.

        The classes are the training classes of the data.

        Raises:
            UserError: the data draws tasks, or the head has weights for another number of classes.
        """
        if stage != "fit":
            return
        batches = self.trainer.datamodule.sampler("train")  # type: ignore[attr-defined]
        if not isinstance(batches, ClassBatches):
            raise UserError("this method is trained on minibatches of all classes: it needs train_task=classes")
        head = self.head
        if head.classes not in (0, batches.ways):
            raise UserError(
                f"the classifier has {head.classes} outputs, but the data has {batches.ways} training classes: "
                "start without its checkpoint or weights, or set train=false to test it"
            )
        head.resize(batches.ways)

    @property
    def network(self) -> nn.Module:
        return self.classifier

    @property
    def head(self) -> ClassHead:
        """Return the head of the training classes."""
        assert isinstance(self.classifier.head, ClassHead)
        return self.classifier.head

    @property
    def features(self) -> int:
        return self.classifier.backbone.features

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

    def task_terms(self, episode: Episode) -> Terms:
        """Return the terms of one pretraining minibatch."""
        predict = self.adapted_predictor(self.classifier, dict(self.classifier.named_parameters()), episode.support_x)
        return self.query_terms(predict, episode)

    def fit_task(self, episode: Episode, extra: ExtraLoss | None = None) -> Predictor:
        support_x = episode.support_x
        support_y = episode.support_y
        backbone = self.classifier.backbone
        head = self.head
        source = Statistics.RUNNING if self.bn == "running" and not self.training else Statistics.BATCH

        def features(params: Params) -> Tensor:
            with normalising(backbone, source):
                output: Tensor = functional_call(backbone, module_state(params, "backbone"), (support_x,))
                return output

        unadapted = features(dict(self.classifier.named_parameters()))
        params = self._with_head(head.task_parameters(unadapted, support_y, episode.ways))

        def loss(fast: Params, step: int) -> Tensor:
            full = self.adapted.merge(params, fast)
            support = unadapted if self.frozen else features(full)
            return F.cross_entropy(functional_call(head, module_state(full, "head"), (support,)), support_y)

        fast = self.adapted.initial(params)
        rates = dict.fromkeys(fast, self.inner_rate)
        fast = self.engine.descend(loss, fast, rates, self.test_steps, second_order=False)
        return self.adapted_predictor(self.classifier, self.adapted.merge(params, fast), support_x)
