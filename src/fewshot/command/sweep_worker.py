"""Train runs in worker processes of a sweep.

This file also stops such processes.
"""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import fewshot.command.run_folder  # noqa: F401 - the resolvers that Hydra needs before it calls a run
from fewshot.command import devices
from fewshot.startup import quiet_libraries

log = logging.getLogger(__name__)
# Return values of runs without a result: a signal stopped the run; something killed its process.
STOPPED = "stopped"
KILLED = "killed"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class WorkerMain:
    """Call a command's main function in a worker process.

    After a signal the process begins no other run, and returns ``STOPPED``: an exception would not say that the
    run may go on.

    Args:
        main: the function.
        gpus: of the machine, of which a process claims one.
        parent: process id of the sweep; the worker stops when the sweep is gone.
    """

    def __init__(self, main: Callable[[DictConfig], Any], gpus: Sequence[str] = (), parent: int | None = None) -> None:
        self.main = main
        self.gpus = gpus
        self.parent = parent

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        quiet_libraries()  # in the worker, before Hydra composes the settings

    def __call__(self, cfg: DictConfig) -> Any:
        if not _Worker.ready:
            _Worker.ready = True
            devices.claim(self.gpus, HydraConfig.get().job.num)
            if self.parent:
                threading.Thread(target=_stop_without_parent, args=(self.parent,), daemon=True).start()
        if _Worker.stopped:
            return STOPPED
        _Worker.busy = True
        _Worker.handle_signals()
        try:
            return self.main(cfg)
        except SystemExit:  # how a run ends that a signal stopped
            _Worker.stopped = True
            return STOPPED
        finally:
            _Worker.busy = False
            _Worker.handle_signals()  # a run in several processes leaves handlers


class _Worker:
    """Hold the state that a process's runs share."""

    ready = False
    busy = False
    stopped = False

    @classmethod
    def handle_signals(cls) -> None:
        for number in _SIGNALS:
            signal.signal(number, cls.stop)

    @classmethod
    def stop(cls, number: int, frame: FrameType | None) -> None:
        """Stop the worker on a signal.

        During training, the handler of training stops the run.
        """
        first = not cls.stopped
        cls.stopped = True
        if first and cls.busy:
            raise KeyboardInterrupt


def _stop_without_parent(parent: int) -> None:
    """Stop this process once its sweep is killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    while _Worker.busy:
        time.sleep(0.1)
    os._exit(143)


@contextmanager
def forward_signals() -> Iterator[list[int]]:
    """Forward signals to the child processes.

    Yields:
        the list of received signals.
    """
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for child in multiprocessing.active_children():
            if child.pid:
                with suppress(ProcessLookupError):
                    os.kill(child.pid, number)

    before = {number: signal.signal(number, forward) for number in _SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
