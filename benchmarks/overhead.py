"""Measure the overhead over a bare loop.

Lightning, logging and the progress bar add the overhead.
"""

import tempfile
from itertools import count

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate

from benchmarks import data
from benchmarks.contender import Contender, device
from benchmarks.framework import Run, prepared_job
from benchmarks.meta_step_contenders import average
from benchmarks.report import Options, run_benchmarks, save
from benchmarks.rounds import Result, Row, alternate, refuse_unequal
from fewshot.data import EpisodeData, Task
from fewshot.methods import Method

SLICE = 20
SETTINGS = ("method=maml", "task=5w1s", "task.val_episodes=0", "trainer.max_steps=1000000", "figures=false")


class Framework(Run):
    """Train as ``python run.py method=maml task=5w1s`` does."""

    def __init__(self, name: str, steps: int) -> None:
        super().__init__(steps, *SETTINGS, f"data={name}")

    def result(self) -> Result:
        return _weights(self.method)


class Bare:
    """Take the same training step in a bare loop."""

    def __init__(self, name: str, steps: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            cfg = prepared_job(folder, *SETTINGS, f"data={name}").cfg
        pl.seed_everything(cfg.seed, verbose=False)
        self.method: Method = instantiate(cfg.method).to(device()).train()
        self.task = Task(**cfg.task)
        source = EpisodeData(
            instantiate(cfg.data.dataset), self.task, cfg.seed, 1, cfg.data.rotations, cfg.data.mean, cfg.data.std
        )
        source.setup()
        self.sampler = source.sampler("train", device())
        assert self.method.make_optimizer is not None
        self.optimizer = self.method.make_optimizer(self.method.parameters())
        self.steps = steps
        self.numbers = count()

    def step(self) -> None:
        method = self.method
        tasks = self.task.meta_batch
        for _ in range(self.steps):
            first = next(self.numbers) * tasks
            episodes = self.sampler(torch.arange(first, first + tasks))
            self.optimizer.zero_grad()
            for chunk in method.chunks(episodes):
                method.engine.map_tasks(method.task_terms, chunk)["objective"].sum().backward()
            average(method, tasks)
            self.optimizer.step()

    def result(self) -> Result:
        return _weights(self.method)


def _weights(method: pl.LightningModule | None) -> Result:
    assert method is not None
    return {name: value.detach().cpu().numpy().copy() for name, value in method.named_parameters()}


def main(options: Options) -> None:
    """Compare the framework with the bare loop."""
    name = data.choose()
    ours, peer = (Contender(factory, name, 2 if options.quick else SLICE) for factory in (Framework, Bare))
    with ours, peer:
        refuse_unequal(ours.ask("result"), peer.ask("result"), 0.0, "the weights at the start")
        for contender in (ours, peer):
            contender.seconds()
        refuse_unequal(ours.ask("result"), peer.ask("result"), 1e-3, "the weights after the first steps")
        seconds = alternate(ours, peer, *((2, 2) if options.quick else (15, 15)))
    steps = 2 if options.quick else SLICE
    framework, bare = ([1e3 * value / steps for value in values] for values in seconds)
    save([Row("overhead", f"{name}-5w1s-maml", "ms", framework, bare)], ("overhead",), options)


if __name__ == "__main__":
    run_benchmarks(main)
