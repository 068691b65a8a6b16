"""Draw the classes of episodes."""

import torch
from torch import Tensor

from fewshot import rng
from fewshot.data.split import Split
from fewshot.errors import UserError
from fewshot.streams import EpisodeStream

DRAWS = ("independent", "passes", "in_order")


class ClassChoice:
    """Choose distinct classes for each episode.

    The N ways come first, then the D distractor classes, then the U unknown classes: none of them changes the classes
    before.

    Args:
        split: names the classes.
        copies: rotated copies of each class, which are classes of their own.
        ways, distractors, unknown: N, D and U.
        draw, within: see ``EpisodeSampler``.
        root: the key of the episode stream.
        numbers: hashed counters, at least one for each class.

    Raises:
        UserError: the split has too few classes, or a setting is not allowed.
    """

    def __init__(
        self,
        split: Split,
        copies: int,
        ways: int,
        distractors: int,
        unknown: int,
        draw: str,
        within: float,
        root: Tensor,
        numbers: rng.Mixed,
    ) -> None:
        self.split = split
        self.copies = copies
        self.ways = ways
        self.distractors = distractors
        self.unknown = unknown
        self.draw = draw
        self.within = within
        self.root = root
        self.numbers = numbers
        self.every = torch.arange(len(split.classes) * copies, device=root.device)
        self._check()
        self.groups = self._find_groups() if within else None

    @property
    def _wanted(self) -> int:
        return self.ways + self.distractors + self.unknown

    def _check(self) -> None:
        classes = len(self.every)
        name = self.split.name
        if self.draw not in DRAWS:
            raise UserError(f"task.draw={self.draw}: choose one of {', '.join(DRAWS)} (for task.train_draw too)")
        within = self.within
        if isinstance(within, bool) or not isinstance(within, float | int) or not 0 <= within <= 1:
            raise UserError(f"data.within={within}: must be a fraction in [0, 1] (data.eval_within too)")
        if within and self.draw != "independent":
            raise UserError(f"data.within={within}: tasks within a group need draw=independent, not {self.draw}")
        if self.ways > classes:
            raise UserError(f"{self.ways} ways, but {name} has {classes} classes: lower task.ways or task.train_ways")
        if self.ways + self.distractors > classes:
            raise UserError(
                f"{self.ways} ways + {self.distractors} distractors, but {name} has {classes} classes: "
                "lower task.distractors or task.train_distractors"
            )
        if self._wanted > classes:
            others = f" + {self.distractors} distractors" if self.distractors else ""
            raise UserError(
                f"{self.ways} ways{others} + {self.unknown} unknown classes, but {name} has {classes} classes: "
                "lower task.unknown"
            )
        if self.draw != "independent" and self.distractors:
            raise UserError(f"distractor classes are drawn at random: they need draw=independent, not {self.draw}")

    def _find_groups(self) -> Tensor:
        """Mark the classes of each large group.

        Rotations are counted as classes. Unknown classes choose no groups: tasks are the same without them.

        Returns:
            ``(groups, classes)`` bool, for the groups with enough classes for a task.
        """
        numbers: dict[str, int] = {}
        names = [name.rpartition("/")[0] for name in self.split.classes]
        group = torch.tensor([numbers.setdefault(name, len(numbers)) for name in names]).to(self.every.device)
        members = (group == torch.arange(len(numbers), device=group.device)[:, None]).repeat_interleave(self.copies, 1)
        sizes = members.sum(1)
        need = self.ways + self.distractors
        if int(sizes.max()) < need or len(numbers) == 1:
            found = f"the largest has {int(sizes.max())}" if len(numbers) > 1 else "there is only one group"
            raise UserError(
                f"data.within={self.within}: no group of {self.split.name} has {need} classes to draw from "
                f"({found}; a group is what stands before the last / of a class's name): lower the ways or data.within"
            )
        large = sizes >= need
        fewest = int(sizes[large].min())
        if fewest < self._wanted:
            raise UserError(
                f"data.eval_within={self.within}: tasks of {need} classes come from groups of {self.split.name} that "
                f"have only {fewest - need} further classes: lower task.unknown={self.unknown} or data.eval_within"
            )
        return members[large]

    def __call__(self, key: Tensor, index: Tensor) -> Tensor:
        """Choose the classes of episodes with keys and numbers ``(B,)``.

        Returns:
            ``(B, N+D+U)``, rotations counted as classes.
        """
        if self.draw == "independent":
            hashes = rng.bits(key[:, None], EpisodeStream.CLASSES, self.numbers[: len(self.every)])
            if self.groups is not None:
                chosen = (rng.uniform(key, EpisodeStream.GROUP) * len(self.groups)).long()
                outside = (rng.uniform(key, EpisodeStream.WITHIN) < self.within)[:, None] & ~self.groups[chosen]
                hashes = hashes.masked_fill(outside, torch.iinfo(torch.int64).max)
            return hashes.topk(self._wanted, largest=False).indices
        tasks = len(self.every) // self.ways  # in a pass
        if self.draw == "passes":
            order = rng.bits(self.root, EpisodeStream.CLASSES, (index // tasks)[:, None], self.every).argsort(1)
        else:
            order = self.every.expand(len(index), -1)
        places = (index % tasks)[:, None] * self.ways + torch.arange(self._wanted, device=key.device)
        return order.gather(1, places % len(self.every))  # unknown classes after the last one are the first ones
