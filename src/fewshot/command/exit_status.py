"""Turn errors into messages and exit statuses."""

import logging
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra.errors import CompactHydraException, InstantiationException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from fewshot.callbacks import Stopped
from fewshot.command.paths import expand_home
from fewshot.errors import FolderTaken, UserError
from fewshot.files import printable, write_bytes
from fewshot.startup import quiet_libraries

log = logging.getLogger(__name__)


@contextmanager
def report_errors(out: Path, sweep: bool = False, worker: bool = False) -> Iterator[None]:
    """Turn exceptions into a line and an exit status.

    ``out`` is the folder of the run. A failure is written to ``error.txt``, for the report. In a sweep the other runs
    go on; a signal ends it. A worker leaves the last word to the process that started it, which reads the file of the
    first that failed.
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
    """Explain an error in one line.

    None for an error that is neither the user's nor the machine's.
    """
    root = error
    while isinstance(root, InstantiationException) and root.__cause__:
        root = root.__cause__
    if isinstance(root, UserError):
        return printable(str(root))  # a name in it may hold line breaks and escape sequences
    if isinstance(root, OSError):
        return printable(f"{root.filename or 'the output folder'}: {root.strerror or root}")
    if isinstance(error, InstantiationException | OmegaConfBaseException):
        where = getattr(error, "full_key", None) or str(error).rpartition("full_key: ")[2]
        return _one_line(f"{where}: {root}")
    return None


def run_command(main: Callable[[], None]) -> None:
    """Call a Hydra ``main`` function.

    Exit with one line if the settings do not compose.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra prints tracebacks before the error comes here
    quiet_libraries()
    try:
        sys.argv[1:] = _complete_arguments(sys.argv[1:])
        main()
    except CompactHydraException as error:
        sys.exit(_explain_composition(error))
    except (UserError, OmegaConfBaseException, ValueError) as error:  # errors of runs do not come here
        sys.exit(f"error: {_one_line(error)}")
    except OSError as error:
        sys.exit(f"error: {explain(error)}")


def _complete_arguments(arguments: Sequence[str]) -> list[str]:
    """Replace ``~`` in the command line.

    On resume ``data.root`` is added where the data of the command line itself, not of the run, have none.
    """
    arguments = [_expand_home(argument) for argument in arguments]
    resumes = any(argument.startswith("resume=") and argument != "resume=auto" for argument in arguments)
    return [f"++{typed}" if resumes and typed.startswith("data.root=") else typed for typed in arguments]


def _expand_home(argument: str) -> str:
    """Replace ``~`` in ``KEY=~/...`` by the home folder.

    Hydra refuses a ``~``.
    """
    key, is_override, value = argument.partition("=")
    return f"{key}={expand_home(value, key)}" if is_override and value.startswith("~/") else argument


def _explain_composition(error: CompactHydraException) -> str:
    """Explain why the settings do not compose.

    Returns:
        one line for a mistake in an override; else Hydra's own list of choices.
    """
    if isinstance(error, OverrideParseException):
        return _advise_quotes(error.override, "Hydra cannot read this")
    if ambiguous := re.match("Ambiguous value for argument '(.*)'", str(error)):
        return _advise_quotes(ambiguous[1], "a list is written [a,b], a sweep needs -m")
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


def _advise_quotes(override: str, reason: str) -> str:
    """Explain how to quote a value for Hydra.

    The value has characters of Hydra's grammar.
    """
    key, is_override, value = override.partition("=")
    if not is_override:
        return f"error: {override}: must be KEY=VALUE"
    escaped = value.strip("\"'").replace('"', '\\"')
    quoted = shlex.quote(f'{key}="{escaped}"')
    return f"error: {_one_line(override)}: {reason}; if it is a text, quote it for Hydra too: {_one_line(quoted)}"


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
