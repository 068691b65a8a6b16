"""What every method must do, one row each."""

from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch

from fewshot.callbacks import Scores
from fewshot.data import EpisodeData, EpisodeSampler, Split, Task
from fewshot.engines import LoopEngine, VmapEngine
from fewshot.episode import Episode
from fewshot.methods import MetaGAN
from methods_table import METHODS, TRAINED, build, metagan, outer_gradient, training_task
from synthetic_data import synthetic_split

# Images without labels, of a further class too; most methods have no use for them.
UNLABELED = {"unlabeled": 2, "distractors": 1}
TASK = Task(
    5,
    2,
    3,
    5,
    2,
    3,
    meta_batch=4,
    test_episodes=40,
    val_episodes=8,
    train_unlabeled=2,
    train_distractors=1,
    **UNLABELED,
)


@pytest.fixture
def episodes(split: Split) -> Episode:
    """Four 5-way 2-shot tasks with 3 queries a class and the above, in the default dtype."""
    return EpisodeSampler(split, 5, 2, 3, seed=0, **UNLABELED)(torch.arange(4))


class MadeUp:
    """A data set whose three splits share no class."""

    def __init__(self, training_classes: int = 30) -> None:
        self.classes = {"train": training_classes, "val": 30, "test": 30}

    def load(self):
        return {
            name: synthetic_split(classes, name=f"made/{name}", seed=seed)
            for seed, (name, classes) in enumerate(self.classes.items())
        }


def trainer(tmp_path, steps: int, *callbacks) -> pl.Trainer:
    return pl.Trainer(
        max_steps=steps, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, inference_mode=False,
        enable_model_summary=False, default_root_dir=tmp_path, num_sanity_val_steps=0, limit_val_batches=0,
        enable_checkpointing=False, callbacks=list(callbacks), use_distributed_sampler=False,
    )  # fmt: skip


def data(name: str) -> EpisodeData:
    task = training_task(name, TASK)
    # Who learns classes by heart needs many of them before new ones profit.
    return EpisodeData(MadeUp(200 if task.train_batch else 30), task, 0, 1000)


@pytest.mark.parametrize("name", METHODS)
class TestPredictions:
    def test_shape_and_finite(self, name, episodes):
        method = build(name, VmapEngine()).eval()
        logits = method.logits(episodes)
        assert logits.shape == (4, 15, 5)
        assert logits.isfinite().all()

    def test_engines_agree(self, name, episodes, float64):
        episodes = doubled(episodes)
        looped, mapped = (build(name, engine).eval().logits(episodes) for engine in (LoopEngine(), VmapEngine(3)))
        torch.testing.assert_close(looped, mapped, rtol=1e-8, atol=1e-10)

    def test_tasks_do_not_see_each_other(self, name, episodes, float64):
        episodes = doubled(episodes)
        method = build(name, VmapEngine(4)).eval()
        together, alone = method.logits(episodes), method.logits(episodes[2:3])
        torch.testing.assert_close(together[2:3], alone, rtol=1e-8, atol=1e-10)

    def test_order_of_the_support_set_does_not_matter(self, name, episodes, float64):
        episodes = doubled(episodes)
        order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
        turned = replace(episodes, support_x=episodes.support_x[:, order], support_y=episodes.support_y[:, order])
        method = build(name, VmapEngine()).eval()
        same = torch.allclose(method.logits(turned), method.logits(episodes), rtol=1e-8, atol=1e-10)
        # Full context embeddings alone are exempt: their bidirectional LSTM reads the support set as a sequence.
        assert same == (name != "matching_full_context")

    @pytest.mark.parametrize("bn", ["support", "running", "transductive"])
    def test_only_transductive_queries_see_each_other(self, name, bn, episodes, float64):
        episodes = doubled(episodes)
        method = build(name, VmapEngine()).eval()
        method.bn = bn
        whole = method.logits(episodes)
        half = method.logits(replace(episodes, query_x=episodes.query_x[:, :7], query_y=episodes.query_y[:, :7]))
        apart = torch.allclose(whole[:, :7], half, rtol=1e-8, atol=1e-10)
        assert apart == (bn != "transductive" or name == "nearest")

    def test_weights_survive_saving(self, name, episodes, tmp_path):
        method = build(name, VmapEngine(), seed=1).eval()
        torch.save(method.state_dict(), tmp_path / "weights")
        other = build(name, VmapEngine(), seed=2).eval()
        if name in TRAINED:
            assert not torch.equal(other.logits(episodes), method.logits(episodes))
        other.load_state_dict(torch.load(tmp_path / "weights"))
        assert torch.equal(other.logits(episodes), method.logits(episodes))


