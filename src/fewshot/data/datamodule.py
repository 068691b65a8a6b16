"""Yield episodes to Lightning.

The loaders carry episode numbers only. The numbers become episodes after the transfer to the device,
in one batched draw and gather from images that already lie there, so no worker copies pixels.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fewshot.augment import Affine
from fewshot.data.batches import ClassBatches
from fewshot.data.rotations import count_copies
from fewshot.data.sampler import EpisodeSampler
from fewshot.data.split import Split, assert_disjoint
from fewshot.data.task import Task
from fewshot.episode import Episode
from fewshot.errors import UserError

IMAGES_AT_ONCE = 100  # in one pass for statistics


class ImageDataset(Protocol):
    """Load the splits of a data set.

    ``conf/data`` names such a class.
    """

    def load(self) -> dict[str, Split]:
        """Return the splits by name.

        The splits are ``train``, ``val`` (if any) and ``test``, and share no class. All images have one shape and one
        dtype, uint8 or float32; see ``Split``.
        """
        ...


class _Steps(Dataset[int]):
    """Count steps; a step is one meta-batch."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> int:
        return step


class EpisodeData(pl.LightningDataModule):
    """Draw the episodes of training, validation and test.

    Args:
        dataset: loads the splits.
        task: the numbers of an episode.
        seed: of the training episodes; the episodes of validation and test depend on ``task.test_seed`` alone.
        steps: length of the training stream in meta-batches.
        rotations: rotated copies are classes of their own, inside each split; or ``mirrored`` or ``random``, see
            ``EpisodeSampler``.
        mean, std: normalisation of pixels in [0, 1], or of float32 values.
        eval_batch: episodes scored at once.
        label_fraction: the part of each training class's images that has labels.
        eval_rotations: as ``rotations``, for validation and test; None for the same.
        within: the part of the training tasks whose classes come from one group, see ``EpisodeSampler``.
        eval_within: the same for validation and test.
        augment: change the training images by random affine maps: True, or the numbers of ``Affine``.
        trains: whether training tasks are drawn; if not, the training split may be too small for these.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        task: Task,
        seed: int,
        steps: int,
        rotations: bool | str = False,
        mean: float = 0.0,
        std: float = 1.0,
        eval_batch: int = 16,
        label_fraction: float = 1.0,
        eval_rotations: bool | str | None = None,
        within: float = 0.0,
        eval_within: float = 0.0,
        augment: bool | Mapping[str, Any] | None = None,
        trains: bool = True,
    ) -> None:
        super().__init__()
        count_copies(rotations)  # a mistake is named before images are decoded
        count_copies(eval_rotations or False, "eval_rotations")
        self.dataset = dataset
        self.task = task
        self.seed = seed
        self.steps = steps
        self.rotations = rotations
        self.mean = mean
        self.std = std
        self.eval_batch = eval_batch
        self.label_fraction = label_fraction
        self.eval_rotations = rotations if eval_rotations is None else eval_rotations
        self.within = within
        self.eval_within = eval_within
        self.augment = Affine.from_setting(augment)
        self.trains = trains
        self.splits: dict[str, Split] = {}
        self._samplers: dict[str, EpisodeSampler] = {}

    def setup(self, stage: str | None = None) -> None:
        """Load the splits once, and check them.

        Raises:
            UserError: splits share a class, an episode cannot be drawn, validation classes are missing, or images
                have several shapes.
        """
        if not self.splits:
            self.splits = self.dataset.load()
            if "val" not in self.splits and self.task.val_episodes:
                raise UserError(
                    f"task.val_episodes={self.task.val_episodes}, but the data has no validation classes: "
                    "set task.val_episodes=0 to test the last weights, or choose another data.split"
                )
            assert_disjoint({name: split.classes for name, split in self.splits.items()})
            self._refuse_several_shapes()
            self._refuse_too_many_ways()
            for name in self._drawn:
                self.sampler(name)

    @property
    def _drawn(self) -> list[str]:
        """Return the splits that tasks are drawn from."""
        drawn = {"train": self.trains, "val": self.task.val_episodes > 0}
        return [name for name in self.splits if drawn.get(name, True)]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return the image shape, after ``setup``.

        The shape is (C, H, W) for images, or (D, 1, 1) for features.
        """
        channels, height, width = self.splits["train"].images.shape[1:]
        return channels, height, width

    def _refuse_several_shapes(self) -> None:
        kinds = {name: (*split.images.shape[1:], split.images.dtype) for name, split in self.splits.items()}
        if len(set(kinds.values())) > 1:
            shown = ", ".join(f"{name} {tuple(kind[:3])} {kind[3]}" for name, kind in kinds.items())
            raise UserError(f"the splits have images of several kinds ({shown}): all need one shape and one dtype")

    def _refuse_too_many_ways(self) -> None:
        """Refuse too many ways, for all splits together."""
        lacking: dict[int, list[str]] = {}
        most: dict[str, int] = {}
        for name in self._drawn:
            split = self.splits[name]
            training = name == "train"
            if training and self.task.train_batch:  # draws no tasks
                continue
            key, rotations = ("train_ways", self.rotations) if training else ("ways", self.eval_rotations)
            ways = getattr(self.task, key)
            classes = len(split.classes) * count_copies(rotations)
            if ways > classes:
                lacking.setdefault(ways, []).append(f"{split.name} has {classes} class{'es' * (classes != 1)}")
                most[key] = min(classes, most.get(key, classes))
        if not lacking:
            return
        problem = "; ".join(f"{ways} ways, but {', '.join(splits)}" for ways, splits in lacking.items())
        if min(most.values()) < 2:
            raise UserError(f"{problem}: a task needs at least 2, add classes")
        if self.task.train_ways == self.task.ways:  # a method may need them to be equal
            most = dict.fromkeys(most, min(most.values()))
        raise UserError(f"{problem}: set {' '.join(f'task.{key}={ways}' for key, ways in most.items())}")

    def sampler(self, split: str, device: torch.device | None = None) -> EpisodeSampler:
        """Return the sampler of a split on ``device``.

        The images are moved to ``device`` once.
        """
        loaded = self.splits[split]
        if device is not None and loaded.images.device != device:
            loaded = replace(loaded, images=loaded.images.to(device), check=None)
            self.splits[split] = loaded
            self._samplers.pop(split, None)
        if split not in self._samplers:
            if split == "train":
                self._samplers[split] = self._training_sampler(loaded)
            else:
                unknown = self.task.unknown if split == "test" else 0
                self._samplers[split] = self._evaluation_sampler(loaded, unknown)
        return self._samplers[split]

    def _training_sampler(self, split: Split) -> EpisodeSampler:
        task = self.task
        if task.train_batch:
            return ClassBatches(
                split,
                task.train_batch,
                self.seed,
                self.rotations,
                self.mean,
                self.std,
                self.label_fraction,
                self.augment,
            )
        return EpisodeSampler(
            split, task.train_ways, task.train_shots, task.train_queries, self.seed,
            self.rotations, self.mean, self.std,
            unlabeled=task.train_unlabeled, unlabeled_query=task.unlabeled_query, distractors=task.train_distractors,
            unlabeled_tasks=task.unlabeled_tasks, label_fraction=self.label_fraction, draw=task.train_draw,
            distinct=task.train_distinct, within=self.within, augment=self.augment,
        )  # fmt: skip

    def _evaluation_sampler(self, split: Split, unknown: int = 0) -> EpisodeSampler:
        task = self.task
        return EpisodeSampler(
            split, task.ways, task.shots, task.queries, task.test_seed, self.eval_rotations, self.mean, self.std,
            unlabeled=task.unlabeled, distractors=task.distractors, draw=task.draw,
            within=self.eval_within, unknown=unknown,
        )  # fmt: skip

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(_Steps(self.steps), batch_size=None)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._numbers(self.task.val_episodes)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._numbers(self.task.test_episodes)

    def _numbers(self, episodes: int) -> DataLoader[Any]:
        rank, processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        mine = range(rank, episodes, processes)  # each is scored once, by one process
        return DataLoader(mine, batch_size=self.eval_batch, collate_fn=torch.tensor)  # type: ignore[arg-type]

    def on_after_batch_transfer(self, batch: Tensor | int, dataloader_idx: int) -> Episode:
        """Draw the episodes on the device of the model.

        ``batch`` holds the numbers of the episodes; in training, the numbers come from the step of the trainer.
        """
        trainer = self.trainer
        assert trainer is not None
        device = trainer.strategy.root_device
        if trainer.training:
            # The step is the trainer's own count, so a resumed run continues the same stream.
            first = trainer.global_step * self.task.meta_batch
            last = first + self.task.meta_batch
            mine = torch.arange(first + trainer.global_rank, last, trainer.world_size, device=device)
            return self.sampler("train", device)(mine)
        assert isinstance(batch, Tensor)
        return self.sampler("test" if trainer.testing else "val", device)(batch)

    def calibration(self, episodes: int, device: torch.device) -> Iterator[Episode]:
        """Draw fixed training episodes for statistics.

        A few episodes are drawn at a time. The episodes have the shape of evaluation tasks; of training tasks where not
        all images have labels.
        """
        split = replace(self.splits["train"], images=self.splits["train"].images.to(device))
        like_test = self.label_fraction == 1 or self.task.train_batch
        sampler = (self._evaluation_sampler if like_test else self._training_sampler)(split)
        for numbers in torch.arange(episodes).split(self.eval_batch):
            yield sampler(numbers)

    def training_images(self, most: int, device: torch.device) -> Iterator[Tensor]:
        """Yield at most ``most`` training images for statistics.

        The images ``(M, C, H, W)`` are normalised, fixed and evenly spaced over the training classes.
        """
        split = replace(self.splits["train"], images=self.splits["train"].images.to(device))
        yield from ClassBatches(split, IMAGES_AT_ONCE, 0, self.rotations, self.mean, self.std).spread(most)
