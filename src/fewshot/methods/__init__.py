"""Collect the few-shot methods, one file each."""

from fewshot.methods.base import Method
from fewshot.methods.baseline import Baseline
from fewshot.methods.maml import MAML
from fewshot.methods.matching import MatchingNet
from fewshot.methods.metagan import MetaGAN
from fewshot.methods.n_pair import NPair
from fewshot.methods.nearest import NearestNeighbour
from fewshot.methods.pmf import PMF
from fewshot.methods.protonet import ProtoNet
from fewshot.methods.pseudo_label import PseudoLabels
from fewshot.methods.relation import RelationNet
from fewshot.methods.reptile import Reptile
from fewshot.methods.ridge import Ridge
from fewshot.methods.simpleshot import SimpleShot
from fewshot.methods.soft_kmeans import MaskedSoftKMeans, SoftKMeans

__all__ = [
    "MAML",
    "PMF",
    "Baseline",
    "MaskedSoftKMeans",
    "MatchingNet",
    "MetaGAN",
    "Method",
    "NPair",
    "NearestNeighbour",
    "ProtoNet",
    "PseudoLabels",
    "RelationNet",
    "Reptile",
    "Ridge",
    "SimpleShot",
    "SoftKMeans",
]
