"""Build the Omniglot networks of learn2learn 0.2.

The initialisation is learn2learn's too.

The source is ``learn2learn/vision/models/cnn4.py``. The heads start differently from MAML's heads here: standard normal
after the CNN, and like the other linear layers after the FC network. A recipe sets this by ``head_init``.
"""

from collections.abc import Sequence

from torch import nn

from fewshot.networks.backbone import Backbone, conv4, mlp
from fewshot.networks.norm_layers import batch_norms


def omniglot_cnn(channels: int, image_size: int, width: int = 128, depth: int = 3) -> Backbone:
    """Build ``OmniglotCNN``: convolution blocks, then the mean.

    A block is a 3x3 convolution of stride 2, batch norm and ReLU.

    Convolutions start Xavier-uniform with zero biases, the scale of a norm uniform in (0, 1).
    """
    backbone = conv4(channels, image_size, width, depth)
    for layer in batch_norms(backbone):
        nn.init.uniform_(layer.weight)
    return backbone


def omniglot_fc(channels: int, image_size: int, widths: Sequence[int] = (256, 128, 64, 64)) -> Backbone:
    """Build ``OmniglotFC``: linear, batch norm (epsilon 1e-3), ReLU.

    Weights start normal with standard deviation 0.01, cut at two standard deviations.
    """
    backbone = mlp(channels, image_size, widths)
    for layer in backbone.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
    for norm in batch_norms(backbone):
        norm.eps = 1e-3
    return backbone
