"""Measure episodes per second beside learn2learn.

An episode is drawn, gathered, rotated, and split into support and query images.
"""

from collections.abc import Iterable
from itertools import count

import numpy as np
import torch
from torch import Tensor

from benchmarks import data
from benchmarks.contender import Contender, device
from benchmarks.report import Options, run_benchmarks, save
from benchmarks.rounds import Result, Row, alternate, refuse_unequal
from fewshot.data import Split
from fewshot.episode import Episode

BATCH = 32
ROUND_SECONDS = 0.5


class Ours:
    """Draw batches of our sampler."""

    def __init__(self, name: str, ways: int, shots: int, queries: int) -> None:
        self.split = data.splits(name)["train"]
        self.sampler = data.sampler(self.split, name, ways, shots, queries)
        self.numbers = count()
        if device().type == "cuda":
            on_device = Split(self.split.name, self.split.images.to(device()), self.split.counts, self.split.classes)
            self.sampler = data.sampler(on_device, name, ways, shots, queries)

    def batch(self) -> Episode:
        first = next(self.numbers) * BATCH
        return self.sampler(torch.arange(first, first + BATCH))

    def step(self, batches: int) -> None:
        for _ in range(batches):
            self.batch()

    def result(self) -> Result:
        batch = self.batch()
        tasks = zip(batch.support_x, batch.support_y, batch.query_x, batch.query_y, strict=True)
        return facts(self.split, tasks)


class Peer:
    """Draw as many tasks of learn2learn."""

    def __init__(self, name: str, ways: int, shots: int, queries: int) -> None:
        self.split = data.splits(name)["train"]
        self.tasks = data.TaskSet(self.split, name, ways, shots, queries)

    def step(self, batches: int) -> None:
        for _ in range(batches * BATCH):
            self.tasks.sample(device())

    def result(self) -> Result:
        return facts(self.split, (self.tasks.sample() for _ in range(BATCH)))


def facts(split: Split, tasks: Iterable[tuple[Tensor, Tensor, Tensor, Tensor]]) -> Result:
    """Describe each task by numbers of its kind.

    All tasks of one kind have the same numbers.

    Sizes, the number of images of each label, that no image comes twice, and that images of one label are of one
    class, a class of one label.
    """
    owner: dict[bytes, int] = {}
    for turn in range(4):
        every = torch.rot90(split.images, turn, (2, 3)).contiguous().numpy()
        rows = zip(every, torch.arange(len(split.counts)).repeat_interleave(split.counts).tolist(), strict=True)
        owner |= {image.tobytes(): row for image, row in rows}
    described: list[list[float]] = []
    for support_x, support_y, query_x, query_y in tasks:
        x = torch.cat([support_x, query_x]).cpu()
        y = torch.cat([support_y, query_y]).cpu()
        images = [image.tobytes() for image in (x * 255).round().byte().numpy()]
        pairs = {(label, owner[image]) for label, image in zip(y.tolist(), images, strict=True)}
        described.append(
            [
                *x.shape, len(set(images)), len(pairs), len({label for label, _ in pairs}), len({c for _, c in pairs}),
                *support_y.bincount().tolist(), *query_y.bincount().tolist(),
            ]
        )  # fmt: skip
    return {"facts": np.array(described, dtype=np.float64)}


def main(options: Options) -> None:
    """Measure two shapes of episodes."""
    name = data.choose()
    rows = []
    for shots in (5, 1):
        case = f"{name}-5w{shots}s-q15"
        if options.wants(case):
            rows.append(compare(case, name, shots, options.quick))
    save(rows, ("episodes",), options)


def compare(case: str, name: str, shots: int, quick: bool) -> Row:
    """Compare the episodes per second of both."""
    ours, peer = (Contender(factory, name, 5, shots, 15, ours=factory is Ours) for factory in (Ours, Peer))
    with ours, peer:
        refuse_unequal(ours.ask("result"), peer.ask("result"), 0.0, case)
        batches = {each: max(1, round(ROUND_SECONDS / each.seconds("step", 1))) for each in (ours, peer)}
        least = 2 if quick else 5

        def rate(contender: Contender) -> float:
            return batches[contender] * BATCH / contender.seconds("step", batches[contender])

        rates = alternate(ours, peer, least, least if quick else 15, measure=rate)
    return Row("episodes", case, "episodes/s", *rates, more_is_better=True)


if __name__ == "__main__":
    run_benchmarks(main)
