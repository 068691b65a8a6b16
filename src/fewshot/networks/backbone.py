"""Build backbones of MAML and prototypical networks."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from fewshot.errors import UserError
from fewshot.networks.convolution import Conv2d
from fewshot.networks.norm_layers import make_norm

Network = TypeVar("Network", bound=nn.Module)


class Backbone(nn.Module):
    """Map images to features.

    Images are ``(M, C, H, W)``, features ``(M, features)``.

    Args:
        features: the number of features.
        layers: map images to features.
        shape: (channels, height, width) of the features before they were flattened.
    """

    def __init__(self, features: int, layers: nn.Module, shape: tuple[int, int, int] | None = None) -> None:
        super().__init__()
        self.features = features
        self.layers = layers
        self.shape = shape or (features, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of images."""
        features: Tensor = self.layers(x)
        return features


class MeanOverSpace(nn.Module):
    """Average features ``(M, C, H, W)`` over space."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the means."""
        return x.mean((2, 3))


def refuse_features(image_size: int) -> None:
    """Refuse data without space, such as features.

    Of an image of 1 x 1 a 3x3 convolution sees one number and eight zeros.

    Raises:
        UserError: the image has one pixel.
    """
    if image_size == 1:
        raise UserError(
            "this network convolves images, and the data are features or points (1 x 1): choose backbone=mlp or "
            "backbone=identity"
        )


def conv4(
    channels: int,
    image_size: int,
    width: int | Sequence[int] = 64,
    depth: int = 4,
    stride: bool = True,
    mean_over_space: bool = True,
    norm: str = "batch",
    pooled: int | None = None,
    unshuffle: int = 1,
) -> Backbone:
    """Build blocks of 3x3 convolution, norm and ReLU.

    Args:
        channels, image_size: channels and side of the square images.
        width: filters of each block, one number for all blocks or one number a block.
        depth: number of blocks.
        stride: halve the image by stride 2 (MAML on Omniglot, Finn et al. 2017) or by 2x2 max-pooling
            (matching and prototypical networks, Snell et al. 2017).
        mean_over_space: features are the mean over the remaining space, else the flattened maps.
        norm: see ``fewshot.networks.norm_layers``.
        pooled: how many of the first blocks halve the image; None for all blocks.
        unshuffle: make the pixels of each square, of this side, channels of one pixel, before the first block
            (Shi et al. 2016, the inverse of their sub-pixel shuffle): finer images for little more work.

    Raises:
        ValueError: the numbers of widths and blocks differ, or the image's side is too small or no multiple of
            ``unshuffle``.
        UserError: the data are features.
    """
    refuse_features(image_size)
    if unshuffle < 1 or image_size % unshuffle:
        raise ValueError(f"unshuffle={unshuffle}: must be a whole number that divides the image's side, {image_size}")
    widths = [width] * depth if isinstance(width, int) else list(width)
    if len(widths) != depth:
        raise ValueError(f"{depth} blocks, but filters of {len(widths)}")
    layers: list[nn.Module] = [nn.PixelUnshuffle(unshuffle)] if unshuffle > 1 else []
    size = image_size // unshuffle
    for block, (before, filters) in enumerate(pairwise([channels * unshuffle**2, *widths])):
        halve = pooled is None or block < pooled
        step = 2 if stride and halve else 1
        layers.append(Conv2d(before, filters, 3, stride=step, padding=1))
        layers.append(make_norm(norm, filters))
        if not stride and halve:
            layers.append(nn.MaxPool2d(2))
        layers.append(nn.ReLU())  # after the pooling: the same values from a quarter of the work
        size = ((size + 1) // 2 if stride else size // 2) if halve else size
    if size < 1:
        raise ValueError(f"images of {image_size} x {image_size} are too small for {depth} poolings")
    layers.append(MeanOverSpace() if mean_over_space else nn.Flatten())
    network = xavier(nn.Sequential(*layers)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    shape = (widths[-1], 1, 1) if mean_over_space else (widths[-1], size, size)
    return Backbone(math.prod(shape), network, shape)


def mlp(channels: int, image_size: int, widths: Sequence[int] = (256, 128, 64, 64), norm: str = "batch") -> Backbone:
    """Build the fully connected network of MAML.

    A layer is linear, norm and ReLU (Finn et al. 2017).
    """
    layers: list[nn.Module] = [nn.Flatten()]
    before = channels * image_size**2
    for width in widths:
        layers += [nn.Linear(before, width), make_norm(norm, width), nn.ReLU()]
        before = width
    return Backbone(before, xavier(nn.Sequential(*layers)))


def identity(channels: int, image_size: int, norm: str = "none") -> Backbone:
    """Return images or features without a change.

    There is nothing to train. Images ``(M, C, S, S)`` become ``(M, C * S * S)``.

    Args:
        channels, image_size: C and S.
        norm: of heads that follow the setting of their backbone; there is no layer here.
    """
    shape = (channels, image_size, image_size)
    return Backbone(math.prod(shape), nn.Flatten(), shape)


def xavier(module: Network) -> Network:
    """Set Xavier-uniform weights and zero biases (MAML code)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


def kaiming(module: Network, slope: float = 0.0) -> Network:
    """Set normal convolution weights and zero biases.

    The initialisation is that of He et al. (2015). The variance is the one that (leaky) ReLUs keep in the backward
    pass.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, slope, mode="fan_out", nonlinearity="leaky_relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module
