"""How a command ends: every error in one line where a user can act on it, with its exit status."""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from fewshot.callbacks import Stopped
from fewshot.errors import UserError
from fewshot.report.atomic import write_bytes

log = logging.getLogger(__name__)


@contextmanager
def ending(out: Path) -> Iterator[None]:
    """Within: a run that writes to ``out``. Turns what it raises into a message and an exit status.

    A failure is written to ``error.txt``, for the report. In a sweep the other runs go on; a signal ends it.
    """
    try:
        yield
    except Stopped as stop:
        log.error("%s", stop)
        sys.exit(stop.status)
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the one into the other
        log.error("interrupted; what is in %s stays", out)
        sys.exit(130)
    except Exception as error:
        message = explain(error)
        if message is None:
            log.error("%s", traceback.format_exc())
            message = f"{type(error).__name__}: {error}"
        log.error("error: %s", message)
        with suppress(UserError):  # the folder itself may be what failed
            write_bytes(out / "error.txt", f"{message}\n".encode())
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            sys.exit(1)


def explain(error: BaseException) -> str | None:
    """One line for an error of the user, or of their machine; None for one of ours."""
    root = error
    while isinstance(root, InstantiationException) and root.__cause__:
        root = root.__cause__
    if isinstance(root, UserError):
        return str(root)
    if isinstance(root, OSError):
        return f"{root.filename or 'the output folder'}: {root.strerror or root}"
    if isinstance(error, InstantiationException | OmegaConfBaseException):
        where = getattr(error, "full_key", None) or str(error).rpartition("full_key: ")[2]
        return f"{where}: {root}".replace("\n", " ")
    return None


def run(main: Callable[[], None]) -> None:
    """Call a Hydra ``main``; its own errors, and those of the output folder, end in one line too."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra prints tracebacks before the error comes here
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch.utils.data|torchmetrics")
    try:
        main()
    except CompactHydraException as error:
        cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else ""
        sys.exit(f"{error}\n{cause}".strip())
    except OSError as error:
        sys.exit(f"error: {explain(error)}")
