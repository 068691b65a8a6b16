"""Build the networks of a Keras MetaGAN.

The source, in TensorFlow 2, is "Implementation of MetaGAN: an adversarial approach to few-shot learning",
spktsagar.com/posts/2020/03/impl-metagan. Weights start Glorot-uniform and biases at zero; LeakyReLU has slope 0.3,
batch norm epsilon 1e-3.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.networks.backbone import Backbone, refuse_features, xavier
from fewshot.networks.gan import Generator, TaskEncoder
from fewshot.networks.norm_layers import BatchNorm

_SLOPE = 0.3
_EPS = 1e-3


class SameConv2d(nn.Conv2d):
    """Convolve with the padding of TensorFlow.

    The output has size ``ceil(size / stride)``; an odd zero lies right and below.
    """

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1) -> None:
        super().__init__(before, after, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved images."""
        kernel = self.kernel_size[0]
        stride = self.stride[0]
        padding: list[int] = []
        for size in (x.shape[-1], x.shape[-2]):  # F.pad begins with the last axis
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(x, padding))


def classifier_body(channels: int, image_size: int, width: int = 64, depth: int = 4) -> Backbone:
    """Build convolution blocks and a flattening layer.

    A block is a 3x3 convolution of stride 2, batch norm and ReLU.
    """
    layers: list[nn.Module] = []
    for block in range(depth):
        layers += [SameConv2d(width if block else channels, width, 3, 2), BatchNorm(width, eps=_EPS), nn.ReLU()]
    refuse_features(image_size)
    side = -(-image_size // 2**depth)
    return Backbone(width * side**2, xavier(nn.Sequential(*layers, nn.Flatten())), (width, side, side))


def task_encoder(
    channels: int, image_size: int, width: int = 64, features: int = 256, aggregation: str = "mean"
) -> TaskEncoder:
    """Build six convolutions and a dense layer.

    The convolutions are 3x3, every second of stride 2. Filters are 1, 1, 2, 2, 4 and 4 times ``width``. The blog's
    dropout is left out: the blog calls dropout outside of training mode, where dropout does nothing.
    """
    layers: list[nn.Module] = []
    before = channels
    for block in range(6):
        after = width * 2 ** (block // 2)
        layers += [SameConv2d(before, after, 3, 1 + block % 2), nn.LeakyReLU(_SLOPE)]
        before = after
    side = -(-image_size // 8)
    layers += [nn.Flatten(), nn.Linear(before * side**2, features), nn.LeakyReLU(_SLOPE)]
    encoder = TaskEncoder(channels, image_size, width, features, aggregation)
    encoder.layers = xavier(nn.Sequential(*layers))
    return encoder


def generator(channels: int, image_size: int, condition: int, noise: int = 100, width: int = 64) -> Generator:
    """Build a generator with three 5x5 convolutions.

    No activation follows the dense layer. The 5x5 convolutions have stride 1, where TensorFlow's padding is the usual
    padding.
    """
    return xavier(Generator(channels, image_size, condition, noise, width, slopes=(1.0, _SLOPE, _SLOPE)))
