"""Minibatches over all training classes, for methods that learn to tell these apart instead of learning from tasks.

Image j of batch i is a pure function of (split, seed, i, j): no epochs, no state, the same on every device.
"""

import torch
from torch import Tensor

from fewshot import rng
from fewshot.augment import Affine
from fewshot.data.rotations import copies
from fewshot.data.sampler import EpisodeSampler
from fewshot.data.split import Split
from fewshot.episode import Episode
from fewshot.streams import EpisodeStream


class ClassBatches(EpisodeSampler):
    """Draws minibatches in the form of episodes: the support set is empty, the query set has the images.

    Images are drawn independently, each labelled image as likely as any other. Labels are the classes of the
    split; with ``rotations=True`` class c turned by r quarters is 4c + r, and so of eight with ``mirrored``; with
    ``random`` each image is turned anew.

    Args:
        split: the images, on the device where batches are wanted.
        size: images of a batch.
        seed: of the stream.
        rotations, mean, std, label_fraction, augment: see ``EpisodeSampler``.
    """

    def __init__(
        self,
        split: Split,
        size: int,
        seed: int,
        rotations: bool | str = False,
        mean: float = 0.0,
        std: float = 1.0,
        label_fraction: float = 1.0,
        augment: Affine | None = None,
    ) -> None:
        classes = len(split.classes) * copies(rotations)
        super().__init__(
            split, classes, 0, 1, seed, rotations, mean, std, label_fraction=label_fraction, augment=augment
        )
        self.size = size
        held = ~self.absent if self.without_label is None else ~(self.absent | self.without_label)
        self.owner, place = held.nonzero(as_tuple=True)
        self.rows = self.starts[self.owner] + place

    def __call__(self, index: Tensor) -> Episode:
        """The batches of numbers ``index`` ``(B,)``: queries ``(B, size, C, H, W)`` of ``ways`` classes."""
        if self.split.check is not None:
            self.split.check()
        key = rng.bits(self.root, index.to(self.root.device))
        place = torch.arange(self.size, device=key.device)
        drawn = rng.bits(key[:, None], EpisodeStream.BATCH_IMAGES, place) % (len(self.rows) * self.turns)
        image, turn = drawn // self.turns, drawn % self.turns
        labels = self.owner[image] * self.turns + turn
        if self.rotations == "random":
            turn = rng.bits(key[:, None], EpisodeStream.BATCH_ROTATIONS, place) & 3
        x = self._pixels(key, EpisodeStream.BATCH, self.rows[image], turn)
        fingerprint = rng.bits(key[:, None], self.rows[image], turn, labels).sum(1)
        return Episode(
            self.ways, x[:, :0], labels[:, :0], x, labels, rng.bits(key, EpisodeStream.BATCH),
            rng.bits(fingerprint, self.split.digest),
        )  # fmt: skip
