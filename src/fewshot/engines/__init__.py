"""Engines that run the task axis and the inner loop."""

from fewshot.engines.engine import Engine, LoopEngine, VmapEngine

__all__ = ["Engine", "LoopEngine", "VmapEngine"]
