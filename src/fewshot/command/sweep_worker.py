"""A run in a process that a launcher of Hydra has started, and how such processes end."""

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
from fewshot.command.exit_status import quiet_libraries

log = logging.getLogger(__name__)
STOPPED = "stopped"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Run:
    """Calls the main function of a command in a worker process.

    After a signal a process begins no other run, and returns ``STOPPED``: an exception would make joblib kill the
    others before they have written their checkpoints.
    """

    def __init__(self, main: Callable[[DictConfig], Any], gpus: Sequence[str] = (), parent: int | None = None) -> None:
        self.main, self.gpus, self.parent = main, gpus, parent

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        quiet_libraries()  # in the worker, before Hydra composes the settings

    def __call__(self, cfg: DictConfig) -> Any:
        if not _Process.ready:
            _Process.ready = True
            devices.claim(self.gpus, HydraConfig.get().job.num)
            if self.parent:
                threading.Thread(target=_end_with, args=(self.parent,), daemon=True).start()
        if _Process.stopped:
            return STOPPED
        _Process.busy = True
        _Process.listen()
        try:
            return self.main(cfg)
        except SystemExit:  # how a run ends that a signal stopped
            _Process.stopped = True
            return STOPPED
        finally:
            _Process.busy = False
            _Process.listen()  # processes of a run of several leave handlers


class _Process:
    """What holds for all runs of this process."""

    ready = busy = stopped = False

    @classmethod
    def listen(cls) -> None:
        for number in _SIGNALS:
            signal.signal(number, cls.stop)

    @classmethod
    def stop(cls, number: int, frame: FrameType | None) -> None:
        """Outside of training, which has its own handler."""
        first, cls.stopped = not cls.stopped, True
        if first and cls.busy:
            raise KeyboardInterrupt


def _end_with(parent: int) -> None:
    """A sweep that was killed leaves no run behind."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    while _Process.busy:
        time.sleep(0.1)
    os._exit(143)


@contextmanager
def passing_signals_on() -> Iterator[list[int]]:
    """Within: signals go to the processes that this one has started; yields those received."""
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for child in multiprocessing.active_children():
            if child.pid:
                with suppress(ProcessLookupError):
                    os.kill(child.pid, number)

    before = {number: signal.signal(number, pass_on) for number in _SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
