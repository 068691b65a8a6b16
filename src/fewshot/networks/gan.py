"""Build MetaGAN's task encoder and conditional generator."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.errors import UserError

AGGREGATIONS = ("mean", "max", "attention")


class Aggregation(nn.Module):
    """Combine the codes of a set into one.

    Codes ``(M, features)`` give one ``(features,)``; the order of codes does not matter.

    ``mean`` and ``max`` over the set, or ``attention``: the mean under a softmax of one learned linear score a code.
    """

    def __init__(self, features: int, kind: str = "mean") -> None:
        super().__init__()
        if kind not in AGGREGATIONS:
            raise UserError(f"method.encoder.aggregation={kind}: choose one of {', '.join(AGGREGATIONS)}")
        self.kind = kind
        self.score = nn.Linear(features, 1, bias=False) if kind == "attention" else None

    def forward(self, codes: Tensor) -> Tensor:
        """Return the code of the set."""
        if self.score is not None:
            weights: Tensor = self.score(codes).softmax(0)
            return (weights * codes).sum(0)
        return codes.mean(0) if self.kind == "mean" else codes.amax(0)


class TaskEncoder(nn.Module):
    """Encode a support set as one vector.

    Images ``(K*N, C, H, W)`` give h_T ``(features,)``.

    Each image is encoded by three strided convolutions, then the codes are combined. No norm, so that the code of an
    image does not depend on the other images.

    Args:
        channels, image_size: channels and side of the square images.
        width: filters of the first convolution.
        features: length of h_T.
        aggregation: see ``Aggregation``.
    """

    def __init__(
        self, channels: int, image_size: int, width: int = 32, features: int = 256, aggregation: str = "mean"
    ) -> None:
        super().__init__()
        self.features = features
        self.aggregate = Aggregation(features, aggregation)
        side = -(-image_size // 8)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Flatten(), nn.Linear(2 * width * side * side, features), nn.LeakyReLU(0.2),
        )  # fmt: skip

    def forward(self, support_x: Tensor) -> Tensor:
        """Return h_T."""
        code: Tensor = self.aggregate(self.layers(support_x))
        return code


class Generator(nn.Module):
    """Map noise and a task vector to images.

    The images have values in [-1, 1].

    Input: noise ``(M, noise)`` and a task vector ``(condition,)``. Output: ``(M, C, S, S)``. A dense layer to
    ``S/4 x S/4 x 4 width``, then twice nearest upsampling and a 5x5 convolution to ``2 width``, ``width`` and C
    channels; LeakyReLU, tanh at the end, no norm.

    Args:
        channels, image_size: channels and side of the square images.
        condition: length of the task vector.
        noise: length of z.
        width: filters before the last convolution.
        slopes: slopes of the LeakyReLU after the dense layer and the first two convolutions; 1 for no activation.
    """

    def __init__(
        self,
        channels: int,
        image_size: int,
        condition: int,
        noise: int = 100,
        width: int = 16,
        slopes: tuple[float, float, float] = (0.2, 0.2, 0.2),
    ) -> None:
        super().__init__()
        if image_size == 1:
            raise UserError(
                "the generator makes images, and the data are features or points (1 x 1): method.generator and "
                "method.encoder of conf/tuned/gaussians_3w5s_metagan.yaml are for these"
            )
        if image_size % 4:
            raise ValueError(f"the generator upsamples twice: image_size={image_size} must be a multiple of 4")
        self.noise = noise
        self.width = width
        self.side = image_size // 4
        self.slopes = slopes
        self.dense = nn.Linear(noise + condition, 4 * width * self.side**2)
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 5, padding=2)
            for before, after in ((4 * width, 2 * width), (2 * width, width), (width, channels))
        )

    def forward(self, z: Tensor, task: Tensor) -> Tensor:
        """Return images."""
        x: Tensor = self.dense(torch.cat([z, task.expand(len(z), -1)], dim=1))
        x = x.view(len(z), 4 * self.width, self.side, self.side)
        for block, (conv, slope) in enumerate(zip(self.convs, self.slopes, strict=True)):
            x = F.leaky_relu(x, slope)
            x = conv(F.interpolate(x, scale_factor=2.0, mode="nearest") if block else x)
        return torch.tanh(x)
