"""Run learn2learn's own inner loop.

This engine is the reference of the other engines. Arnold et al., "learn2learn: a library for meta-learning research",
2020, version 0.2.0.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import nn

from fewshot.engines.engine import LoopEngine
from fewshot.engines.gradient import InnerLoss, Params, Rates
from fewshot.errors import UserError

INSTALL = "pip install --no-deps -r requirements-learn2learn.txt"
# learn2learn imports these modules for parts that nobody here uses.
UNUSED = ("gym", "qpth", "torchvision")


class Learn2LearnEngine(LoopEngine):
    """Loop over tasks with learn2learn's inner steps.

    The steps are those in ``learn2learn.algorithms.MAML``.

    Raises:
        UserError: learn2learn cannot be imported.
    """

    def __init__(self, chunk: int | None = None, checkpoint: bool = False) -> None:
        if checkpoint:
            raise UserError("engine.checkpoint=true: learn2learn has no such thing; choose engine=vmap or loop")
        super().__init__(chunk)
        self.maml = load_learn2learn().algorithms.MAML

    def descend(self, loss: InnerLoss, params: Params, rates: Rates, steps: int, second_order: bool) -> Params:
        """Descend as ``Engine.descend``, with one rate.

        All parameters have the same rate.

        Raises:
            UserError: parameters have different rates, which learn2learn does not know.
        """
        values = {rate for rate in rates.values() if isinstance(rate, float)}
        if len(values) != 1 or len(values) != len(set(map(id, rates.values()))):
            raise UserError("engine=learn2learn takes one inner rate for all parameters: choose engine=vmap or loop")
        graph = torch.is_grad_enabled()
        with torch.enable_grad():  # of the inner loop, also where the task is only evaluated
            first_order = not (second_order and graph)
            # A descent without a graph may go on from the constants that another one returned.
            start = {
                name: value if value.requires_grad else value.detach().requires_grad_()
                for name, value in params.items()
            }
            learner = self.maml(_Parameters(start), lr=values.pop(), first_order=first_order).clone()
            for step in range(steps):
                learner.adapt(loss(learner.module.named(), step))
        adapted = learner.module.named()
        return adapted if graph else {name: value.detach() for name, value in adapted.items()}


class _Parameters(nn.Module):
    """Hold tensors as a module, which learn2learn clones."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.names = list(params)
        for number, value in enumerate(params.values()):
            self._parameters[f"{number}"] = value  # type: ignore[assignment]

    def named(self) -> Params:
        """Return the tensors by their names."""
        return dict(zip(self.names, self._parameters.values(), strict=True))  # type: ignore[arg-type]


def load_learn2learn() -> ModuleType:
    """Import ``learn2learn`` with stand-ins for unused modules.

    Only missing modules of ``UNUSED`` get a stand-in.

    Raises:
        UserError: learn2learn is not installed.
    """
    missing = [name for name in UNUSED if not _imports(name)]
    finder = _StandIns(missing)
    sys.meta_path.insert(0, finder)
    try:
        return importlib.import_module("learn2learn")
    except ImportError as error:
        raise UserError(f"learn2learn cannot be imported ({error}): {INSTALL}") from error
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] in missing]:
            del sys.modules[name]  # nobody else may take a stand-in for the real module


def _imports(name: str) -> bool:
    try:
        importlib.import_module(name)
    except Exception:  # torchvision of another build fails with whatever comes first
        for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] == name]:
            del sys.modules[loaded]
        return False
    return True


class _StandIns(MetaPathFinder, Loader):
    """Import stand-ins for missing modules.

    Every name in a stand-in is a class, to call or to inherit from.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname.split(".")[0] in self.names else None

    def exec_module(self, module: ModuleType) -> None:
        module.__getattr__ = _stand_in  # type: ignore[method-assign]


def _stand_in(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {"__init__": lambda self, *args, **settings: None})
