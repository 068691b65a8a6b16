"""Draw episodes from a split.

Only this file turns ways, shots, queries and the seed into an episode. Episode ``i`` is a pure function of (split,
numbers of a task, seed, i). The classes of an episode have the smallest hashes of (seed, i, class), the images the
smallest hashes of (seed, i, class, image): no state, no order of drawing, the same on every device. Unlabelled images,
distractor classes and unknown classes have the next hashes, so an episode's support and query sets are the same with
and without them.
"""

import torch
from torch import Tensor

from fewshot import rng
from fewshot.augment import Affine
from fewshot.data.class_choice import ClassChoice
from fewshot.data.rotations import RotatedImages, count_copies, rotation_name
from fewshot.data.split import Split
from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.streams import EpisodeStream, FixedSeed


class EpisodeSampler:
    """Draw batches of episodes from a split.

    Args:
        split: the images, on the device where episodes are wanted. uint8 becomes [0, 1]; float32 is not scaled.
        ways, shots, queries: N, K and Q.
        seed: of the episode stream.
        rotations: True offers each class four times, rotated by 0, 90, 180 and 270 degrees, and ``mirrored`` eight
            times, also in the mirror; ``random`` rotates each class of a task by one of the four.
        mean, std: images ``x`` become ``(x - mean) / std``.
        unlabeled, unlabeled_query: images without labels of each class, for support and query.
        distractors: D further classes that supply only images without labels.
        unknown: U further classes that supply only Q unknown images each.
        unlabeled_tasks: the part of the tasks that carry no labels.
        label_fraction: the part of each class's images that may be support or query; a fixed choice.
            Below 1, images without labels are drawn from the others only.
        draw: ``independent`` tasks; ``passes`` through the classes in random order, each class once in a
            pass, classes that fill no task left out; ``in_order``, classes and images in the order of the split.
        distinct: how many different tasks there are; None for no limit.
        within: the part of the tasks whose classes all come from one group. The text before the last ``/`` of a
            class's name is the group (an alphabet of Omniglot). Each group with enough classes is as likely.
        augment: changes the images of a task, before they are normalised; see ``Affine``.

    Raises:
        UserError: the split has fewer classes, or a class fewer images, than an episode takes; or a setting is not
            allowed.
    """

    def __init__(
        self,
        split: Split,
        ways: int,
        shots: int,
        queries: int,
        seed: int,
        rotations: bool | str = False,
        mean: float = 0.0,
        std: float = 1.0,
        unlabeled: int = 0,
        unlabeled_query: int = 0,
        distractors: int = 0,
        unlabeled_tasks: float = 0.0,
        label_fraction: float = 1.0,
        draw: str = "independent",
        distinct: int | None = None,
        within: float = 0.0,
        augment: Affine | None = None,
        unknown: int = 0,
    ) -> None:
        self.split = split
        self.ways = ways
        self.shots = shots
        self.queries = queries
        self.rotations = rotations
        self.unlabeled = unlabeled
        self.unlabeled_query = unlabeled_query
        self.distractors = distractors
        self.unlabeled_tasks = unlabeled_tasks
        self.unknown = unknown
        self.draw = draw
        self.distinct = distinct
        self.mean = mean
        self.std = std
        self.augment = augment
        if not 0 < label_fraction <= 1:
            raise UserError(f"data.label_fraction={label_fraction}: must be in (0, 1]")
        if augment is not None and split.images.shape[2:] == (1, 1):
            raise UserError("data.augment changes images, not features of 1 x 1: leave data.augment out")
        self.copies = count_copies(rotations)
        device = split.images.device
        self.root = rng.key(seed, device=device)
        sizes = torch.tensor([ways * shots, ways * queries], device=device)
        streams = torch.stack(
            [rng.key(stream, device=device) for stream in (FixedSeed.SUPPORT_FINGERPRINT, FixedSeed.QUERY_FINGERPRINT)]
        )
        self.streams = streams.repeat_interleave(sizes)  # of each labelled image
        self.starts = split.starts.to(device)
        self.counts = split.counts.to(device)
        classes = len(self.starts) * self.copies
        self.every_image = torch.arange(int(split.counts.max()), device=device)
        self.labels = torch.arange(ways, device=device)[None, :, None]
        self.absent = self.every_image >= self.counts[:, None]  # (classes, images)
        self.uneven = bool(self.absent.any())
        most = (ways + distractors + unknown) * max(shots, queries, unlabeled, unlabeled_query)  # images of a set
        self.numbers = rng.Mixed.from_range(max(len(split.images), classes, most, 4), device)
        self.choose_classes = ClassChoice(
            split, self.copies, ways, distractors, unknown, draw, within, self.root, self.numbers
        )
        self.without_label = self._choose_without_label(label_fraction) if label_fraction < 1 else None
        self._check()
        self.rotated = RotatedImages(split.images, rotations)

    def _choose_without_label(self, fraction: float) -> Tensor:
        """Mark the images without labels.

        Returns:
            ``(classes, images)`` bool. Each class keeps at least one labelled image. Places past the last image of a
            class are marked too.
        """
        rows = torch.arange(len(self.starts), device=self.starts.device)[:, None]
        hashes = rng.bits(rng.key(FixedSeed.LABELED_IMAGES, device=rows.device), rows, self.every_image)
        rank = hashes.masked_fill(self.absent, torch.iinfo(torch.int64).max).argsort(1).argsort(1)
        return rank >= (fraction * self.counts).round().clamp(min=1)[:, None]

    def _check(self) -> None:
        """Refuse classes with too few images for an episode."""
        split = self.split
        labelled = (
            self.counts if self.without_label is None else self.counts - (self.without_label & ~self.absent).sum(1)
        )
        need = self.shots + self.queries
        fewest = int(labelled.min())
        poorest = repr(split.classes[int(labelled.argmin())])
        if need > fewest:
            kind, further = (
                ("images", "") if self.without_label is None else ("labelled images", ", or raise label_fraction")
            )
            raise UserError(
                f"{self.shots} shots + {self.queries} queries, but {split.name} has {fewest} {kind} of class "
                f"{poorest}: lower task.shots or task.queries (task.train_shots or task.train_queries){further}"
            )
        left = self.counts - (need if self.without_label is None else labelled)
        wanted = self.unlabeled + self.unlabeled_query
        fewest = int(left.min())
        if wanted > fewest:
            poorest = repr(split.classes[int(left.argmin())])
            raise UserError(
                f"{wanted} images without labels, but {split.name} has {fewest} left of class {poorest}: "
                "lower task.unlabeled or task.unlabeled_query (task.train_unlabeled), or the queries"
            )

    def __call__(self, index: Tensor) -> Episode:
        """Draw the episodes of numbers ``index`` ``(B,)``.

        Raises:
            UserError: the images on disk have changed since they were loaded.
        """
        if self.split.check is not None:
            self.split.check()
        key, index = self._keys(index)
        classes = self.choose_classes(key, index)
        rotations = self._draw_rotations(key, classes)
        drawn, spare = self._draw_images(key, classes)
        known = self.ways + self.distractors

        labeled = rng.uniform(key, EpisodeStream.LABELED) >= self.unlabeled_tasks if self.unlabeled_tasks else None
        sets = []
        places = []
        parts = drawn[:, : self.ways].split([self.shots, self.queries], dim=2)
        for stream, rows in zip((EpisodeStream.SUPPORT, EpisodeStream.QUERY), parts, strict=True):
            row, rotation, y = self._shuffle(key, stream, rows, rotations[:, : self.ways], self.labels)
            if labeled is not None:  # labels of places, after the shuffle, say nothing of the images
                y = torch.where(labeled[:, None], y, torch.arange(y.shape[1], device=y.device) % self.ways)
            sets.append((self._values(key, stream, row, rotation), y))
            places.append((row, rotation, y))
        row, rotation, y = (torch.cat(both, dim=1) for both in zip(*places, strict=True))
        # A sum, so that the order of the images does not enter.
        fingerprint = rng.bits(self.streams, *(self.numbers[n] for n in (row, rotation, y))).sum(1)
        fingerprint = rng.bits(fingerprint, self.split.digest)
        extra: list[Tensor | None] = [None, None]
        parts = spare[:, :known].split([self.unlabeled, self.unlabeled_query], dim=2)
        for place, (stream, rows) in enumerate(
            zip((EpisodeStream.UNLABELED, EpisodeStream.UNLABELED_QUERY), parts, strict=True)
        ):
            if rows.shape[2]:
                row, rotation = self._shuffle(key, stream, rows, rotations[:, :known])
                extra[place] = self._values(key, stream, row, rotation)
        unknown_x = None
        if self.unknown:
            rows = drawn[:, known:, : self.queries]
            row, rotation = self._shuffle(key, EpisodeStream.UNKNOWN, rows, rotations[:, known:])
            unknown_x = self._values(key, EpisodeStream.UNKNOWN, row, rotation)
        (support_x, support_y), (query_x, query_y) = sets
        task_key = rng.bits(key, EpisodeStream.TASK)
        return Episode(
            self.ways, support_x, support_y, query_x, query_y, task_key, fingerprint,
            unlabeled_x=extra[0], unlabeled_query_x=extra[1], labeled=labeled, unknown_x=unknown_x,
        )  # fmt: skip

    def classes(self, index: Tensor) -> Tensor:
        """Return the class behind each label of episodes.

        For the episodes of numbers ``index`` ``(B,)``: ``(B, N)``, places in ``class_names``.
        """
        return self.choose_classes(*self._keys(index))[:, : self.ways]

    @property
    def class_names(self) -> list[str]:
        """Name the classes of episodes.

        The name includes the rotation if rotations are classes.
        """
        if self.copies == 1:
            return list(self.split.classes)
        numbers = range(self.copies)
        return [f"{label}, {rotation_name(number)}" for label in self.split.classes for number in numbers]

    def _keys(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and numbers of episodes.

        Both are ``(B,)``, and repeat with ``distinct``.
        """
        index = index.to(self.starts.device)
        if self.distinct is not None:
            index = (rng.bits(self.root, EpisodeStream.DISTINCT, index) >> 1) % self.distinct
        return rng.bits(self.root, index), index

    def _draw_rotations(self, key: Tensor, classes: Tensor) -> Tensor:
        """Return the rotation of each class, ``(B, N+D+U)``."""
        if self.rotations == "random":
            return rng.bits(key[:, None], EpisodeStream.ROTATIONS, self.numbers[classes]) & 3
        return classes % self.copies

    def _draw_images(self, key: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Draw distinct images of each class.

        Returns:
            rows ``(B, N+D+U, K+Q)`` of images with labels, and rows ``(B, N+D+U, n)`` of images without labels. Not
            all of these images are wanted of every class.
        """
        character = classes // self.copies
        every = self.numbers[: len(self.every_image)]
        hashes = rng.bits(key[:, None, None], EpisodeStream.IMAGES, self.numbers[classes][..., None], every)
        if self.draw == "in_order":
            hashes = self.every_image.expand_as(hashes)
        last = torch.iinfo(torch.int64).max
        if self.uneven:
            hashes = hashes.masked_fill(self.absent[character], last)
        need = self.shots + self.queries
        wanted = self.unlabeled + self.unlabeled_query
        if self.without_label is None:
            drawn, spare = hashes.topk(need + wanted, largest=False).indices.split([need, wanted], dim=2)
        else:
            without = self.without_label[character]
            drawn = hashes.masked_fill(without, last).topk(need, largest=False).indices
            spare = hashes.masked_fill(~without, last).topk(wanted, largest=False).indices
        first = self.starts.take(character)[..., None]
        return first + drawn, first + spare

    def _shuffle(self, key: Tensor, stream: int, rows: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """Flatten rows in random order.

        Rows are ``(B, N, n)``. The values of ``others`` that belong to a row take the same place.
        """
        others = tuple(t if t.ndim == 3 else t[..., None] for t in others)
        flat = [t.expand_as(rows).flatten(1) for t in (rows, *others)]
        order = rng.bits(key[:, None], stream, self.numbers[: flat[0].shape[1]]).argsort(dim=1)
        return tuple(t.gather(1, order) for t in flat)

    def _values(self, key: Tensor, stream: int, rows: Tensor, rotations: Tensor) -> Tensor:
        """Return augmented and normalised images.

        The images are ``(B, n, C, H, W)`` in the default dtype.
        """
        images = self.rotated(rows.flatten(), rotations.flatten())
        x = images.to(torch.get_default_dtype())
        if images.dtype == torch.uint8:
            x.div_(255)
        x = x.view(*rows.shape, *x.shape[1:])
        if self.augment is not None:
            x = self.augment(x, rng.bits(key, EpisodeStream.AUGMENT, stream))
        return x if (self.mean, self.std) == (0.0, 1.0) else x.sub_(self.mean).div_(self.std)
