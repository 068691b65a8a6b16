"""Train P>M>F: pretrain, meta-train, fine-tune.

Hu, Li, Stühmer, Kim, Hospedales, "Pushing the limits of simple pipelines for few-shot learning: external data and
fine-tuning make a difference", CVPR 2022.

1. A network is pretrained on other data: ``backbone=efficientnet_lite0`` or ``backbone=timm``.
2. The whole network is meta-trained as a prototypical network with cosines (section 3.2).
3. At test the network may be fine-tuned to each task (section 3.3): images made from the support set by augmentation
   are classified by the prototypes of the support set, for ``finetune_steps`` steps.

Differs from the paper:
- the fine-tuning is plain gradient descent, where the authors' code takes Adam;
- images are shifted with their edge repeated, where the authors' code fills with zeros;
- BatchNorm of a pretrained network keeps its statistics, also in training.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fewshot import rng
from fewshot.augment import colours, weak
from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods.adapt import Params
from fewshot.methods.predictor import ExtraLoss, Predictor
from fewshot.methods.protonet import ProtoNet
from fewshot.networks import Backbone
from fewshot.streams import TaskStream

SHIFT = 1 / 8  # of a side, as the authors' code


class PMF(ProtoNet):
    """Train a prototypical network, and fine-tune at test.

    Args:
        backbone: maps images to embeddings.
        finetune_steps: gradient steps on each task in evaluation; 0 for none.
        finetune_rate: step size of the fine-tuning.
        distance, scale: see ``ProtoNet``.
        base: see ``Method``.
    """

    def __init__(
        self,
        backbone: Backbone,
        finetune_steps: int = 0,
        finetune_rate: float = 0.001,
        distance: str = "cosine",
        scale: float | None = None,
        **base: Any,
    ) -> None:
        super().__init__(backbone, distance, scale, **base)
        if finetune_steps < 0:
            raise UserError(f"method.finetune_steps={finetune_steps}: must be at least 0")
        self.test_steps = finetune_steps
        self.finetune_rate = finetune_rate

    @property
    def inner_steps(self) -> int:  # type: ignore[override]
        """Return the number of fine-tuning steps now.

        In training the number is 0.
        """
        return 0 if self.training else self.test_steps

    @property
    def adapts_backbone(self) -> bool:
        return self.test_steps > 0

    @property
    def adapted_parameters(self) -> int:
        return sum(value.numel() for value in self.backbone.parameters()) if self.test_steps else 0

    def fit_task(self, episode: Episode, extra: ExtraLoss | None = None) -> Predictor:
        predict = super().fit_task(episode, extra)
        if not self.inner_steps:
            return predict
        if episode.support_x.shape[-2:] == (1, 1):
            raise UserError(f"method.finetune_steps={self.inner_steps}: needs images to change; set 0 for features")

        def loss(fast: Params, step: int) -> Tensor:
            views = self.views(episode, step)
            return F.cross_entropy(predict.function(predict.state | fast, views).logits, episode.support_y)

        fast = {name: value for name, value in predict.state.items() if name.startswith("backbone.")}
        rates = dict.fromkeys(fast, self.finetune_rate)
        fast = self.engine.descend(loss, fast, rates, self.inner_steps, second_order=False)
        return Predictor(predict.function, predict.state | fast)

    def views(self, episode: Episode, step: int) -> Tensor:
        """Change the support images of a task at random.

        Colours and places change, in another way at each step.
        """
        key = rng.bits(episode.key, TaskStream.FINETUNING, step)
        changed = colours(episode.support_x, key, TaskStream.COLOURS)
        return weak(changed, key, TaskStream.WEAK_AUGMENTATION, SHIFT)
