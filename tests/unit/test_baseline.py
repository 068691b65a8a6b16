"""Pretraining on minibatches of all classes, and a head that is as large as the data says."""

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint

from fewshot import checkpoint
from fewshot.callbacks import StoredSettings
from fewshot.checkpoint_io import AtomicCheckpointIO
from fewshot.data import ClassBatches, EpisodeData, EpisodeSampler, Task
from fewshot.engines import LoopEngine, VmapEngine
from fewshot.errors import UserError
from methods_table import baseline, outer_gradient
from synthetic_data import synthetic_split

TASK = Task(5, 2, 3, 5, 2, 3, meta_batch=2, test_episodes=4, val_episodes=0, train_batch=8)
HEADS = ("linear", "cosine")


class MadeUp:
    def __init__(self, classes: int = 12) -> None:
        self.classes = classes

    def load(self):
        return {
            name: synthetic_split(self.classes, name=name, seed=seed) for seed, name in enumerate(("train", "test"))
        }


class TestBatches:
    @pytest.mark.parametrize("rotations", [False, True])
    def test_labels_are_the_classes_of_the_images(self, rotations):
        split = synthetic_split(6, images=4)
        batches = ClassBatches(split, 300, seed=0, rotations=rotations)(torch.arange(2))
        turns = 4 if rotations else 1
        assert batches.ways == 6 * turns
        assert batches.support_x.shape == (2, 0, 1, 8, 8)
        assert batches.support_y.shape == (2, 0)
        images = split.images.view(6, 4, 8, 8)
        for image, label in zip(batches.query_x.flatten(0, 1), batches.query_y.flatten(), strict=True):
            of_class = torch.rot90(images[label // turns], int(label % turns), (1, 2))
            assert ((image * 255).round() == of_class).flatten(1).all(1).any()
        # 600 draws of 24 (or 96) images and as many classes: none is missed but by a chance below 1 in 1,000.
        assert len(batches.query_x.flatten(0, 1).flatten(1).unique(dim=0)) >= (24 if not rotations else 90)
        assert len(batches.query_y.unique()) == batches.ways

    def test_random_rotations_are_not_classes(self):
        batches = ClassBatches(synthetic_split(6, images=1), 200, seed=0, rotations="random")(torch.arange(1))
        assert batches.ways == 6
        assert len(batches.query_x[0].flatten(1).unique(dim=0)) == 24

    def test_a_batch_is_a_function_of_its_number_and_the_seed(self):
        split = synthetic_split(6)
        draw, other = ClassBatches(split, 8, seed=0), ClassBatches(split, 8, seed=1)
        together, alone = draw(torch.tensor([3, 4, 5])), draw(torch.tensor([4]))
        for name, value in alone.tensors().items():
            assert torch.equal(together.tensors()[name][1:2], value), name
        assert len({int(value) for value in together.fingerprint}) == 3
        assert not torch.equal(other(torch.tensor([4])).query_x, alone.query_x)

    def test_only_labelled_images_are_drawn(self):
        batches = ClassBatches(synthetic_split(6, images=10), 500, seed=0, label_fraction=0.2)(torch.arange(1))
        assert len(batches.query_x[0].flatten(1).unique(dim=0)) == 12

    def test_augmentation_of_the_data_reaches_them(self):
        plain, changed = (
            EpisodeData(MadeUp(), TASK, seed=0, steps=1, augment=augment) for augment in (False, True)
        )  # fmt: skip
        for data in (plain, changed):
            data.setup()
        one, two = (data.sampler("train")(torch.arange(2)) for data in (plain, changed))
        assert torch.equal(one.query_y, two.query_y)
        assert not torch.equal(one.query_x, two.query_x)

    @pytest.mark.parametrize("other", [{"unlabeled_tasks": 0.5}, {"train_distinct": 4}, {"train_draw": "passes"}])
    def test_settings_of_tasks_are_refused(self, other):
        with pytest.raises(UserError, match=r"task.train_batch=8 draws images, not tasks"):
            Task(5, 2, 3, 5, 2, 3, meta_batch=2, train_batch=8, **other)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("engine", [LoopEngine, VmapEngine])
def test_pretraining_is_cross_entropy_over_all_classes(head, engine, float64):
    torch.manual_seed(0)
    method = baseline(engine(), head=head)
    batches = ClassBatches(synthetic_split(), 8, seed=0)(torch.arange(3))
    ours = outer_gradient(method, batches)
    learner = method.classifier
    losses = []
    for x, y in zip(batches.query_x, batches.query_y, strict=True):
        f, weight = learner.backbone(x), learner.head.weight
        logits = f @ weight.T + learner.head.bias if head == "linear" else (
            learner.head.log_scale.exp() * (f / f.norm(dim=1, keepdim=True)) @ (weight / weight.norm(dim=1)[:, None]).T
        )  # fmt: skip
        losses.append(F.cross_entropy(logits, y))
    method.zero_grad()
    torch.stack(losses).mean().backward()
    for name, p in method.named_parameters():
        torch.testing.assert_close(ours[name], p.grad, rtol=1e-9, atol=1e-12)


SETTINGS = "data: {channels: 1, image_size: 8, mean: 0, std: 1}"  # as little as a checkpoint may store


def trainer(folder, steps: int) -> pl.Trainer:
    last = ModelCheckpoint(folder, "last", every_n_train_steps=2, enable_version_counter=False)
    return pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False, inference_mode=False,
        enable_model_summary=False, default_root_dir=folder, num_sanity_val_steps=0, limit_val_batches=0,
        use_distributed_sampler=False, callbacks=[last, StoredSettings(SETTINGS)], plugins=[AtomicCheckpointIO()],
    )  # fmt: skip


def fitted(folder, steps: int = 4, head: str = "linear", start=None, classes: int = 12, resume=None):
    torch.manual_seed(0)
    method = baseline(VmapEngine(), head=head)
    if start:
        checkpoint.load_weights(method, checkpoint.read(start), start)
    data = EpisodeData(MadeUp(classes), TASK, seed=0, steps=100)
    trainer(folder, steps).fit(method, datamodule=data, ckpt_path=resume)
    return method


@pytest.mark.parametrize("head", HEADS)
def test_a_checkpoint_goes_on_and_is_tested_without_the_training_data(head, tmp_path, episodes):
    whole = fitted(tmp_path / "whole", 4, head)
    assert whole.head.classes == 12
    fitted(tmp_path / "part", 2, head)
    resumed = fitted(tmp_path / "rest", 4, head, resume=tmp_path / "part/last.ckpt")
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())

    alone = baseline(VmapEngine(), head=head)
    assert alone.head.classes == 0
    file = tmp_path / "whole/last.ckpt"
    checkpoint.load_weights(alone, checkpoint.read(file), file)
    assert torch.equal(alone.eval().logits(episodes), whole.eval().logits(episodes))


def test_a_head_of_other_classes_is_not_trained_on(tmp_path):
    fitted(tmp_path / "first", 2)
    fitted(tmp_path / "again", 2, start=tmp_path / "first/last.ckpt")
    with pytest.raises(UserError, match="12 outputs, but the data has 9 training classes"):
        fitted(tmp_path / "other", 2, start=tmp_path / "first/last.ckpt", classes=9)


def test_tasks_in_place_of_minibatches_are_refused(tmp_path):
    tasks = Task(5, 2, 3, 5, 2, 3, meta_batch=2, test_episodes=4, val_episodes=0)
    with pytest.raises(UserError, match="it needs train_task=classes"):
        trainer(tmp_path, 2).fit(baseline(VmapEngine()), datamodule=EpisodeData(MadeUp(), tasks, 0, 100))


def test_any_number_of_ways_is_tested():
    tasks = EpisodeSampler(synthetic_split(), 7, 1, 2, seed=0)(torch.arange(2))
    assert baseline(VmapEngine()).eval().logits(tasks).shape == (2, 14, 7)
