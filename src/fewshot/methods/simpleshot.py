"""Classify by the nearest class mean of transformed features.

Wang, Chao, Weinberger, van der Maaten, "SimpleShot: Revisiting nearest-neighbor classification for few-shot learning",
arXiv 1911.04623, 2019.

A backbone is pretrained on all training classes by cross-entropy, or comes trained. Features x of a task become
    x - m           with m the mean over the base classes (section 3, "centering": C)
    x / |x|         ("L2-normalization": L2N)
and a query image has the class of the nearest mean of the support features of a class. The paper's UN is
``centre=none normalise=false``, L2N ``centre=none``, CL2N the default.

``power`` comes before: x becomes sign(x) |x|^power (Hu, Gripon, Pateux, "Leveraging the feature distribution in
transfer-based few-shot learning", ICANN 2021, eq. 1, power 0.5).

Differs from the papers:
- m can be the mean of the support set's class means, and is so where base classes are absent;
- ``metric=cosine`` compares to the class mean of length 1, in place of the squared distance to the class mean;
- the power transform takes negative features, keeps zeros, and has no normalisation of its own;
- m is the mean over at most 10,000 training images, evenly spaced; minibatches are drawn as for ``baseline``.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods.predictor import ExtraLoss, Predictor, module_state
from fewshot.methods.pretraining import Pretrained
from fewshot.methods.protonet import prototypes, squared_distances
from fewshot.networks import Backbone, LinearHead, Prediction
from fewshot.networks.norm_layers import Statistics, normalising

CENTRES = ("base", "support", "none")
METRICS = ("euclidean", "cosine")
BASE_IMAGES = 10_000


class SimpleShot(Pretrained):
    """Compare centred and normalised features to class means.

    Args:
        backbone: images to features.
        power: exponent of the features; None for features without a power transform.
        centre: subtract the mean of the ``base`` classes, of the ``support`` set, or ``none``. The base classes are
            the training classes of the run, and a checkpoint keeps their mean. Without base classes, as with a network
            that comes trained, ``base`` means ``support``.
        normalise: give features length 1.
        metric: ``euclidean`` (squared distance) or ``cosine``.
        scale: factor of the cosines or of the negative distances in the softmax.
        base: see ``Method``.
    """

    knownness_score = "logit"
    base_mean: Tensor
    base_count: Tensor

    def __init__(
        self,
        backbone: Backbone,
        power: float | None = None,
        centre: str = "base",
        normalise: bool = True,
        metric: str = "euclidean",
        scale: float = 10.0,
        **base: Any,
    ) -> None:
        super().__init__(backbone, LinearHead(backbone.features), **base)
        if centre not in CENTRES:
            raise UserError(f"method.centre={centre}: choose one of {', '.join(CENTRES)}")
        if metric not in METRICS:
            raise UserError(f"method.metric={metric}: choose one of {', '.join(METRICS)}")
        if power is not None and power <= 0:
            raise UserError(f"method.power={power}: must be above 0, or null")
        if scale <= 0:
            raise UserError(f"method.scale={scale}: must be above 0")
        self.power = power
        self.centre = centre
        self.normalise = normalise
        self.metric = metric
        self.scale = scale
        self.register_buffer("base_mean", torch.zeros(backbone.features))
        self.register_buffer("base_count", torch.tensor(0))  # images behind the mean

    def fit_task(self, episode: Episode, extra: ExtraLoss | None = None) -> Predictor:
        support_x = episode.support_x
        support_y = episode.support_y

        def predict(state: dict[str, Tensor], x: Tensor) -> Prediction:
            params = module_state(state, "classifier.backbone")
            features = self.forward_queries(self.backbone, params, support_x, x, joint=True)
            support, queries = self._raised(features).split([len(support_x), len(x)])
            if self.centre != "none":
                # Of class means, so that a class with many images weighs no more than others.
                mean = prototypes(support, support_y, episode.ways).mean(0)
                if self.centre == "base":
                    mean = torch.where(state["base_count"] > 0, state["base_mean"].to(mean), mean)
                support = support - mean
                queries = queries - mean
            if self.normalise:
                support = F.normalize(support)
                queries = F.normalize(queries)
            logits = self._logits_of(queries, prototypes(support, support_y, episode.ways))
            return Prediction(logits, features[len(support_x) :])

        return Predictor(predict, dict(self.named_parameters()) | dict(self.named_buffers(recurse=False)))

    def _raised(self, features: Tensor) -> Tensor:
        return features if self.power is None else features.sign() * features.abs().pow(self.power)

    def _logits_of(self, queries: Tensor, means: Tensor) -> Tensor:
        if self.metric == "cosine":
            return self.scale * F.normalize(queries) @ F.normalize(means).T
        return -self.scale * squared_distances(queries, means)

    # The mean of the base classes

    def _calibrate(self) -> None:
        """Prepare BatchNorm, then average the base classes.

        A run that only tests a checkpoint keeps the checkpoint's mean.
        """
        super()._calibrate()
        if self.trainer.state.fn == "fit" or not self.base_count:
            self._average_base_classes()

    def on_train_end(self) -> None:
        """Average the base classes with the last weights."""
        self._average_base_classes()

    @torch.no_grad()
    def _average_base_classes(self) -> None:
        if self.centre != "base":
            return
        source = Statistics.RUNNING if self.bn == "running" else Statistics.BATCH
        was_training = self.training
        self.eval()
        total = torch.zeros_like(self.base_mean)
        count = 0
        with normalising(self.backbone, source):
            for images in self.trainer.datamodule.training_images(BASE_IMAGES, self.device):  # type: ignore[attr-defined]
                total += self._raised(functional_call(self.backbone, {}, (images,))).sum(0)
                count += len(images)
        self.train(was_training)
        self.base_mean.copy_(total / count)
        self.base_count.fill_(count)
