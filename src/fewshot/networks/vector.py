"""MetaGAN's task encoder and generator for data without space, such as points of the plane."""

import torch
from torch import Tensor, nn

from fewshot.networks.gan import Aggregation


class VectorEncoder(nn.Module):
    """``TaskEncoder`` with two hidden layers in place of convolutions.

    Args:
        channels, image_size: of what stands for images, all of whose numbers are one vector.
        width: of the hidden layers.
        features: length of h_T.
        aggregation: see ``Aggregation``.
    """

    def __init__(
        self, channels: int, image_size: int, width: int = 64, features: int = 32, aggregation: str = "mean"
    ) -> None:
        super().__init__()
        self.features, self.aggregate = features, Aggregation(features, aggregation)
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * image_size**2, width), nn.LeakyReLU(0.2),
            nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, features),
        )  # fmt: skip

    def forward(self, support_x: Tensor) -> Tensor:
        return self.aggregate(self.layers(support_x))


class VectorGenerator(nn.Module):
    """Noise ``(M, noise)`` and a task vector ``(condition,)`` to ``(M, C, S, S)`` in [-1, 1], by two hidden layers."""

    def __init__(self, channels: int, image_size: int, condition: int, noise: int = 8, width: int = 64) -> None:
        super().__init__()
        self.noise, self.shape = noise, (channels, image_size, image_size)
        self.layers = nn.Sequential(
            nn.Linear(noise + condition, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2),
            nn.Linear(width, channels * image_size**2), nn.Tanh(),
        )  # fmt: skip

    def forward(self, z: Tensor, task: Tensor) -> Tensor:
        return self.layers(torch.cat([z, task.expand(len(z), -1)], dim=1)).view(-1, *self.shape)
