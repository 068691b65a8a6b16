"""Images, tasks and the episodes drawn from them."""

from fewshot.data.batches import ClassBatches
from fewshot.data.datamodule import EpisodeData
from fewshot.data.gaussians import Gaussians
from fewshot.data.glyphs import Glyphs
from fewshot.data.image_folder import ImageFolder
from fewshot.data.mini_imagenet import MiniImageNet
from fewshot.data.omniglot import Omniglot
from fewshot.data.sampler import EpisodeSampler
from fewshot.data.split import Split
from fewshot.data.task import Task

__all__ = [
    "ClassBatches", "EpisodeData", "EpisodeSampler", "Gaussians", "Glyphs", "ImageFolder", "MiniImageNet", "Omniglot",
    "Split", "Task",
]  # fmt: skip
