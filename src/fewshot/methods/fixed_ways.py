"""Methods whose whole classifier, of N outputs, gradient steps fit to a task."""

from torch import nn

from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods.adapt import Adaptation
from fewshot.methods.base import Method
from fewshot.networks import LinearClassifier


class FixedWays(Method):
    """What they share.

    Attributes:
        classifier: the classifier, of ``ways`` outputs.
        adaptation: what moves at test.
        steps, test_steps: inner steps in training and in evaluation.
    """

    classifier: LinearClassifier
    adaptation: Adaptation
    ways: int
    steps: int
    test_steps: int

    @property
    def network(self) -> nn.Module:
        return self.classifier

    @property
    def features(self) -> int:
        return self.classifier.backbone.features

    @property
    def inner_steps(self) -> int:  # type: ignore[override]
        """How many inner steps the present mode takes."""
        return self.steps if self.training else self.test_steps

    @property
    def adapted_parameters(self) -> int:
        return self.adaptation.count(dict(self.classifier.named_parameters()))

    def refuse_other_ways(self, episode: Episode) -> None:
        """Raise UserError where a task has not as many classes as the classifier has outputs."""
        if episode.ways != self.ways:
            raise UserError(
                f"the classifier has {self.ways} outputs, but a task has {episode.ways} ways: "
                "this method needs task.train_ways equal to task.ways, and keeps the ways that it was trained on"
            )
