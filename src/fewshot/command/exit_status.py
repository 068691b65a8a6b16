"""How a command ends: every error in one line where a user can act on it, with its exit status."""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra.errors import CompactHydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

from fewshot.callbacks import Stopped
from fewshot.errors import FolderTaken, UserError
from fewshot.files import write_bytes

log = logging.getLogger(__name__)


@contextmanager
def report_errors(out: Path, sweep: bool = False, worker: bool = False) -> Iterator[None]:
    """Within: a run that writes to ``out``. Turns what it raises into a message and an exit status.

    A failure is written to ``error.txt``, for the report. In a sweep the other runs go on; a signal ends it.
    A worker leaves the last word to the process that started it, which reads the file of the first that failed.
    """
    level = logging.DEBUG if worker else logging.ERROR
    try:
        yield
    except Stopped as stop:
        log.log(level, "%s", stop)
        sys.exit(stop.status)
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the one into the other
        log.log(level, "interrupted; what is in %s stays", out)
        sys.exit(130)
    except Exception as error:
        message, file = explain(error), out / "error.txt"
        if message is None:
            log.error("%s", traceback.format_exc())
            message = f"{type(error).__name__}: {error}"
        if not isinstance(error, FolderTaken) and not (worker and file.exists()):
            with suppress(UserError):  # the folder itself may be what failed
                write_bytes(file, f"{message}\n".encode())
        log.log(level, "error: %s", message)
        if not sweep:
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


def run_command(main: Callable[[], None]) -> None:
    """Call a Hydra ``main``; its own errors, and those of the output folder, end in one line too."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra prints tracebacks before the error comes here
    quiet_libraries()
    try:
        main()
    except CompactHydraException as error:
        sys.exit(_not_composed(error))
    except OSError as error:
        sys.exit(f"error: {explain(error)}")


def _not_composed(error: CompactHydraException) -> str:
    """Hydra's own words, which list the choices there are; but one line for a setting that is not there."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    if cause is None or not str(error).startswith("Could not override"):
        return f"{error}\n{cause or ''}".strip()
    group, _, name = str(cause.full_key).partition(".")
    if not name:
        return f"error: {group}: there is no such setting or group (python run.py --cfg job shows all)"
    return (
        f"error: {cause.full_key}: the chosen {group} has no such setting (python run.py --cfg job shows all); "
        f"if another choice or a checkpoint has it, type {group}=NAME too"
    )


def quiet_libraries() -> None:
    """Lightning's advice is for its own programs, and that ``conf/`` has files named like a plugin's is meant."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch.utils.data|torchmetrics|PIL")
    warnings.filterwarnings("ignore", "\\s*'hydra/launcher/.*validated against ConfigStore schema")
