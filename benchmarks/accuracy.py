"""Measure the training time until accuracy 0.9.

The accuracy is of validation; the seconds include the drawing of tasks.

Ours is a real run, Lightning and all; the peer is the loop of learn2learn's ``examples/vision/maml_omniglot.py``.
Same network, weights to start from, optimiser and inner loop; each draws its own tasks from the same classes.
"""

import time
from dataclasses import replace
from statistics import median

import numpy as np
import torch

from benchmarks import data, meta_step_contenders
from benchmarks.contender import Contender, device
from benchmarks.framework import Run
from benchmarks.report import Options, console, run_benchmarks, save
from benchmarks.rounds import Result, Row, refuse_unequal
from fewshot.episode import Episode
from fewshot.schedule import halving

INNER = meta_step_contenders.Inner(ways=5, steps=1, second_order=True, rate=0.4)
SHOTS = 1
QUERIES = 1
TASKS = 32
RATE = 3e-3
HALF_EVERY = 300  # steps; at 3e-3 all the way both contenders stay below the goal
SLICE = 20
GOAL = 0.9
LIMIT_SECONDS = 720.0
VALIDATION_TASKS = 100
VALIDATION_STEPS = 3


class Judge:
    """Measure accuracy on fixed validation tasks.

    The code is the same for both contenders.
    """

    def __init__(self, name: str, tasks: int) -> None:
        self.method = meta_step_contenders.network(INNER).to(device()).eval()
        self.method.test_steps = VALIDATION_STEPS
        self.episodes = data.sampler(data.splits(name)["val"], name, INNER.ways, SHOTS, 15)(torch.arange(tasks))

    def accuracy(self, weights: meta_step_contenders.Weights) -> float:
        with torch.no_grad():
            for parameter, name in ((p, name) for name, p in self.method.classifier.named_parameters()):
                parameter.copy_(weights[name])
        right = []
        for part in self.episodes.chunks(10):
            part = part.with_tensors({name: value.to(device()) for name, value in part.tensors().items()})
            right.append((self.method.logits(part).argmax(-1) == part.query_y).float().mean(1).cpu())
        return float(torch.cat(right).mean())


class Ours:
    """Train by a framework run from common weights."""

    needs_main_thread = True

    def __init__(self, name: str, inner: meta_step_contenders.Inner, slice_steps: int, validation_tasks: int) -> None:
        self.run = Run(
            slice_steps,
            *("method=maml", f"data={name}", "task=5w1s", "figures=false", f"seed={inner.seed}"),
            *("task.val_episodes=0", f"task.train_queries={QUERIES}", f"task.meta_batch={TASKS}"),
            *(f"method.steps={inner.steps}", f"method.inner_rate={inner.rate}", f"method.optimizer.lr={RATE}"),
            *("method.schedule._target_=fewshot.schedule.halving", f"+method.schedule.every={HALF_EVERY}"),
            "trainer.max_steps=1000000",
            *(("data.rotations=random",) if name == "omniglot" else ()),
        )
        self.judge = self.run.slices.do(lambda: self.start(name, inner, validation_tasks))

    def start(self, name: str, inner: meta_step_contenders.Inner, validation_tasks: int) -> Judge:
        start = meta_step_contenders.network(inner).classifier.state_dict()
        self.run.method.classifier.load_state_dict(start)  # type: ignore[union-attr]
        return Judge(name, validation_tasks)

    def step(self) -> None:
        self.run.step()

    def close(self) -> None:
        self.run.close()

    def weights(self) -> meta_step_contenders.Weights:
        return dict(self.run.method.classifier.named_parameters())  # type: ignore[union-attr]

    def accuracy(self) -> float:
        return float(self.run.slices.do(lambda: self.judge.accuracy(self.weights())))

    def result(self) -> Result:
        return _result(self.weights())


