"""The sampler: the one place that knows ways, shots, queries and the seed.

Episode ``i`` is a pure function of (split, ways, shots, queries, seed, i). The classes of an episode
are those with the smallest hashes of (seed, i, class), its images those with the smallest hashes of
(seed, i, class, image): no state, no order of drawing, the same on every device.
"""

import torch
from torch import Tensor

from fewshot import counter
from fewshot.data.split import Split
from fewshot.episode import Episode
from fewshot.errors import UserError

_CLASS, _IMAGE, _SUPPORT, _QUERY, _TASK = range(5)


class EpisodeSampler:
    """Draws episodes from a split, whole batches at a time.

    Args:
        split: the images, on the device where episodes are wanted.
        ways, shots, queries: N, K and Q.
        seed: of the episode stream.
        rotations: offer each class four times, turned by 0, 90, 180 and 270 degrees.
        mean, std: pixels in [0, 1] become ``(x - mean) / std``.

    Raises:
        UserError: the split has fewer classes, or a class fewer images, than an episode takes.
    """

    def __init__(
        self,
        split: Split,
        ways: int,
        shots: int,
        queries: int,
        seed: int,
        rotations: bool = False,
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        self.split, self.ways, self.shots, self.queries, self.rotations = split, ways, shots, queries, rotations
        self.mean, self.std = mean, std
        self.turns = 4 if rotations else 1
        classes, fewest = len(split.classes) * self.turns, int(split.counts.min())
        if ways > classes:
            raise UserError(f"{ways} ways, but {split.name} has {classes} classes: lower task.ways or task.train_ways")
        if shots + queries > fewest:
            poorest = split.classes[int(split.counts.argmin())]
            raise UserError(
                f"{shots} shots + {queries} queries, but {split.name} has {fewest} images of class {poorest!r}: "
                "lower task.shots or task.queries (task.train_shots or task.train_queries)"
            )
        height, width = split.images.shape[2:]
        if rotations and height != width:
            raise UserError(f"data.rotations=true needs square images, not {height} x {width}")
        device = split.images.device
        self.root = counter.key(seed, device=device)
        self.starts, self.counts = split.starts.to(device), split.counts.to(device)
        self.ragged = int(split.counts.max()) != fewest
        pixels = torch.arange(height * width, device=device).view(height, width)
        self.turned = torch.stack([torch.rot90(pixels, turn).flatten() for turn in range(self.turns)])

    def __call__(self, index: Tensor) -> Episode:
        """The episodes of numbers ``index`` ``(B,)``."""
        index = index.to(self.starts.device)
        key = counter.bits(self.root, index)
        classes = self._classes(key)
        rows, turns = self._images(key, classes)
        labels = torch.arange(self.ways, device=index.device).view(1, -1, 1).expand_as(rows)
        sets = []
        fingerprint = torch.zeros_like(key)
        for stream, part in ((_SUPPORT, slice(0, self.shots)), (_QUERY, slice(self.shots, None))):
            row, turn, y = (t[..., part].flatten(1) for t in (rows, turns, labels))
            order = counter.bits(key[:, None], stream, torch.arange(row.shape[1], device=index.device)).argsort(dim=1)
            row, turn, y = (t.gather(1, order) for t in (row, turn, y))
            sets.append((self._pixels(row, turn), y))
            # A sum, so that the order of the images does not enter.
            fingerprint += counter.bits(counter.key(stream, device=index.device), row, turn, y).sum(1)
        fingerprint = counter.bits(fingerprint, self.split.digest)
        (support_x, support_y), (query_x, query_y) = sets
        return Episode(self.ways, support_x, support_y, query_x, query_y, counter.bits(key, _TASK), fingerprint)

    def _classes(self, key: Tensor) -> Tensor:
        """``(B, N)``: distinct classes, rotations counted as classes."""
        every = torch.arange(len(self.starts) * self.turns, device=key.device)
        return counter.bits(key[:, None], _CLASS, every).topk(self.ways, largest=False).indices

    def _images(self, key: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, N, K+Q)`` each: distinct rows of ``split.images``, and quarter turns."""
        character, turn = classes // self.turns, classes % self.turns
        counts = self.counts[character]
        every = torch.arange(int(self.split.counts.max()), device=key.device)
        hashes = counter.bits(key[:, None, None], _IMAGE, classes[..., None], every)
        if self.ragged:
            hashes = hashes.masked_fill(every >= counts[..., None], torch.iinfo(torch.int64).max)
        picks = hashes.topk(self.shots + self.queries, largest=False).indices
        rows = self.starts[character][..., None] + picks
        return rows, turn[..., None].expand_as(rows)

    def _pixels(self, rows: Tensor, turns: Tensor) -> Tensor:
        """``(B, n, C, H, W)`` float, normalised."""
        images = self.split.images
        if self.rotations:
            flat = images.flatten(2)
            x = flat[rows.flatten()].gather(2, self.turned[turns.flatten()][:, None].expand(-1, flat.shape[1], -1))
        else:
            x = images[rows.flatten()]
        x = x.view(*rows.shape, *images.shape[1:]).to(torch.get_default_dtype()).div_(255)
        return x if (self.mean, self.std) == (0.0, 1.0) else x.sub_(self.mean).div_(self.std)
