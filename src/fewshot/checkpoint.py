"""Reading checkpoints, with errors that a user can act on."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewshot.errors import UserError


def read(path: str | Path) -> dict[str, Any]:
    """A checkpoint of this project, with its ``state_dict`` and its ``recipe``.

    Raises:
        UserError: the file is missing, damaged or of another program.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=False)
    except FileNotFoundError as error:
        raise UserError(f"checkpoint={path}: no such file") from error
    except Exception as error:  # a damaged file fails in many ways, none of which says more
        raise UserError(f"checkpoint={path}: not a readable checkpoint ({type(error).__name__})") from error
    if not isinstance(content, dict) or "state_dict" not in content or "recipe" not in content:
        raise UserError(f"checkpoint={path}: not a checkpoint of this project (it holds no recipe)")
    return content


def load_weights(module: nn.Module, content: dict[str, Any], path: str | Path) -> None:
    """Copy the weights of a checkpoint into ``module``.

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
        raise UserError(
            f"checkpoint={path} is of another network or number of classes: {'; '.join(differences[:2])}{more}"
        )
    module.load_state_dict(stored)
