"""Checkpoints: written whole or not at all, and read with errors that a user can act on."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from torch import nn

from fewshot.errors import UserError
from fewshot.report.atomic import write_bytes


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's own, but a full disk or a kill while writing leaves the previous file as it was.

    Lightning writes to the system's temporary folder first; a move from there may cross file systems.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_bytes(Path(path), content.getvalue())


def read(path: str | Path, key: str = "checkpoint") -> dict[str, Any]:
    """A checkpoint of this project, with its ``state_dict`` and its ``recipe``; ``key`` is the setting that named it.

    Raises:
        UserError: the file is missing, damaged or of another program.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{key}={path}: no such file; run what writes it first, or give {key}=null") from error
    except Exception as error:  # a damaged file fails in many ways, none of which says more
        raise UserError(f"{key}={path}: not a readable checkpoint ({type(error).__name__})") from error
    if not isinstance(content, dict) or "state_dict" not in content or "recipe" not in content:
        raise UserError(f"{key}={path}: not a checkpoint of this project (it holds no recipe)")
    return content


def load_weights(module: nn.Module, content: dict[str, Any], path: str | Path, key: str = "checkpoint") -> None:
    """Copy the weights of a checkpoint into ``module``; ``key`` is the setting that named it.

    Raises:
        UserError: the network is another; the message names the first differences.
    """
    stored, wanted = content["state_dict"], module.state_dict()
    differences = [f"{name} is missing" for name in wanted if name not in stored]
    differences += [f"{name} is not in the network" for name in stored if name not in wanted]
    differences += [
        f"{name} is {tuple(stored[name].shape)} there and {tuple(wanted[name].shape)} here"
        for name in wanted
        if name in stored and stored[name].shape != wanted[name].shape
    ]
    if differences:
        more = f" and {len(differences) - 2} more" if len(differences) > 2 else ""
        raise UserError(f"{key}={path} is of another network or number of classes: {'; '.join(differences[:2])}{more}")
    module.load_state_dict(stored)
