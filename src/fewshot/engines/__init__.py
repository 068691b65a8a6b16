"""Run tasks and their inner loops."""

from fewshot.engines.engine import Engine, LoopEngine, VmapEngine

__all__ = ["Engine", "LoopEngine", "VmapEngine"]
