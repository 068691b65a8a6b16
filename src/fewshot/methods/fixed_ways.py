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


def refuse_other_classes(method: Method, classes: int) -> None:
    """Refuse a support set that a fixed number of outputs cannot label.

    Raises:
        UserError: the numbers of classes differ.
    """
    host = getattr(method, "host", method)  # MetaGAN's
    if isinstance(host, FixedWays) and host.ways != classes:
        raise UserError(
            f"the network has {host.ways} outputs, but the support set has {classes} classes: give examples of "
            f"{host.ways} classes, or train with task.ways={classes} task.train_ways={classes}, or another method"
        )
