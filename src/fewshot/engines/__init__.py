"""Run the axis of tasks and the inner loop."""

from fewshot.engines.engine import Engine, LoopEngine, VmapEngine

__all__ = ["Engine", "LoopEngine", "VmapEngine"]
