"""Hold the numbers of evaluation and training tasks."""

import re
from dataclasses import dataclass

from fewshot.errors import UserError
from fewshot.open_set import KNOWNNESS

_LEAST = {
    "ways": 2, "shots": 1, "queries": 1, "train_ways": 2, "train_shots": 1, "train_queries": 1,
    "meta_batch": 1, "test_episodes": 2, "val_episodes": 0, "unlabeled": 0, "distractors": 0,
    "train_unlabeled": 0, "train_distractors": 0, "unlabeled_query": 0, "unknown": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """Hold the numbers of an episode.

    Attributes:
        ways, shots, queries: classes, support and query images a class, in validation and test.
        train_ways, train_shots, train_queries: the same in training, set by each method's recipe.
        meta_batch: training tasks a step, over all processes.
        test_episodes, val_episodes: how many fixed episodes each split is scored on; without validation the
            last weights are tested.
        test_seed: the seed of validation and test episodes, apart from the training seed.
        unlabeled, distractors: U images without labels of each class and of D further classes, in evaluation.
        train_unlabeled, train_distractors: the same in training.
        unlabeled_query: like ``train_unlabeled``, for outer losses.
        unlabeled_tasks: the part of the training tasks that carry no labels.
        draw, train_draw: ``independent`` tasks, or one of the other orders of ``EpisodeSampler``.
        train_distinct: how many different training tasks there are; None for no limit.
        train_batch: images of a minibatch of all training classes, ``meta_batch`` of which make a step in place of
            training tasks; None for tasks.
        unknown: U further classes of a test task, whose images are to be told from its queries.
        knownness: how they are told, one of ``fewshot.open_set.KNOWNNESS``.

    Raises:
        UserError: a number is out of range.
    """

    ways: int
    shots: int
    queries: int
    train_ways: int
    train_shots: int
    train_queries: int
    meta_batch: int
    test_episodes: int = 1000
    val_episodes: int = 200
    test_seed: int = 0
    name: str = ""
    unlabeled: int = 0
    distractors: int = 0
    train_unlabeled: int = 0
    train_distractors: int = 0
    unlabeled_query: int = 0
    unlabeled_tasks: float = 0.0
    draw: str = "independent"
    train_draw: str = "independent"
    train_distinct: int | None = None
    train_batch: int | None = None
    unknown: int = 0
    knownness: str = "auto"

    def __post_init__(self) -> None:
        for field, least in _LEAST.items():
            value = getattr(self, field)
            if not isinstance(value, int) or value < least:
                raise UserError(f"task.{field}={value}: must be a whole number of at least {least}")
        if not isinstance(self.unlabeled_tasks, float | int) or not 0 <= self.unlabeled_tasks < 1:
            raise UserError(f"task.unlabeled_tasks={self.unlabeled_tasks}: must be a fraction in [0, 1)")
        if self.knownness not in KNOWNNESS:
            raise UserError(f"task.knownness={self.knownness}: choose one of {', '.join(KNOWNNESS)}")
        if self.train_distinct is not None and self.train_distinct < 1:
            raise UserError(f"task.train_distinct={self.train_distinct}: must be at least 1, or null")
        if self.train_batch is not None:
            if self.train_batch < 1:
                raise UserError(f"task.train_batch={self.train_batch}: must be at least 1, or null")
            if self.unlabeled_tasks or self.train_distinct or self.train_draw != "independent":
                raise UserError(
                    f"task.train_batch={self.train_batch} draws images, not tasks: "
                    "leave task.unlabeled_tasks, task.train_distinct and task.train_draw out"
                )
        if re.fullmatch(r"\d+w\d+s", self.name):  # of a config whose ways or shots were typed anew
            object.__setattr__(self, "name", f"{self.ways}w{self.shots}s")
