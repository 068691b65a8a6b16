"""Engines that run the task axis and the inner loop."""

from fewshot.inner.engine import Engine, LoopEngine, VmapEngine

__all__ = ["Engine", "LoopEngine", "VmapEngine"]
