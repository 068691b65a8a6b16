"""The files that a finished run leaves: ``result.json``, ``episodes.csv`` and ``calibration.csv``."""

import json
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from fewshot import __version__
from fewshot.calibration import FILE, Bins
from fewshot.files import write_bytes, write_csv


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """``result.json``, whole or not at all."""
    write_bytes(folder / "result.json", (json.dumps(result, indent=2) + "\n").encode())


def validation_accuracy(folder: Path) -> float | None:
    """What a finished run states; None for one without validation."""
    return json.loads((folder / "result.json").read_text())["val"]["accuracy"]


def write_episodes(folder: Path, rows: Iterable[tuple[int, float, str]]) -> None:
    """``episodes.csv``: one row a test episode."""
    write_csv(folder / "episodes.csv", ("episode", "accuracy", "fingerprint"), rows)


def write_calibration(folder: Path, bins: Bins) -> None:
    """``calibration.csv``: one row a bin of confidence."""
    write_bytes(folder / FILE, bins.csv_text().encode())


def versions() -> dict[str, str]:
    """Of what decides a result."""
    return {
        "fewshot": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pytorch_lightning": pl.__version__,
    }


def git_commit(folder: Path) -> str | None:
    """The commit that ``folder`` is at, with ``-dirty`` where tracked files differ; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ("git", "-C", str(folder), *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def device_name(device: torch.device) -> str:
    """``cpu (2 threads)`` or the name of the GPU."""
    return (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} ({torch.get_num_threads()} threads)"
    )
