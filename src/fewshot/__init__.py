"""Run few-shot experiments on PyTorch Lightning and Hydra."""

from typing import TYPE_CHECKING, Any

from fewshot.torchvision_loading import prepare_torchvision
from fewshot.version import __version__

if TYPE_CHECKING:
    from fewshot.learner import load
    from fewshot.pretrained_learner import pretrained

__all__ = ["__version__", "load", "pretrained"]

prepare_torchvision()


def __getattr__(name: str) -> Any:
    # These take seconds, which ``import fewshot.errors`` need not.
    if name == "load":
        from fewshot.learner import load

        return load
    if name == "pretrained":
        from fewshot.pretrained_learner import pretrained

        return pretrained
    raise AttributeError(f"module 'fewshot' has no attribute {name!r}")
