"""Checkpoints: written whole or not at all, and read with errors that a user can act on."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewshot.errors import UserError
from fewshot.networks import ClassHead

log = logging.getLogger(__name__)
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


def newest(folder: Path, named: str = "auto") -> Path | None:
    """The newest readable checkpoint in ``folder``, or ``named``, if that is one; None where there is none yet.

    Raises:
        UserError: there are some, and none can be read.
    """
    files = [Path(named)] if named.endswith(".ckpt") else []
    files += [folder / name for name in (LAST, PREVIOUS) if (folder / name).is_file()]
    for number, file in enumerate(files, 1):
        try:
            read(file, "resume")
        except UserError as error:
            if number == len(files):
                raise
            log.warning("%s; going back to %s", error, files[number])
        else:
            return file
    return None


def read(path: str | Path, key: str = "checkpoint") -> dict[str, Any]:
    """A checkpoint of this project, with its ``state_dict`` and its ``recipe``; ``key`` is the setting that named it.

    Raises:
        UserError: the file is missing, damaged or of another program.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        # An experiment may name weights that another one writes.
        hint = "; run what writes it first, or give weights=null" if key == "weights" else ""
        raise UserError(f"{key}={path}: no such file{hint}") from error
    except IsADirectoryError as error:
        raise UserError(f"{key}={path} is a folder: name a file, such as {path}/checkpoints/best.ckpt") from error
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
    stored = content["state_dict"]
    for name, layer in module.named_modules():
        if isinstance(layer, ClassHead) and f"{name}.weight" in stored:
            layer.resize(len(stored[f"{name}.weight"]))
    wanted = module.state_dict()
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
