"""Few-shot methods, one file each."""

from fewshot.methods.base import Method
from fewshot.methods.maml import MAML
from fewshot.methods.metagan import MetaGAN
from fewshot.methods.nearest import NearestNeighbour
from fewshot.methods.protonet import ProtoNet

__all__ = ["MAML", "MetaGAN", "Method", "NearestNeighbour", "ProtoNet"]
