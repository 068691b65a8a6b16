"""Make small random networks that stand for pretrained ones."""

import timm
import torch
from torch import nn

from fewshot.networks import PretrainedBackbone
from fewshot.networks.timm_backbone import wrap_timm

SIZE = 16


def network(name: str, frozen: bool = True) -> PretrainedBackbone:
    """Return a small network of timm for images of 16 pixels, with random weights of which none is 0."""
    options = {"img_size": SIZE, "patch_size": 8} if "vit" in name else {}
    torch.manual_seed(0)
    built = timm.create_model(name, num_classes=0, **options)
    for layer in built.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    for parameter in built.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return wrap_timm(built, name, frozen, image_size=SIZE)
