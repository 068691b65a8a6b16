"""Keep each contender in its own idle process.

The process works only when asked.
"""

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import torch

from fewshot import memory
from fewshot.errors import UserError

# Programs for the main thread of a contender whose class says ``needs_main_thread``; questions come to another thread.
MAIN_THREAD: SimpleQueue[Callable[[], None]] = SimpleQueue()


def device() -> torch.device:
    """Return the GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Contender:
    """Hold an object in a fresh process.

    ``factory(*arguments)`` builds the object.

    Args:
        factory: of a module, so that another process finds it. The object may have a method ``close``.
        arguments: values that can be pickled.
        ours: give the process the settings that the command line of the framework has; a plain script of another
            library has none.

    Raises:
        UserError: the other process raised the same error.
    """

    def __init__(self, factory: Callable[..., Any], *arguments: Any, ours: bool = True) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, factory, arguments, ours), daemon=True)
        self._process.start()
        other.close()

    def wait(self) -> "Contender":
        """Wait until the object is built."""
        self._answer()
        return self

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call a method and return its result."""
        self._connection.send((name, arguments))
        return self._answer()

    def seconds(self, name: str = "step", *arguments: Any) -> float:
        """Measure a method's seconds until the device is done."""
        return float(self.ask("seconds", name, *arguments))

    def peak_mb(self) -> float:
        """Return the peak memory in MB.

        The memory when the object was built is subtracted.
        """
        return float(self.ask("peak_mb"))

    def close(self) -> None:
        self._connection.close()
        self._process.join(10)
        self._process.kill()
        self._process.join()

    def __enter__(self) -> "Contender":
        return self.wait()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _answer(self) -> Any:
        try:
            kind, value = self._connection.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"a contender ended with status {self._process.exitcode}") from None
        if kind == "refused":
            raise UserError(value)
        if kind == "failed":
            raise RuntimeError(f"a contender failed:\n{value}")
        return value


def _serve(connection: Connection, factory: Callable[..., Any], arguments: tuple[Any, ...], ours: bool) -> None:
    if getattr(factory, "needs_main_thread", False):
        Thread(target=_answer, args=(connection, factory, arguments, ours), daemon=True).start()
        MAIN_THREAD.get()()
        Event().wait()  # the other thread ends the process
    _answer(connection, factory, arguments, ours)


def _answer(connection: Connection, factory: Callable[..., Any], arguments: tuple[Any, ...], ours: bool) -> None:
    """Build the object, then answer requests.

    The process ends when nobody asks any more.
    """
    status = 1
    close = None
    try:
        if ours:
            memory.keep_freed()
        contender = factory(*arguments)
        close = getattr(contender, "close", None)
        memory.reset_peak()
        rest = _resting_mb()
        connection.send(("done", None))
        while True:
            name, given = connection.recv()
            if name == "seconds":
                connection.send(("done", _timed(getattr(contender, given[0]), *given[1:])))
            elif name == "peak_mb":
                connection.send(("done", memory.peak_mb(device()) - rest))
            else:
                connection.send(("done", getattr(contender, name)(*given)))
    except EOFError:
        status = 0
    except UserError as error:
        connection.send(("refused", str(error)))
    except Exception:
        connection.send(("failed", traceback.format_exc()))
    finally:
        if close:
            close()
        os._exit(status)  # whatever the main thread does


def _timed(work: Callable[..., object], *arguments: Any) -> float:
    synchronise()
    start = time.perf_counter()
    work(*arguments)
    synchronise()
    return time.perf_counter() - start


def _resting_mb() -> float:
    """Return the process's memory now, in MB."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated() / 1e6
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return memory.peak_mb(device())  # not Linux: the peak until now
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024 / 1e6
