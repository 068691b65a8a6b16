"""Show the progress of work that takes seconds."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

log = logging.getLogger(__name__)
PATIENCE = 2.0  # seconds of work without a word
INTERVAL = 60.0  # seconds between two lines in a log
T = TypeVar("T")


def progress(items: Iterable[T], total: int, title: str) -> Iterator[T]:
    """Yield ``items`` and show the progress.

    After two seconds a bar appears, or a line is logged each minute.
    """
    console = Console(stderr=True)
    bar = Progress(console=console)
    task = bar.add_task(title, total=total)
    due = time.monotonic() + PATIENCE
    try:
        for count, item in enumerate(items):
            if time.monotonic() >= due:
                if console.is_terminal:
                    bar.start()
                    due = float("inf")
                else:
                    log.info("%s: %d of %d", title, count, total)
                    due = time.monotonic() + INTERVAL
            yield item
            bar.advance(task)
    finally:
        if bar.live.is_started:
            bar.stop()
