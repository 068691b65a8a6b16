"""Record versions, commit and device of a run.

Versions, commit, device and settings decide a result.
"""

import logging
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from fewshot.version import __version__

log = logging.getLogger(__name__)


def versions() -> dict[str, str]:
    """Return the library versions that decide a result."""
    return {
        "fewshot": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pytorch_lightning": version("pytorch_lightning"),
    }


def git_commit(folder: Path) -> str | None:
    """Return the git commit of ``folder``.

    The commit ends in ``-dirty`` where files differ. Outside a checkout the commit is None. A checkout that git refuses
    to read, for example one of another user, is None with a warning.
    """

    def git(*arguments: str) -> str:
        command = ("git", "-C", str(folder), *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError) as error:
        if (folder / ".git").exists():
            reason = str(getattr(error, "stderr", None) or error).strip().partition("\n")[0]
            log.warning("the commit of %s is not recorded: %s", folder, reason)
        return None


def device_name(device: torch.device) -> str:
    """Return the name of the device.

    Examples are ``cpu (2 threads)`` and the name of a GPU.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device} ({torch.get_num_threads()} threads)"