class Peer:
    """Train by a loop of learn2learn."""

    def __init__(self, name: str, inner: meta_step_contenders.Inner, slice_steps: int, validation_tasks: int) -> None:
        self.judge = Judge(name, validation_tasks)
        self.maml = meta_step_contenders.Peer(inner)
        self.optimizer = torch.optim.Adam(self.maml.maml.parameters(), RATE)
        self.tasks = data.TaskSet(data.splits(name)["train"], name, inner.ways, SHOTS, QUERIES, inner.seed)
        self.steps = slice_steps
        self.taken = 0

    def step(self) -> None:
        for _ in range(self.steps):
            self.optimizer.param_groups[0]["lr"] = RATE * halving(self.taken, 0.0, HALF_EVERY)
            self.taken += 1
            self.optimizer.zero_grad()
            for number in range(TASKS):
                zero = torch.tensor(number)
                task = Episode(INNER.ways, *self.tasks.sample(device()), key=zero, fingerprint=zero)
                self.maml.task(task)
            meta_step_contenders.average(self.maml.maml, TASKS)
            self.optimizer.step()

    def accuracy(self) -> float:
        return self.judge.accuracy(self.maml.weights())

    def result(self) -> Result:
        return _result(self.maml.weights())


def _result(weights: meta_step_contenders.Weights) -> Result:
    return {name: value.detach().cpu().numpy().astype(np.float64) for name, value in weights.items()}


class Training:
    """Follow the training of a contender."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self.slices: list[float] = []
        self.accuracy = 0.0

    def train_slice(self) -> None:
        self.slices.append(self.contender.seconds())
        self.accuracy = self.contender.ask("accuracy")

    @property
    def seconds(self) -> float:
        return sum(self.slices)


def train(name: str, seed: int, until: float, quick: bool) -> tuple[Training, Training]:
    """Train both contenders in alternation.

    Stop when each has reached the goal, or the clock shows ``until``.
    """
    given = (name, replace(INNER, seed=seed), 2 if quick else SLICE, 4 if quick else VALIDATION_TASKS)
    goal = 0.0 if quick else GOAL
    with Contender(Ours, *given) as ours, Contender(Peer, *given, ours=False) as peer:
        refuse_unequal(ours.ask("result"), peer.ask("result"), 0.0, "the weights at the start")
        trainings = (Training(ours), Training(peer))
        while time.monotonic() < until and (behind := [t for t in trainings if not t.slices or t.accuracy < goal]):
            for training in behind:
                training.train_slice()
            if len(trainings[1].slices) % 10 == 0:
                shown = (f"{t.accuracy:.3f} after {t.seconds:.0f} s" for t in trainings)
                console.print(f"{len(trainings[1].slices)} slices: {' (ours), '.join(shown)} (peer)")
    return trainings


def main(options: Options) -> None:
    """Train with one to three seeds, time permitting."""
    name = data.choose()
    begun = time.monotonic()
    steps_in_slice = 2 if options.quick else SLICE
    goal = 0.0 if options.quick else GOAL
    case = f"{name}-5w1s"
    runs: list[tuple[Training, Training]] = []
    while len(runs) < (1 if options.quick else 3):
        taken = time.monotonic() - begun
        if runs and taken * (len(runs) + 1) / len(runs) > LIMIT_SECONDS:
            break
        runs.append(train(name, len(runs), begun + LIMIT_SECONDS, options.quick))
    there = [pair for pair in runs if all(training.accuracy >= goal for training in pair)]
    # Slices that both took, one after the other.
    pairs = [pair for ours, peer in runs for pair in zip(ours.slices, peer.slices, strict=False)]
    ours, peer = map(list, zip(*pairs, strict=True))
    rows = [Row("accuracy", f"{case}-{steps_in_slice}-steps", "s", ours, peer)]
    if there:
        ours, peer = ([pair[which].seconds for pair in there] for which in (0, 1))
        rows.append(Row("accuracy", f"{case}-to-{100 * GOAL:.0f}", "s", ours, peer))
        ours, peer = ([float(steps_in_slice * len(pair[which].slices)) for pair in there] for which in (0, 1))
        rows.append(Row("accuracy", f"{case}-steps-to-{100 * GOAL:.0f}", "steps", ours, peer))
    else:
        reached = [median(pair[which].accuracy for pair in runs) for which in (0, 1)]
        console.print(f"{GOAL} was not reached in {LIMIT_SECONDS:.0f} s: ours {reached[0]:.3f}, peer {reached[1]:.3f}")
        rows.append(Row("accuracy", f"{case}-unfinished", "accuracy", [reached[0]], [reached[1]], more_is_better=True))
    save(rows, ("accuracy",), options)


if __name__ == "__main__":
    run_benchmarks(main)