@pytest.mark.parametrize("name", TRAINED)
class TestTraining:
    def test_gradients_of_engines_agree(self, name, episodes, float64):
        episodes = doubled(episodes)
        looped, mapped = (outer_gradient(build(name, engine), episodes) for engine in (LoopEngine(), VmapEngine(3)))
        for key in looped:
            scale = max(float(looped[key].norm()), 1e-5)
            assert float((looped[key] - mapped[key]).norm()) / scale < 1e-8, key

    def test_gradient_reaches_every_parameter(self, name, episodes):
        method = build(name, VmapEngine())
        gradient = outer_gradient(method, episodes)
        assert not [key for key, value in gradient.items() if not value.abs().sum() > 0]
        assert all(value.isfinite().all() for value in gradient.values())

    def test_learns_a_toy_problem(self, name, tmp_path):
        method, scores = build(name, VmapEngine()), Scores()
        before = score(name, method, tmp_path, scores)
        trainer(tmp_path, 60).fit(method, datamodule=data(name))
        after = score(name, method, tmp_path, scores)
        assert 1 - after < 0.7 * (1 - before), (before, after)

    def test_one_step_is_one_meta_batch(self, name, tmp_path):
        seen = []

        class Count(pl.Callback):
            def on_train_batch_start(self, trainer, module, batch, number):
                seen.append(batch.fingerprint)

        run = trainer(tmp_path, 3, Count())
        run.fit(build(name, VmapEngine()), datamodule=data(name))
        assert run.global_step == len(seen) == 3
        assert len({int(value) for batch in seen for value in batch}) == 3 * TASK.meta_batch


@pytest.mark.parametrize(
    "name",
    [
        "protonet", "protonet_cosine", "soft_kmeans", "masked_soft_kmeans", "relation", "matching",
        "matching_full_context", "n_pair", "nca_cosine", "metagan_protonet", "metagan_relation", "metagan_matching",
        "baseline", "baseline_pp", "nearest",
    ],
)  # fmt: skip
def test_labels_are_names_only(name, episodes, float64):
    """Without a head, predictions on a task with permuted class numbers are permuted likewise."""
    episodes = doubled(episodes)
    rename = torch.tensor([2, 0, 4, 1, 3])
    method = build(name, VmapEngine()).eval()
    renamed = method.logits(replace(episodes, support_y=rename[episodes.support_y]))
    torch.testing.assert_close(renamed[..., rename], method.logits(episodes), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("host", ["maml", "fomaml", "protonet", "relation", "matching"])
def test_metagan_without_weights_is_its_host(host, tmp_path):
    make = METHODS[host]
    torch.manual_seed(0)
    alone = make(VmapEngine())
    torch.manual_seed(0)
    zero = dict.fromkeys(("inner_real", "inner_fake", "outer_real", "outer_fake"), 0.0)
    wrapped = metagan(make, VmapEngine(), **zero)
    for method in (alone, wrapped):
        trainer(tmp_path, 20).fit(method, datamodule=data(host))
    ours = wrapped.host.state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in alone.state_dict().items())


@pytest.mark.parametrize("name", [name for name in METHODS if name.startswith("metagan")])
def test_fakes_move_the_classifier_and_the_classifier_does_not_move_with_the_generator(name, episodes, float64):
    episodes = doubled(episodes)
    method = build(name, VmapEngine())
    assert isinstance(method, MetaGAN)
    with_fakes = outer_gradient(method, episodes)
    method.outer_fake = method.inner_fake = 0.0
    without = outer_gradient(method, episodes)
    classifier = [key for key in with_fakes if key.startswith("host.")]
    assert any(not torch.allclose(with_fakes[key], without[key]) for key in classifier)
    # The generator's own loss must not reach D: it may change only through D's terms.
    method.generator_loss = "feature_matching" if method.generator_loss == "nonsaturating" else "nonsaturating"
    other = outer_gradient(method, episodes)
    for key in classifier:
        torch.testing.assert_close(other[key], without[key], rtol=1e-9, atol=1e-12)
    generator = [key for key in other if key.startswith("generator.")]
    assert any(not torch.allclose(other[key], without[key]) for key in generator)


def doubled(episodes):
    floating = {name: x.double() for name, x in episodes.tensors().items() if x.is_floating_point()}
    return episodes.with_tensors(floating)


def score(name: str, method, tmp_path, scores: Scores) -> float:
    trainer(tmp_path, 1, scores).test(method, datamodule=data(name), verbose=False)
    return scores.summary().accuracy
