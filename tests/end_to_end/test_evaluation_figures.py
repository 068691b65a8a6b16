"""What a test leaves beside its scores: confusions, embeddings, curves over inner steps."""

import csv
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from test_pictures import MadeUp

from fewshot.callbacks import Confusion, Embedding, Figures, InnerSteps, Scores
from fewshot.data import EpisodeData, Gaussians, Split, Task
from fewshot.engines import VmapEngine
from fewshot.methods import MAML
from fewshot.networks import mlp
from methods_table import METHODS, adam, build, with_head
from synthetic_data import synthetic_split


class Coloured:
    """Images of 3 channels."""

    def load(self):
        grey = {name: synthetic_split(name=f"made/{name}", seed=len(name)) for name in ("train", "val", "test")}
        return {n: Split(s.name, s.images.repeat(1, 3, 1, 1), s.counts, s.classes) for n, s in grey.items()}


def scored(folder: Path, method, dataset, figures: bool = True, ways: int = 5, episodes: int = 7) -> Scores:
    """Test without training."""
    scores = Scores()
    drawn = [Confusion(folder, scores), Embedding(folder), InnerSteps(folder, episodes=5), Figures(folder)]
    trainer = pl.Trainer(
        callbacks=[scores, *(drawn if figures else [])], logger=False, accelerator="cpu", devices=1,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, inference_mode=False,
        default_root_dir=folder,
    )  # fmt: skip
    task = Task(ways, 1, 3, ways, 1, 3, 2, test_episodes=episodes, val_episodes=4, unlabeled=2)
    trainer.test(method, datamodule=EpisodeData(dataset, task, 0, 1000, eval_batch=3), verbose=False)
    return scores


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("name", ["maml", "metagan", "baseline", "soft_kmeans", "nearest"])
def test_figures_are_there_and_tell_what_was_scored(name, tmp_path):
    method = with_head(build(name, VmapEngine()))
    torch.manual_seed(0)
    plain = scored(tmp_path / "plain", method, MadeUp(), figures=False)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    scores = scored(tmp_path, method, MadeUp())
    assert torch.equal(torch.get_rng_state(), state)
    assert scores.rows() == plain.rows()
    assert scores.summary() == plain.summary()

    files = {"confusion.csv", "confusion.png", "embedding.png", "test_episodes.png"}
    adapts = METHODS[name].adapts
    found = {file.name for file in tmp_path.glob("*.*")} - {"generated.png"}
    assert found == files | ({"inner_steps.csv", "inner_steps.png"} if adapts else set())

    accuracies = [accuracy for _, accuracy, _ in scores.rows()]
    own = [row for row in table(tmp_path / "confusion.csv") if row["true"] == row["predicted"]]
    right, queries = (sum(int(row[column]) for row in own) for column in ("called", "queries"))
    assert queries == 7 * 15
    assert right / queries == pytest.approx(sum(accuracies) / 7)
    if adapts:
        steps = {int(row["step"]): row for row in table(tmp_path / "inner_steps.csv")}
        assert list(steps) == list(range(11))
        used = steps[getattr(method, "host", method).test_steps]
        assert float(used["accuracy"]) == pytest.approx(sum(accuracies[:5]) / 5, abs=1e-6)
        assert float(used["loss"]) == pytest.approx(float(scores._all["loss"][:5].mean()), abs=1e-5)


def test_images_of_three_channels_and_few_episodes(tmp_path):
    network = mlp(3, 8, (8,), "batch")
    method = MAML(network, 5, 0.1, 1, 20, engine=VmapEngine(), bn="transductive", optimizer=adam)
    scored(tmp_path, method, Coloured(), episodes=2)
    assert len(list(tmp_path.glob("*.png"))) == 4
    assert [int(row["step"]) for row in table(tmp_path / "inner_steps.csv")] == [*range(11), *range(11, 21)]


def test_points_of_the_plane_and_more_ways_than_colours(tmp_path):
    method = MAML(mlp(2, 1, (8,), "none"), 12, 0.1, 1, 1, engine=VmapEngine(), bn="transductive", optimizer=adam)
    scored(tmp_path, method, Gaussians({"train": 13, "val": 13, "test": 13}, points=9), ways=12)
    assert {file.stem for file in tmp_path.glob("*.png")} == {"confusion", "embedding", "inner_steps"}
