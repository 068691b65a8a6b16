"""Prepare a command before its libraries load."""

import logging
import os
import sys
import warnings
from types import TracebackType

from fewshot.threads import waiting_variables


def prepare_process() -> None:
    """Set up waiting threads and the exception hook.

    Waiting threads sleep. Ctrl-C while libraries load prints one line.
    """
    os.environ.update(waiting_variables(os.environ))
    sys.excepthook = show_exception


def show_exception(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Print an exception that ends the process.

    Ctrl-C prints one line, since a traceback would help nobody.
    """
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


def quiet_libraries() -> None:
    """Silence library warnings that are not for users."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch.utils.data|torchmetrics|PIL")
    warnings.filterwarnings("ignore", "\\s*'hydra/launcher/.*validated against ConfigStore schema")
