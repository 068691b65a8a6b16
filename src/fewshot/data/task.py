"""What a task looks like, in evaluation and in training."""

from dataclasses import dataclass

from fewshot.errors import UserError

_LEAST = {
    "ways": 2, "shots": 1, "queries": 1, "train_ways": 2, "train_shots": 1, "train_queries": 1,
    "meta_batch": 1, "test_episodes": 2, "val_episodes": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """The numbers of an episode.

    Attributes:
        ways, shots, queries: classes, support and query images a class; what validation and test use.
        train_ways, train_shots, train_queries: the same in training, set by each method's recipe.
        meta_batch: training tasks a step, over all processes.
        test_episodes, val_episodes: how many fixed episodes each split is scored on.
        test_seed: the seed of those episodes, apart from the training seed.
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

    def __post_init__(self) -> None:
        for field, least in _LEAST.items():
            value = getattr(self, field)
            if not isinstance(value, int) or value < least:
                raise UserError(f"task.{field}={value}: must be a whole number of at least {least}")
