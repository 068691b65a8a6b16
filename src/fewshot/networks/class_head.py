"""Heads that tell all classes of a training set apart, and start anew for the classes of a task."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

Params = dict[str, Tensor]


class ClassHead(nn.Module, ABC):
    """Features ``(M, D)`` to logits ``(M, C)``; C is 0 until the data or a checkpoint says how many classes there are.

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
        """C."""
        return len(self.weight)

    def resize(self, classes: int) -> None:
        """Start anew with ``classes``, unless there are so many; before there is an optimiser of the parameters."""
        if classes != self.classes:
            self.weight = Parameter(self.weight.new_empty(classes, self.features))
            nn.init.uniform_(self.weight, -(self.features**-0.5), self.features**-0.5)  # as nn.Linear

    @abstractmethod
    def start(self, features: Tensor, labels: Tensor, ways: int) -> Params:
        """The parameters for the N classes of a task, whose support set has ``features`` and ``labels``."""


class LinearHead(ClassHead):
    """Affine; for a task it starts at 0, where no class is likelier than another."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.bias = Parameter(torch.zeros(0))

    def resize(self, classes: int) -> None:
        super().resize(classes)
        self.bias = Parameter(self.bias.new_zeros(classes))

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self.weight, self.bias)

    def start(self, features: Tensor, labels: Tensor, ways: int) -> Params:
        return {"weight": features.new_zeros(ways, self.features), "bias": features.new_zeros(ways)}


class CosineHead(ClassHead):
    """Cosine to a vector of each class, times a learned scale that starts at 10.

    For a task these vectors start at the class means of the normalised features (imprinting, Qi et al. 2018), since
    a cosine has no gradient at 0; the scale starts where training has brought it.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.log_scale = Parameter(torch.tensor(10.0).log())

    def forward(self, features: Tensor) -> Tensor:
        return self.log_scale.exp() * F.normalize(features) @ F.normalize(self.weight).T

    def start(self, features: Tensor, labels: Tensor, ways: int) -> Params:
        member = F.one_hot(labels, ways).to(features)
        means = (member.T @ F.normalize(features)) / member.sum(0)[:, None]
        return {"weight": means, "log_scale": self.log_scale}
