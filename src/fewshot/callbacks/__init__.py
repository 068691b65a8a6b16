"""Record, show and stop runs: Lightning callbacks."""

from fewshot.callbacks.boundary import DecisionBoundary
from fewshot.callbacks.collapse import Collapse
from fewshot.callbacks.confusion import Confusion
from fewshot.callbacks.dashboard import Dashboard
from fewshot.callbacks.embedding import Embedding
from fewshot.callbacks.figures import Figures
from fewshot.callbacks.inner_steps import InnerSteps
from fewshot.callbacks.open_set import OpenSet
from fewshot.callbacks.progress import Progress
from fewshot.callbacks.scores import Scores
from fewshot.callbacks.stopping import Stopped, Stopping
from fewshot.callbacks.stored_settings import StoredSettings
from fewshot.callbacks.throughput import Throughput

__all__ = [
    "Collapse",
    "Confusion",
    "Dashboard",
    "DecisionBoundary",
    "Embedding",
    "Figures",
    "InnerSteps",
    "OpenSet",
    "Progress",
    "Scores",
    "Stopped",
    "Stopping",
    "StoredSettings",
    "Throughput",
]
