"""Decision boundaries: what is saved of a method whose boundary is known, and how it is drawn."""

import numpy as np
import pytest
import pytorch_lightning as pl
from PIL import Image
from test_report import make_run

from fewshot.callbacks import DecisionBoundary
from fewshot.data import EpisodeData, Gaussians, Task
from fewshot.engines import VmapEngine
from fewshot.errors import UserError
from fewshot.figures.decision_boundary import draw_decision_boundaries
from fewshot.methods import NearestNeighbour
from fewshot.report.build import report
from methods_table import build
from synthetic_data import synthetic_split

BLUE, ORANGE = (33, 102, 172), (217, 95, 2)
SMALL = Gaussians({"train": 4, "val": 3, "test": 5}, points=12)
FEW = Task(ways=3, shots=2, queries=5, train_ways=3, train_shots=2, train_queries=5, meta_batch=2, test_episodes=4)


def saved(file, tasks: int = 1, **more):
    """Two classes, left and right of the middle, each held for certain; ``more`` is added or replaces."""
    axis = (np.arange(40) + 0.5) / 40
    left = np.broadcast_to(axis < 0.5, (tasks, 40, 40)).astype(float)
    arrays = {
        "axis": axis,
        "probabilities": np.stack([left, 1 - left], axis=-1),
        "support_x": np.tile([[0.2, 0.3], [0.8, 0.6]], (tasks, 1, 1)),
        "support_y": np.tile([0, 1], (tasks, 1)),
        "query_x": np.tile([[0.1, 0.3], [0.9, 0.6]], (tasks, 1, 1)),
        "query_y": np.tile([0, 1], (tasks, 1)),
        "accuracy": np.full(tasks, 1.0),
    } | more
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **{name: value for name, value in arrays.items() if value is not None})
    return file


def drawn(tmp_path, *files) -> np.ndarray:
    draw_decision_boundaries({f"run {number}": file for number, file in enumerate(files)}, tmp_path / "boundaries.png")
    with Image.open(tmp_path / "boundaries.png") as image:
        return np.asarray(image.convert("RGB")).astype(int)


def tinted(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Which pixels are white mixed with 30% or more of ``colour``, in the same proportion of its channels."""
    darkness, full = 255 - image, 255 - np.array(colour)
    share = darkness @ full / (full @ full)
    return (np.abs(darkness - share[..., None] * full).max(-1) < 6) & (share > 0.3)


def test_each_side_has_the_colour_of_its_class(tmp_path):
    image = drawn(tmp_path, saved(tmp_path / "a.npz"))
    left, right = np.array_split(image, 2, axis=1)
    for half, here, there in ((left, BLUE, ORANGE), (right, ORANGE, BLUE)):
        assert tinted(half, here).mean() > 0.3
        assert tinted(half, there).mean() < 0.02


def test_what_is_held_for_fake_is_white(tmp_path):
    real = np.zeros((1, 40, 40))
    real[:, :20] = 1.0  # below the middle
    with_fakes = saved(tmp_path / "b.npz", real=real, generated=np.full((1, 3, 2), 0.5))
    plain, half = np.array_split(tinted(drawn(tmp_path, saved(tmp_path / "a.npz"), with_fakes), BLUE), 2, axis=1)
    rows = np.flatnonzero(plain.sum(1) > 100)
    above, below = np.split(half[rows], 2)
    assert below.sum() > 0.4 * plain.sum()
    assert above.sum() < 0.03 * plain.sum()


def test_guesses_are_paler_than_certainty(tmp_path):
    sure = drawn(tmp_path, saved(tmp_path / "a.npz"))
    guess = drawn(tmp_path, saved(tmp_path / "b.npz", probabilities=np.full((1, 40, 40, 2), 0.5)))
    assert guess.mean() > sure.mean() + 20


def test_runs_are_columns_and_tasks_are_rows(tmp_path):
    one = drawn(tmp_path, saved(tmp_path / "a.npz")).shape
    two_runs = drawn(tmp_path, saved(tmp_path / "a.npz"), saved(tmp_path / "b.npz")).shape
    two_tasks = drawn(tmp_path, saved(tmp_path / "c.npz", tasks=2)).shape
    assert two_runs[1] > 1.5 * one[1]
    assert two_tasks[0] > 1.5 * one[0]
    # As many rows as all runs have.
    assert drawn(tmp_path, saved(tmp_path / "a.npz"), saved(tmp_path / "c.npz", tasks=2)).shape == two_runs


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(UserError, match=r"a\.npz: cannot be read"):
        draw_decision_boundaries({"a": tmp_path / "a.npz"}, tmp_path / "b.png")
    with pytest.raises(UserError, match=r"b\.npz: support_y missing"):
        draw_decision_boundaries({"b": saved(tmp_path / "b.npz", support_y=None)}, tmp_path / "b.png")


def test_a_report_joins_the_boundaries_that_are_there(tmp_path):
    make_run(tmp_path / "sweep/0", seed=0)
    report([tmp_path / "sweep"], tmp_path / "sweep")
    assert not (tmp_path / "sweep/boundaries.png").exists()
    for seed in (1, 2):  # seeds of one setting share a row of the table, but not a column here
        saved(make_run(tmp_path / f"sweep/{seed}", seed=seed) / "figures/boundary.npz")
    report([tmp_path / "sweep"], tmp_path / "sweep")
    one = drawn(tmp_path, tmp_path / "sweep/1/figures/boundary.npz")
    with Image.open(tmp_path / "sweep/boundaries.png") as image:
        assert image.width > 1.5 * one.shape[1]


def scored(method, dataset, folder, **options) -> None:
    trainer = pl.Trainer(
        callbacks=[DecisionBoundary(folder, **options)], accelerator="cpu", devices=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, inference_mode=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.test(method, datamodule=EpisodeData(dataset, FEW, 0, 1, mean=0.5, std=0.25), verbose=False)


def test_the_boundary_of_a_nearest_neighbour_is_that_of_its_support_points(tmp_path):
    scored(NearestNeighbour(engine=VmapEngine(), bn="transductive"), SMALL, tmp_path, tasks=2, resolution=30)
    assert (tmp_path / "boundary.png").is_file()
    found = np.load(tmp_path / "boundary.npz")
    assert found["probabilities"].shape == (2, 30, 30, 3)
    assert not {"real", "generated"} & set(found)
    levels = {tuple(point) for point in SMALL.load()["test"].images.view(-1, 2).tolist()}
    for task in range(2):
        support, labels = found["support_x"][task], found["support_y"][task]
        assert {tuple(point) for point in (255 * support).round().astype(int).tolist()} <= levels  # not normalised
        for row, y in enumerate(found["axis"]):
            for column, x in enumerate(found["axis"]):
                distances = np.sort(np.hypot(*(support - (x, y)).T))
                nearest = labels[np.hypot(*(support - (x, y)).T).argmin()]
                if distances[1] - distances[0] > 1e-4:
                    assert found["probabilities"][task, row, column].argmax() == nearest
        far = np.hypot(*(found["query_x"][task][:, None] - support[None]).transpose(2, 0, 1))
        right = labels[far.argmin(1)] == found["query_y"][task]
        assert found["accuracy"][task] == pytest.approx(right.mean())


def test_other_data_is_refused(tmp_path):
    class Images:
        def load(self):
            return {
                name: synthetic_split(name=f"made/{name}", seed=seed)
                for seed, name in enumerate(("train", "val", "test"))
            }

    with pytest.raises(UserError, match="points of the plane only"):
        scored(build("nearest", VmapEngine()), Images(), tmp_path)
