"""The images that both sides draw from, and learn2learn's task sets over them."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.report import console
from fewshot.data import EpisodeSampler, Glyphs, Omniglot, Split
from fewshot.engines.learn2learn import load
from fewshot.errors import UserError

_TURNED = {"omniglot": True, "glyphs": False}  # as conf/data says


def choose() -> str:
    """``omniglot`` where it is, else ``glyphs``, and say so."""
    try:
        splits("omniglot")
    except UserError as error:
        console.print(f"made-up glyphs instead of Omniglot: {error}")
        return "glyphs"
    return "omniglot"


def splits(data: str) -> dict[str, Split]:
    """Decoded images by name of the split."""
    root, cache = os.environ.get("FEWSHOT_DATA", "data"), os.environ.get("FEWSHOT_CACHE", "~/.cache/fewshot")
    source = Omniglot(Path(root) / "omniglot", cache, download=False) if data == "omniglot" else Glyphs(cache)
    return source.load()


def sampler(split: Split, data: str, ways: int, shots: int, queries: int, seed: int = 0) -> EpisodeSampler:
    """Ours; each class of a task turned at random, as learn2learn's task sets of Omniglot do."""
    return EpisodeSampler(split, ways, shots, queries, seed, "random" if _TURNED[data] else False)


class TaskSet:
    """Tasks as ``learn2learn.vision.benchmarks`` draws them from Omniglot, from images that lie decoded in memory.

    Its ``RandomClassRotation`` needs torchvision and turns by interpolation; here ``torch.rot90`` stands in, which
    is faster and exact.
    """

    def __init__(self, split: Split, data: str, ways: int, shots: int, queries: int, seed: int = 0) -> None:
        learn2learn = load()
        random.seed(seed)
        transforms = learn2learn.data.transforms
        dataset = learn2learn.data.MetaDataset(_Decoded(split))
        every = shots + queries
        steps = [
            transforms.FusedNWaysKShots(dataset, n=ways, k=every),
            transforms.LoadData(dataset),
            transforms.RemapLabels(dataset),
            transforms.ConsecutiveLabels(dataset),
        ]
        if _TURNED[data]:
            steps.append(_RandomClassRotation(dataset))
        self.tasks = learn2learn.data.Taskset(dataset, task_transforms=steps)
        self.support = np.arange(ways * every) % every < shots

    def sample(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Support and query images and labels of one task."""
        images, labels = self.tasks.sample()
        images, labels = images.to(device), labels.to(device)
        support, query = torch.from_numpy(self.support), torch.from_numpy(~self.support)
        return images[support], labels[support], images[query], labels[query]


class _Decoded(Dataset):
    """Images as floats, and labels."""

    def __init__(self, split: Split) -> None:
        self.images = split.images.float() / 255
        self.labels = torch.arange(len(split.counts)).repeat_interleave(split.counts).tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.labels[index]


class _RandomClassRotation:
    """``learn2learn.vision.transforms.RandomClassRotation`` by quarter turns."""

    def __init__(self, dataset) -> None:
        self.dataset = dataset

    def __call__(self, task_description):
        turns: dict[int, int] = {}
        for description in task_description:
            label = self.dataset.indices_to_labels[description.index]
            turn = turns.setdefault(label, random.randrange(4))
            description.transforms.append(_turned_by(turn))
        return task_description


def _turned_by(turn: int) -> Callable[[tuple[Tensor, int]], tuple[Tensor, int]]:
    return lambda item: (torch.rot90(item[0], turn, (1, 2)), item[1])
