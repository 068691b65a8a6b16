"""Draw the features of test tasks."""

from pathlib import Path

import pytorch_lightning as pl
import torch

from fewshot.episode import Episode
from fewshot.figures.embedding import Embedded, draw_embedding, principal_components
from fewshot.methods import Method


class Embedding(pl.Callback):
    """Draw features of the first test tasks.

    The features after adapting to each task are drawn in ``embedding.png``. Query images pass the network together, as
    in the test; support images pass it in a batch of their own.

    Args:
        folder: of the file.
        episodes: number of test tasks.
    """

    def __init__(self, folder: str | Path, episodes: int = 4) -> None:
        self.folder = Path(folder)
        self.episodes = episodes

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, Method)
        data = trainer.datamodule  # type: ignore[attr-defined]
        sampler = data.sampler("test")
        numbers = torch.arange(min(self.episodes, data.task.test_episodes))
        names = [[sampler.class_names[c] for c in classes] for classes in sampler.classes(numbers).tolist()]
        with trainer.precision_plugin.test_step_context():
            episodes = sampler(numbers)
            tasks = [_embedded(pl_module, episodes[task], task, names[task]) for task in range(len(episodes))]
        draw_embedding(tasks, self.folder / "embedding.png")


def _embedded(method: Method, episode: Episode, number: int, classes: list[str]) -> Embedded:
    predict = method.predictor(episode)
    query = predict(episode.query_x)
    features = torch.cat([predict(episode.support_x).features, query.features]).float().cpu()
    points, explained = principal_components(features.numpy())
    support = points[: len(episode.support_y)]
    queries = points[len(episode.support_y) :]
    right = (query.logits.argmax(-1) == episode.query_y).cpu().numpy()
    labels = episode.support_y.cpu().numpy(), episode.query_y.cpu().numpy()
    return Embedded(number, support, labels[0], queries, labels[1], right, explained, classes)
