"""Refuse layers that cannot see many tasks at once.

A forward pass has no memory (``vmap`` forbids writing into buffers, and running averages belong to the meta-batch),
and chance is a function of the task's key, so that a result does not depend on what was drawn before.

``nn.LayerNorm`` and affine ``nn.InstanceNorm2d`` are accepted: their second derivatives are wrong where
``torch.func.grad`` is called inside ``torch.func.vmap`` (torch 2.13), and right in our engines, which differentiate
below ``vmap``. A test compares both with finite differences.

The layers of a ``PretrainedBackbone`` are accepted: they stay in evaluation mode, without state and chance.
"""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from fewshot.errors import UserError
from fewshot.networks.norm_layers import GroupNorm
from fewshot.networks.pretrained import PretrainedBackbone

_CHANCE = (_DropoutNd, nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)
_STOCHASTIC_DEPTH = ("DropPath", "StochasticDepth")  # of libraries that nobody needs to install


def refuse_layers(module: nn.Module) -> None:
    """Check every layer of a network.

    Raises:
        UserError: a layer keeps state or draws random numbers in its forward pass, or fails under ``vmap``.
    """
    pretrained = {
        id(part) for found in module.modules() if isinstance(found, PretrainedBackbone) for part in found.modules()
    }
    for name, layer in module.named_modules():
        reason = "" if id(layer) in pretrained else _reason(layer)
        if reason:
            raise UserError(f"the network has the layer {name or 'it is made of'}, {type(layer).__name__}: {reason}")


def _reason(layer: nn.Module) -> str:
    """Return why a layer is refused.

    The text also names a replacement; the text is empty for accepted layers.
    """
    if isinstance(layer, _BatchNorm):
        return "it does not know the tasks and follows no method.bn: use fewshot.networks.BatchNorm"
    if isinstance(layer, _InstanceNorm) and layer.track_running_stats:
        return "its running averages move in the forward pass: leave out track_running_stats"
    if isinstance(layer, nn.GroupNorm) and not isinstance(layer, GroupNorm):
        return "it fails under vmap: use fewshot.networks.GroupNorm, with the same arguments"
    if isinstance(layer, _CHANCE) or type(layer).__name__ in _STOCHASTIC_DEPTH:
        return "its random numbers are not a function of the task: use fewshot.networks.DropBlock, or leave it out"
    return ""
