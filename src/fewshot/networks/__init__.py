"""Networks: backbones, norms, and MetaGAN's generator and task encoder."""

from fewshot.networks.backbone import Backbone, conv4, mlp
from fewshot.networks.classifier import LinearClassifier, Prediction
from fewshot.networks.gan import Generator, TaskEncoder
from fewshot.networks.norm import BatchNorm

__all__ = ["Backbone", "BatchNorm", "Generator", "LinearClassifier", "Prediction", "TaskEncoder", "conv4", "mlp"]
