"""Pictures of what MetaGAN generates, during training and at its end."""

import pytest
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers.logger import DummyLogger

from fewshot.callbacks import Figures
from fewshot.data import EpisodeData, Gaussians, Task
from fewshot.engines import VmapEngine
from fewshot.methods import MAML, MetaGAN
from fewshot.networks import VectorEncoder, VectorGenerator, mlp
from fewshot.schedule import constant
from methods_table import adam, build
from synthetic_data import synthetic_split


class MadeUp:
    def load(self):
        return {name: synthetic_split(name=f"made/{name}", seed=len(name)) for name in ("train", "val", "test")}


class Images(DummyLogger):
    """A logger that notes what it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str, int]] = []

    def log_image(self, key: str, images: list[str], step: int) -> None:
        assert all(Image.open(image).format == "PNG" for image in images)
        self.sent.append((key, step))


def drawn(folder, method, dataset, ways: int = 5, steps: int = 6, **options) -> Images:
    """Fit with a validation every 2 steps, and test."""
    logger = Images()
    trainer = pl.Trainer(
        max_steps=steps, val_check_interval=2, check_val_every_n_epoch=None, callbacks=[Figures(folder, **options)],
        logger=logger, accelerator="cpu", devices=1, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, inference_mode=False, num_sanity_val_steps=1, default_root_dir=folder,
    )  # fmt: skip
    data = EpisodeData(dataset, Task(ways, 2, 3, ways, 2, 3, 2, test_episodes=4, val_episodes=4), 0, 1000, eval_batch=4)
    trainer.fit(method, datamodule=data)
    trainer.test(method, datamodule=data, verbose=False)
    return logger


def heights(folder) -> dict[str, int]:
    found = {}
    for file in folder.glob("generated*.png"):
        with Image.open(file) as image:
            found[file.stem] = image.height
    return found


def test_every_validation_leaves_a_picture_and_all_together_a_strip(tmp_path):
    logger = drawn(tmp_path, build("metagan", VmapEngine()), MadeUp())
    steps = [f"generated_step{step:06d}" for step in (2, 4, 6)]
    found = heights(tmp_path)
    assert sorted(found) == sorted([*steps, "generated", "generated_over_time"])
    assert found[steps[0]] == found[steps[1]] == found[steps[2]] < found["generated"]  # two tasks, not four
    over_time = [step for key, step in logger.sent if key == "figures/generated_over_steps"]
    assert over_time == [2, 4, 6]
    at_the_end = sorted(key for key, _ in logger.sent[3:])
    assert at_the_end == ["figures/generated", "figures/generated_over_time", "figures/test_episodes"]


def test_the_strip_is_as_long_as_it_may_be(tmp_path):
    """The row of real images, and one for each moment."""
    rows = {}
    for moments in (2, 4):
        drawn(tmp_path / str(moments), build("metagan", VmapEngine()), MadeUp(), steps=10, moments=moments)
        rows[moments] = heights(tmp_path / str(moments))["generated_over_time"]
    one_row = (rows[4] - rows[2]) / 2
    assert rows[4] == pytest.approx(5 * one_row, rel=0.15)


def test_one_validation_makes_no_strip(tmp_path):
    drawn(tmp_path, build("metagan", VmapEngine()), MadeUp(), steps=2)
    assert sorted(heights(tmp_path)) == ["generated", "generated_step000002"]


def test_other_methods_have_no_such_pictures(tmp_path):
    logger = drawn(tmp_path, build("protonet", VmapEngine()), MadeUp())
    assert not heights(tmp_path)
    assert [key for key, _ in logger.sent] == ["figures/test_episodes"]


def test_points_of_the_plane_are_no_pictures(tmp_path):
    host = MAML(mlp(2, 1, (8,), "none"), 3, 0.1, 1, 1, engine=VmapEngine(), bn="transductive", optimizer=adam)
    method = MetaGAN(host, VectorEncoder(2, 1), VectorGenerator(2, 1, 32), adam, constant)
    drawn(tmp_path, method, Gaussians({"train": 6, "val": 4, "test": 4}, points=9), ways=3)
    assert not list(tmp_path.glob("*.png"))
