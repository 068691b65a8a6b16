"""Load the images that both contenders use.

learn2learn's task sets draw from these images too.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.report import console
from fewshot.data import EpisodeSampler, Glyphs, Omniglot, Split
from fewshot.engines.learn2learn import load_learn2learn
from fewshot.errors import UserError

_ROTATED = {"omniglot": True, "glyphs": False}  # as conf/data says


def choose() -> str:
    """Return ``omniglot`` if present, else ``glyphs``.

    The choice of ``glyphs`` is printed.
    """
    try:
        splits("omniglot")
    except UserError as error:
        console.print(f"made-up glyphs instead of Omniglot: {error}")
        return "glyphs"
    return "omniglot"


def splits(data: str) -> dict[str, Split]:
    """Return decoded images by name of the split."""
    root = os.environ.get("FEWSHOT_DATA", "data")
    cache = os.environ.get("FEWSHOT_CACHE", "~/.cache/fewshot")
    source = Omniglot(Path(root) / "omniglot", cache, download=False) if data == "omniglot" else Glyphs(cache)
    return source.load()


def sampler(split: Split, data: str, ways: int, shots: int, queries: int, seed: int = 0) -> EpisodeSampler:
    """Return our sampler of tasks.

    Classes are rotated at random where learn2learn does the same.
    """
    return EpisodeSampler(split, ways, shots, queries, seed, "random" if _ROTATED[data] else False)


class TaskSet:
    """Draw tasks as learn2learn does.

    The model is ``learn2learn.vision.benchmarks``; the images lie decoded in memory.

    Its ``RandomClassRotation`` needs torchvision and rotates by interpolation; here ``torch.rot90`` stands in, which
    is faster and exact.
    """

    def __init__(self, split: Split, data: str, ways: int, shots: int, queries: int, seed: int = 0) -> None:
        learn2learn = load_learn2learn()
        random.seed(seed)
        transforms = learn2learn.data.transforms
        dataset = learn2learn.data.MetaDataset(_Decoded(split))
        every = shots + queries
        pipeline = [
            transforms.FusedNWaysKShots(dataset, n=ways, k=every),
            transforms.LoadData(dataset),
            transforms.RemapLabels(dataset),
            transforms.ConsecutiveLabels(dataset),
        ]
        if _ROTATED[data]:
            pipeline.append(_RandomClassRotation(dataset))
        self.tasks = learn2learn.data.Taskset(dataset, task_transforms=pipeline)
        self.support = np.arange(ways * every) % every < shots

    def sample(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw one task's images and labels."""
        images, labels = (part.to(device) for part in self.tasks.sample())
        support = torch.from_numpy(self.support)
        query = torch.from_numpy(~self.support)
        return images[support], labels[support], images[query], labels[query]


class _Decoded(Dataset[tuple[Tensor, int]]):
    """Hold images as floats, and labels."""

    def __init__(self, split: Split) -> None:
        self.images = split.images.float() / 255
        self.labels: list[int] = torch.arange(len(split.counts)).repeat_interleave(split.counts).tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.labels[index]


class _RandomClassRotation:
    """Rotate classes by multiples of 90 degrees.

    The model is ``learn2learn.vision.transforms.RandomClassRotation``.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, task_description: list[Any]) -> list[Any]:
        rotations: dict[int, int] = {}
        for description in task_description:
            label = self.dataset.indices_to_labels[description.index]
            rotation = rotations.setdefault(label, random.randrange(4))
            description.transforms.append(_rotated_by(rotation))
        return task_description


def _rotated_by(rotation: int) -> Callable[[tuple[Tensor, int]], tuple[Tensor, int]]:
    return lambda item: (torch.rot90(item[0], rotation, (1, 2)), item[1])
