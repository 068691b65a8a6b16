"""Build the ResNet-12 of few-shot learning."""

from collections.abc import Sequence

from torch import Tensor, nn

from fewshot.networks.backbone import Backbone, kaiming, refuse_features
from fewshot.networks.convolution import Conv2d
from fewshot.networks.drop_block import DropBlock
from fewshot.networks.norm_layers import make_norm

_SLOPE = 0.1


class Block(nn.Module):
    """Add three convolutions to a shortcut, then pool.

    The convolutions are 3x3, the shortcut is a 1x1 convolution; pooling is 2x2 max-pooling. DropBlock, if given, is
    last.
    """

    def __init__(self, before: int, width: int, norm: str, drop: DropBlock | None) -> None:
        super().__init__()
        bias = norm == "none"
        layers: list[nn.Module] = []
        for number in range(3):
            layers += [Conv2d(width if number else before, width, 3, padding=1, bias=bias), make_norm(norm, width)]
            layers += [nn.LeakyReLU(_SLOPE)] if number < 2 else []
        self.layers = nn.Sequential(*layers)
        self.shortcut = nn.Sequential(Conv2d(before, width, 1, bias=bias), make_norm(norm, width))
        self.end = nn.Sequential(nn.LeakyReLU(_SLOPE), nn.MaxPool2d(2), *([drop] if drop else []))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of the block."""
        features: Tensor = self.end(self.layers(x) + self.shortcut(x))
        return features


def resnet12(
    channels: int,
    image_size: int,
    widths: Sequence[int] = (64, 160, 320, 640),
    drop_rate: float = 0.1,
    block_size: int = 5,
    norm: str = "batch",
) -> Backbone:
    """Build a ResNet of four blocks.

    A block has three convolutions; the mean over space follows.

    The blocks are as in MetaOptNet (Lee et al. 2019) and RFS. Differs from their code: DropBlock has one rate from the
    first step on, and the first two blocks no dropout.

    Args:
        channels, image_size: channels and side of the square images.
        widths: filters of each block.
        drop_rate, block_size: of DropBlock in the last two blocks.
        norm: see ``fewshot.networks.norm_layers``.
    """
    refuse_features(image_size)
    if image_size < 2 ** len(widths):
        raise ValueError(f"images of {image_size} x {image_size} are too small for {len(widths)} poolings")
    blocks: list[nn.Module] = []
    for number, (before, width) in enumerate(zip([channels, *widths], widths, strict=False)):
        last = number >= len(widths) - 2
        blocks.append(Block(before, width, norm, DropBlock(drop_rate, block_size) if last else None))
    layers = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Backbone(widths[-1], kaiming(layers, _SLOPE))
