"""Build MetaGAN's networks for data without space.

Points are such data. The networks are the task encoder and the generator.
"""

import torch
from torch import Tensor, nn

from fewshot.networks.gan import Aggregation


class VectorEncoder(nn.Module):
    """Encode a support set by two hidden layers.

    The interface is the same as in ``TaskEncoder``.

    Args:
        channels, image_size: the shape of the data, whose numbers are taken as one vector.
        width: units of the hidden layers.
        features: length of h_T.
        aggregation: see ``Aggregation``.
    """

    def __init__(
        self, channels: int, image_size: int, width: int = 64, features: int = 32, aggregation: str = "mean"
    ) -> None:
        super().__init__()
        self.features = features
        self.aggregate = Aggregation(features, aggregation)
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * image_size**2, width), nn.LeakyReLU(0.2),
            nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, features),
        )  # fmt: skip

    def forward(self, support_x: Tensor) -> Tensor:
        """Return h_T."""
        code: Tensor = self.aggregate(self.layers(support_x))
        return code


class VectorGenerator(nn.Module):
    """Map noise and a task vector to data.

    The data have values in [-1, 1]; there are two hidden layers.

    Input: noise ``(M, noise)`` and a task vector ``(condition,)``. Output: ``(M, C, S, S)``.
    """

    def __init__(self, channels: int, image_size: int, condition: int, noise: int = 8, width: int = 64) -> None:
        super().__init__()
        self.noise = noise
        self.shape = (channels, image_size, image_size)
        self.layers = nn.Sequential(
            nn.Linear(noise + condition, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2),
            nn.Linear(width, channels * image_size**2), nn.Tanh(),
        )  # fmt: skip

    def forward(self, z: Tensor, task: Tensor) -> Tensor:
        """Return generated data."""
        flat: Tensor = self.layers(torch.cat([z, task.expand(len(z), -1)], dim=1))
        return flat.view(-1, *self.shape)
