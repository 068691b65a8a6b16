"""Load images, and draw tasks and episodes."""

from typing import TYPE_CHECKING, Any

from fewshot.data.arrays import Arrays
from fewshot.data.batches import ClassBatches
from fewshot.data.gaussians import Gaussians
from fewshot.data.glyphs import Glyphs
from fewshot.data.image_folder import ImageFolder
from fewshot.data.mini_imagenet import MiniImageNet
from fewshot.data.omniglot import Omniglot
from fewshot.data.sampler import EpisodeSampler
from fewshot.data.split import Split
from fewshot.data.task import Task

if TYPE_CHECKING:
    from fewshot.data.datamodule import EpisodeData

__all__ = [
    "Arrays", "ClassBatches", "EpisodeData", "EpisodeSampler", "Gaussians", "Glyphs", "ImageFolder", "MiniImageNet",
    "Omniglot", "Split", "Task",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name != "EpisodeData":
        raise AttributeError(f"module 'fewshot.data' has no attribute {name!r}")
    # Lightning loads torchmetrics with matplotlib and scipy.stats: seconds that reading images need not take.
    from fewshot.data.datamodule import EpisodeData

    return EpisodeData
