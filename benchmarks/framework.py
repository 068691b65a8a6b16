"""Pause and continue a real run, slice by slice."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Semaphore
from typing import Any

import pytorch_lightning as pl
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

import fewshot.command.run_folder  # noqa: F401 - resolvers of conf/config.yaml
from benchmarks import ROOT
from benchmarks.contender import MAIN_THREAD
from fewshot.command.execute import execute
from fewshot.command.job import Job, prepare
from fewshot.startup import quiet_libraries


def prepared_job(folder: str, *overrides: str) -> Job:
    """Return the job of ``python run.py OVERRIDES``."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        typed = [*overrides, f"hydra.run.dir={folder}"]
        cfg: DictConfig = compose("config", overrides=typed, return_hydra_config=True)
    OmegaConf.set_readonly(cfg.hydra, False)
    OmegaConf.set_struct(cfg, False)
    cfg.hydra.runtime.output_dir = folder
    HydraConfig.instance().set_config(cfg)
    del cfg["hydra"]
    prepared = prepare(cfg, Path(folder), None)
    assert prepared is not None, "a fresh folder holds no result"
    return prepared


class PausedProgram:
    """Run a program in slices.

    The program pauses until another thread asks for the next slice. The program has the main thread, since the
    framework handles signals.
    """

    def __init__(self, program: Callable[[], None]) -> None:
        self._program = program
        self._asked = SimpleQueue[Callable[[], Any] | None]()
        self._still = Semaphore(0)
        self._result: Any = None
        self._error: BaseException | None = None
        MAIN_THREAD.put(self._run)

    def step(self) -> None:
        """Let the program run until its next pause."""
        self._ask(None)

    def do(self, work: Callable[[], Any]) -> Any:
        """Return the result of ``work`` in the main thread.

        Torch starts threads for each thread that computes: a second one would slow both.
        """
        self._ask(work)
        return self._result

    def pause(self) -> None:
        """Pause; the program calls this method."""
        self._still.release()
        self._wait()

    def _ask(self, work: Callable[[], Any] | None) -> None:
        self._asked.put(work)
        self._still.acquire()
        if self._error:
            raise RuntimeError("the run ended") from self._error

    def _wait(self) -> None:
        while (work := self._asked.get()) is not None:
            self._result = work()
            self._still.release()

    def _run(self) -> None:
        try:
            self._wait()
            self._program()
            self._error = RuntimeError("before it was asked to")
        except BaseException as error:
            self._error = error
        self._still.release()


class PauseEvery(pl.Callback):
    """Pause when training begins and every ``steps`` steps."""

    def __init__(self, steps: int, run: "Run") -> None:
        self.steps = steps
        self.run = run

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.run.method = pl_module
        self.run.slices.pause()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step % self.steps == 0:
            self.run.slices.pause()


class Run:
    """Start ``run.py`` until training begins.

    ``step`` then takes ``steps`` training steps.

    Args:
        steps: training steps of a slice.
        overrides: the command line.
        terminal: show the progress bar, on a terminal that nobody sees.
    """

    needs_main_thread = True
    present: "Run"  # the one of this process, for the callback that a config names

    def __init__(self, steps: int, *overrides: str, terminal: bool = True) -> None:
        quiet_libraries()
        if terminal:
            _unseen_terminal()
        Run.present = self
        self.steps = steps
        self.method: pl.LightningModule | None = None
        self._folder = tempfile.TemporaryDirectory()
        job = prepared_job(self._folder.name, *overrides)
        job.settings["callbacks"] = {"pause": {"_target_": "benchmarks.framework.pause_present"}}
        self.slices = PausedProgram(lambda: execute(job))
        self.slices.step()

    def step(self) -> None:
        self.slices.step()

    def close(self) -> None:
        self._folder.cleanup()


def pause_present() -> PauseEvery:
    """Return the callback of this process's run."""
    return PauseEvery(Run.present.steps, Run.present)


def _unseen_terminal() -> None:
    """Make standard output and error a terminal.

    Another process reads this terminal.
    """
    master, slave = os.openpty()
    subprocess.Popen(["cat"], stdin=master, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.environ.update(TERM="xterm-256color", COLUMNS="120", LINES="40")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(slave, stream.fileno())
    os.close(master)
