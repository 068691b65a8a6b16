"""Classify training classes or classes of a task.

A head starts anew for the classes of a task.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

Params = dict[str, Tensor]


class ClassHead(nn.Module, ABC):
    """Map features ``(M, D)`` to logits ``(M, C)``.

    C is 0 until the data or a checkpoint gives the number of classes.

    Attributes:
        weight: ``(C, D)``, a row a class.
    """

    weight: Parameter

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.weight = Parameter(torch.zeros(0, features))

    @property
    def classes(self) -> int:
        """Return C."""
        return len(self.weight)

    def resize(self, classes: int) -> None:
        """Start anew with another number of classes.

        Call this before an optimiser holds the parameters.
        """
        if classes != self.classes:
            trained = self.weight.requires_grad
            self.weight = Parameter(self.weight.new_empty(classes, self.features), trained)
            nn.init.uniform_(self.weight, -(self.features**-0.5), self.features**-0.5)  # like nn.Linear

    @abstractmethod
    def task_parameters(self, features: Tensor, labels: Tensor, ways: int) -> Params:
        """Return the first parameters for a task.

        Args:
            features: of the support images, ``(N*K, D)``.
            labels: ``(N*K,)``.
            ways: N.
        """


class LinearHead(ClassHead):
    """Map features affinely, from 0 for each task."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.bias = Parameter(torch.zeros(0))

    def resize(self, classes: int) -> None:
        """Start anew with another number of classes."""
        super().resize(classes)
        self.bias = Parameter(self.bias.new_zeros(classes), self.bias.requires_grad)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits."""
        return F.linear(features, self.weight, self.bias)

    def task_parameters(self, features: Tensor, labels: Tensor, ways: int) -> Params:
        """Return zeros."""
        return {"weight": features.new_zeros(ways, self.features), "bias": features.new_zeros(ways)}


class CosineHead(ClassHead):
    """Scale the cosine to each class vector.

    The scale is learned and starts at 10.

    For a task these vectors start at the class means of the normalised features (imprinting, Qi et al. 2018), since
    a cosine has no gradient at 0; the scale starts at its trained value.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.log_scale = Parameter(torch.tensor(10.0).log())

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits."""
        return self.log_scale.exp() * F.normalize(features) @ F.normalize(self.weight).T

    def task_parameters(self, features: Tensor, labels: Tensor, ways: int) -> Params:
        """Return class means and the trained scale.

        The means are of the normalised features.
        """
        member = F.one_hot(labels, ways).to(features)
        means = (member.T @ F.normalize(features)) / member.sum(0)[:, None]
        return {"weight": means, "log_scale": self.log_scale}
