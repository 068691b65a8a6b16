"""Hold a pretrained network as a backbone.

The preprocessing of the images belongs to the network: the data follow the network. Its BatchNorm layers stay in
evaluation mode, dropout and stochastic depth do nothing, so that a forward pass has no memory and no chance.
"""

from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fewshot.data.image_conversion import Decoding
from fewshot.networks.backbone import Backbone
from fewshot.networks.norm_layers import GroupNorm

RGB = 3


class PretrainedBackbone(Backbone):
    """Map pixels to the pooled features of a pretrained network.

    Args:
        network: maps normalised images ``(M, 3, S, S)`` to features ``(M, features)``.
        features: the number of features.
        decoding: how an image file becomes the pixels that the network was trained on.
        mean, std: of each channel, for pixels in [0, 1].
        name: of the network, for messages.
        frozen: train no parameter. Methods that adapt to a task may still adapt the parameters.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        features: int,
        decoding: Decoding,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        name: str,
        frozen: bool = True,
    ) -> None:
        super().__init__(features, with_own_group_norms(network))
        self.decoding = decoding
        self.name = name
        self.frozen = frozen
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        self.requires_grad_(not frozen)
        self.eval()

    def train(self, mode: bool = True) -> "PretrainedBackbone":
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``(M, D)``.

        Images ``(M, C, H, W)`` hold pixels in [0, 1]; a grey image has its channel three times, and images of another
        size are resized. Features ``(M, D, 1, 1)``, computed before, are returned as ``(M, D)``.
        """
        if self.is_computed(x):
            return x.flatten(1)
        if x.shape[1] == 1:
            x = x.expand(-1, RGB, -1, -1)
        if x.shape[2] != self.decoding.image_size:
            x = resize(x, self.decoding)
        with plain_attention() if torch.is_grad_enabled() else nullcontext():
            return super().forward((x - self.mean) / self.std)

    def is_computed(self, x: Tensor) -> bool:
        """Tell whether ``x`` are features, not images.

        Features are ``(..., D, 1, 1)``.
        """
        return x.shape[-3:] == (self.features, 1, 1)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Return features ``(M, D)`` of pixels.

        Pixels are ``(M, 3, S, S)`` uint8; features lie on the CPU.
        """
        x = pixels.to(self.mean.device).to(self.mean.dtype) / 255
        features: Tensor = self(x.contiguous(memory_format=torch.channels_last))
        return features.float().cpu()

    def digest(self) -> str:
        """Hash the weights and the normalisation."""
        digest = sha256(repr((self.name, self.mean.tolist(), self.std.tolist())).encode())
        for name, value in self.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def plain_attention() -> AbstractContextManager[None]:
    """Compute attention by matrix products in this context.

    The fused kernels have no second derivative, and under ``vmap`` they run image by image.
    """
    context: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return context


def with_own_group_norms(network: nn.Module) -> nn.Module:
    """Replace the group norms of a network in place.

    ``nn.GroupNorm`` and its descendants in timm, which may have an activation, fail under ``vmap``.
    """
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.GroupNorm) and not isinstance(layer, GroupNorm):
                setattr(parent, name, _of_other(layer))
    return network


class _ActivatedGroupNorm(GroupNorm):
    """Normalise groups of channels, then apply a function."""

    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated features."""
        features: Tensor = self.act(super().forward(x))
        return features


def _of_other(layer: nn.GroupNorm) -> GroupNorm:
    """Return our group norm with the parameters of another."""
    act = getattr(layer, "act", None)
    own = (GroupNorm if act is None else _ActivatedGroupNorm)(layer.num_groups, layer.num_channels, layer.eps)
    own.weight = layer.weight
    own.bias = layer.bias
    if act is not None:
        own.act = act
    return own


def resize(x: Tensor, decoding: Decoding) -> Tensor:
    """Resize square images as files are decoded.

    Images ``(M, C, H, H)`` with values in [0, 1] become ``(M, C, S, S)``. Unlike Pillow's, the values are not rounded.
    """
    scale = decoding.scale or decoding.image_size
    mode = "bilinear" if decoding.resampling == "bilinear" else "bicubic"
    enlarged = F.interpolate(x, (scale, scale), mode=mode, antialias=True).clamp(0, 1)
    start = round((scale - decoding.image_size) / 2)
    end = start + decoding.image_size
    return enlarged[:, :, start:end, start:end]


def find_pretrained(network: nn.Module) -> PretrainedBackbone | None:
    """Return the pretrained backbone in a network, if any."""
    return next((module for module in network.modules() if isinstance(module, PretrainedBackbone)), None)


def count_features(network: nn.Module, size: int) -> int:
    """Return the length of a network's features.

    One blank image is passed, since the libraries' own numbers leave out some last layers.
    """
    parameter = next(network.parameters())
    with torch.no_grad():
        features: Tensor = network(torch.zeros(1, RGB, size, size, device=parameter.device, dtype=parameter.dtype))
    return features.shape[1]
