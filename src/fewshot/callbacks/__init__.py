"""Lightning callbacks: what a run records, and how it stops."""

from fewshot.callbacks.boundary import DecisionBoundary
from fewshot.callbacks.collapse import Collapse
from fewshot.callbacks.dashboard import Dashboard
from fewshot.callbacks.figures import Figures
from fewshot.callbacks.progress import Progress
from fewshot.callbacks.recipe import Recipe
from fewshot.callbacks.scores import Scores
from fewshot.callbacks.stopping import Stopped, Stopping
from fewshot.callbacks.throughput import Throughput

__all__ = [
    "Collapse",
    "Dashboard",
    "DecisionBoundary",
    "Figures",
    "Progress",
    "Recipe",
    "Scores",
    "Stopped",
    "Stopping",
    "Throughput",
]
