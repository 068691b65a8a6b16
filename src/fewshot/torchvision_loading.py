"""Let torchvision load beside a torch that it was not built for.

The package index offers torchvision for CUDA only. Beside a torch for CPUs its compiled part does not load, and
``import torchvision`` fails, and with it torchmetrics and timm, though neither needs the compiled part here. The import
succeeds where the two operators that it registers shapes for are declared first.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[Any] = []  # torch forgets the operators of a library that nobody holds


class _BeforeTorchvision(MetaPathFinder):
    """Declare missing operators before torchvision is found."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _declare_missing_operators()
        return None  # the usual finders go on


def prepare_torchvision() -> None:
    """Watch for the first import of torchvision.

    Nothing is imported now, and nothing changes where torchvision's compiled part loads.
    """
    if "torchvision" not in sys.modules:
        sys.meta_path.insert(0, _BeforeTorchvision())


def _declare_missing_operators() -> None:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    import torch  # torchvision imports it in any case

    try:
        for compiled in Path(spec.origin).parent.glob("_C.*"):
            torch.ops.load_library(str(compiled))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for operator in _OPERATORS:
            library.define(operator)
        _declared.append(library)
