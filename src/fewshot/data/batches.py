"""Draw minibatches over all training classes.

The minibatches are for methods that do not learn from tasks. Image j of batch i is a pure function of (split, seed, i,
j): no epochs, no state, the same on every device.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from fewshot import rng
from fewshot.augment import Affine
from fewshot.data.rotations import count_copies
from fewshot.data.sampler import EpisodeSampler
from fewshot.data.split import Split
from fewshot.episode import Episode
from fewshot.streams import EpisodeStream


class ClassBatches(EpisodeSampler):
    """Draw minibatches in the form of episodes.

    The support set is empty, and the images are the queries. Images are drawn independently, each labelled image as
    likely as any other. Labels are the classes of the split; with ``rotations=True`` class c rotated by r times 90° is
    4c + r, and of eight so with ``mirrored``; with ``random`` each image is rotated anew.

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
        classes = len(split.classes) * count_copies(rotations)
        super().__init__(
            split, classes, 0, 1, seed, rotations, mean, std, label_fraction=label_fraction, augment=augment
        )
        self.size = size
        labelled = ~self.absent if self.without_label is None else ~(self.absent | self.without_label)
        self.owner, place = labelled.nonzero(as_tuple=True)
        self.rows = self.starts[self.owner] + place

    def __call__(self, index: Tensor) -> Episode:
        """Draw the batches with numbers ``index``.

        ``index`` is ``(B,)``; the queries are ``(B, size, C, H, W)``.
        """
        if self.split.check is not None:
            self.split.check()
        key = rng.bits(self.root, index.to(self.root.device))
        place = torch.arange(self.size, device=key.device)
        drawn = rng.bits(key[:, None], EpisodeStream.BATCH_IMAGES, place) % (len(self.rows) * self.copies)
        image = drawn // self.copies
        rotation = drawn % self.copies
        labels = self.owner[image] * self.copies + rotation
        if self.rotations == "random":
            rotation = rng.bits(key[:, None], EpisodeStream.BATCH_ROTATIONS, place) & 3
        x = self._values(key, EpisodeStream.BATCH, self.rows[image], rotation)
        fingerprint = rng.bits(key[:, None], self.rows[image], rotation, labels).sum(1)
        return Episode(
            self.ways, x[:, :0], labels[:, :0], x, labels, rng.bits(key, EpisodeStream.BATCH),
            rng.bits(fingerprint, self.split.digest),
        )  # fmt: skip

    def spread(self, most: int) -> Iterator[Tensor]:
        """Yield labelled images, evenly spaced over the split.

        These are all images, or ``most`` of them, in fixed order. Rotated copies that are classes count as images.

        Yields:
            images ``(M, C, H, W)``, at most ``size`` at a time.
        """
        every = len(self.rows) * self.copies
        count = min(most, every)
        chosen = torch.arange(count, device=self.rows.device) * every // count
        for part in chosen.split(self.size):
            image = part // self.copies
            yield self._values(
                self.root[None], EpisodeStream.BATCH, self.rows[image][None], (part % self.copies)[None]
            )[0]
