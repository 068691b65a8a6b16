"""Run few-shot experiments on PyTorch Lightning and Hydra."""

from typing import TYPE_CHECKING, Any

from fewshot.torchvision_loading import prepare_torchvision
from fewshot.version import __version__

if TYPE_CHECKING:
    from fewshot.learner import load

__all__ = ["__version__", "load"]

prepare_torchvision()


def __getattr__(name: str) -> Any:
    if name != "load":
        raise AttributeError(f"module 'fewshot' has no attribute {name!r}")
    from fewshot.learner import load  # takes seconds, which ``import fewshot.errors`` need not

    return load
