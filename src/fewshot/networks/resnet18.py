"""Build ResNet-18 (He, Zhang, Ren and Sun 2016)."""

from torch import Tensor, nn
from torch.nn import functional as F

from fewshot.networks.backbone import Backbone, kaiming, refuse_features
from fewshot.networks.convolution import Conv2d
from fewshot.networks.norm_layers import make_norm


class Block(nn.Module):
    """Add two convolutions to a shortcut.

    The convolutions are 3x3. The shortcut is the identity, or a 1x1 convolution where the shape changes.
    """

    def __init__(self, before: int, width: int, stride: int, norm: str) -> None:
        super().__init__()
        bias = norm == "none"
        self.layers = nn.Sequential(
            Conv2d(before, width, 3, stride, 1, bias=bias), make_norm(norm, width), nn.ReLU(),
            Conv2d(width, width, 3, 1, 1, bias=bias), make_norm(norm, width),
        )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != width:
            self.shortcut = nn.Sequential(Conv2d(before, width, 1, stride, bias=bias), make_norm(norm, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of the block."""
        return F.relu(self.layers(x) + self.shortcut(x))


def resnet18(
    channels: int, image_size: int, width: int = 64, small_images: bool = False, norm: str = "batch"
) -> Backbone:
    """Build a ResNet of eight blocks.

    A block has two convolutions; the mean over space follows.

    Args:
        channels, image_size: channels and side of the images; any size above 1.
        width: filters of the first two blocks; the number doubles three times.
        small_images: a 3x3 convolution first, in place of ImageNet's 7x7 of stride 2 and 3x3 max-pooling of stride 2.
        norm: see ``fewshot.networks.norm_layers``.
    """
    refuse_features(image_size)
    bias = norm == "none"
    if small_images:
        layers: list[nn.Module] = [Conv2d(channels, width, 3, 1, 1, bias=bias), make_norm(norm, width), nn.ReLU()]
    else:
        layers = [Conv2d(channels, width, 7, 2, 3, bias=bias), make_norm(norm, width), nn.ReLU()]
        layers.append(nn.MaxPool2d(3, 2, 1))
    before = width
    for number in range(8):
        after = width * 2 ** (number // 2)
        layers.append(Block(before, after, 2 if number in (2, 4, 6) else 1, norm))
        before = after
    return Backbone(before, kaiming(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())))
