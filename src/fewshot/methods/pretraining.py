"""Pretrain a classifier on minibatches of all training classes.

The methods that build on the class ``Pretrained`` differ in how the backbone serves a task.
"""

from typing import Any

from torch import nn

from fewshot.data.batches import ClassBatches
from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods.base import Method, Terms
from fewshot.networks import Backbone, ClassHead, Classifier, LinearHead


class Pretrained(Method):
    """Train a backbone and a head by cross-entropy.

    A step takes minibatches of the training classes. The head has an output for each of these classes, and is not used
    for tasks.

    Args:
        backbone: images to features.
        head: of the training classes.
        base: see ``Method``.
    """

    stores_statistics = True

    def __init__(self, backbone: Backbone, head: ClassHead, **base: Any) -> None:
        super().__init__(**base)
        self.classifier = Classifier(backbone, head)
        # A linear head only teaches the backbone: beside a backbone that learns nothing, the head is not trained.
        # A cosine head has a scale, which tasks use.
        if isinstance(head, LinearHead) and not any(weight.requires_grad for weight in backbone.parameters()):
            head.requires_grad_(False)

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
    def backbone(self) -> Backbone:
        return self.classifier.backbone

    @property
    def head(self) -> ClassHead:
        """Return the head of the training classes."""
        assert isinstance(self.classifier.head, ClassHead)
        return self.classifier.head

    @property
    def features(self) -> int:
        return self.backbone.features

    def task_terms(self, episode: Episode) -> Terms:
        """Return the terms of one pretraining minibatch."""
        predict = self.adapted_predictor(self.classifier, dict(self.classifier.named_parameters()), episode.support_x)
        return self.query_terms(predict, episode)
