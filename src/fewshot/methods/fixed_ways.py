"""Share code between methods with N outputs.

The methods adapt a classifier of N outputs.
"""

from torch import nn

from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods.adapt import AdaptedParameters
from fewshot.methods.base import Method
from fewshot.networks import LinearClassifier


class FixedWays(Method):
    """Adapt a classifier of N outputs by gradient steps.

    Attributes:
        classifier: the classifier, of ``ways`` outputs.
        adapted: the parameters that adapt at test.
        steps, test_steps: inner steps in training and in evaluation.
    """

    classifier: LinearClassifier
    adapted: AdaptedParameters
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
        """Return the inner steps of the present mode."""
        return self.steps if self.training else self.test_steps

    @property
    def adapted_parameters(self) -> int:
        return self.adapted.count(dict(self.classifier.named_parameters()))

    def refuse_other_ways(self, episode: Episode) -> None:
        """Refuse a task with another number of classes.

        The classifier has one output for each class.

        Raises:
            UserError: the numbers differ.
        """
        if episode.ways != self.ways:
            raise UserError(
                f"the classifier has {self.ways} outputs, but a task has {episode.ways} ways: "
                "this method needs task.train_ways equal to task.ways, and keeps the ways that it was trained on"
            )
