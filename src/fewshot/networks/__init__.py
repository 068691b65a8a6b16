"""Collect backbones, norms, heads and MetaGAN's networks."""

from fewshot.networks.backbone import Backbone, conv4, identity, mlp
from fewshot.networks.class_head import ClassHead, CosineHead, LinearHead
from fewshot.networks.classifier import Classifier, LinearClassifier, Prediction
from fewshot.networks.drop_block import DropBlock
from fewshot.networks.efficientnet_lite0 import efficientnet_lite0
from fewshot.networks.full_context import FullContext
from fewshot.networks.gan import Generator, TaskEncoder
from fewshot.networks.norm_layers import BatchNorm, GroupNorm
from fewshot.networks.pretrained import PretrainedBackbone, find_pretrained
from fewshot.networks.relation import RelationNetwork
from fewshot.networks.resnet12 import resnet12
from fewshot.networks.resnet18 import resnet18
from fewshot.networks.timm_backbone import timm_backbone
from fewshot.networks.transformers_backbone import transformers_backbone
from fewshot.networks.vector import VectorEncoder, VectorGenerator

__all__ = [
    "Backbone",
    "BatchNorm",
    "ClassHead",
    "Classifier",
    "CosineHead",
    "DropBlock",
    "FullContext",
    "Generator",
    "GroupNorm",
    "LinearClassifier",
    "LinearHead",
    "Prediction",
    "PretrainedBackbone",
    "RelationNetwork",
    "TaskEncoder",
    "VectorEncoder",
    "VectorGenerator",
    "conv4",
    "efficientnet_lite0",
    "find_pretrained",
    "identity",
    "mlp",
    "resnet12",
    "resnet18",
    "timm_backbone",
    "transformers_backbone",
]
