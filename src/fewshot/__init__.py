"""Few-shot meta-learning experiments on PyTorch Lightning and Hydra."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewshot.command.load import load

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name != "load":
        raise AttributeError(f"module 'fewshot' has no attribute {name!r}")
    from fewshot.command.load import load  # takes seconds, which ``import fewshot.errors`` need not

    return load
