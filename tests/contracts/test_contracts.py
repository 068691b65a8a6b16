"""Check every method against the same rules, one row of the table each."""

from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from fewshot.callbacks import Scores
from fewshot.data import EpisodeData, EpisodeSampler, Split, Task
from fewshot.engines import Engine, LoopEngine, VmapEngine
from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods import MatchingNet, MetaGAN, Method
from fewshot.methods.inner_trajectory import adapting_method
from fewshot.methods.matching import class_logits
from fewshot.methods.predictor import ExtraLoss, Predictor
from fewshot.networks import Prediction, conv4
from methods_table import (
    METHODS,
    RECIPES,
    ROWS,
    SIZE,
    TRAINED,
    Row,
    adam,
    around,
    build,
    cancelled,
    metagan,
    outer_gradient,
    training_task,
    with_head,
)
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
    unknown=2,
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
        assert same != METHODS[name].ordered

    @pytest.mark.parametrize("bn", ["support", "running", "transductive"])
    def test_only_transductive_queries_see_each_other(self, name, bn, episodes, float64):
        episodes = doubled(episodes)
        method = build(name, VmapEngine()).eval()
        method.bn = bn
        whole = method.logits(episodes)
        half = method.logits(replace(episodes, query_x=episodes.query_x[:, :7], query_y=episodes.query_y[:, :7]))
        apart = torch.allclose(whole[:, :7], half, rtol=1e-8, atol=1e-10)
        assert apart == (bn != "transductive" or not METHODS[name].transductive)

    def test_weights_survive_saving(self, name, episodes, tmp_path):
        method = build(name, VmapEngine(), seed=1).eval()
        torch.save(method.state_dict(), tmp_path / "weights")
        other = build(name, VmapEngine(), seed=2).eval()
        if METHODS[name].trains:
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

    def test_gradient_reaches_every_parameter(self, name, episodes, float64):
        method = build(name, VmapEngine())
        gradient = outer_gradient(method, doubled(episodes))
        assert all(value.isfinite().all() for value in gradient.values())
        assert set(starved(gradient)) == cancelled(method) | METHODS[name].constant

    def test_one_step_is_one_meta_batch(self, name, tmp_path):
        seen = []

        class Count(pl.Callback):
            def on_train_batch_start(self, trainer, module, batch, number):
                seen.append(batch.fingerprint)

        run = trainer(tmp_path, 3, Count())
        run.fit(build(name, VmapEngine()), datamodule=data(name))
        assert run.global_step == len(seen) == 3
        assert len({int(value) for batch in seen for value in batch}) == 3 * TASK.meta_batch


# Minutes in all: MetaGAN around the hosts that have no recipe of it learns where slow tests run.
# Around a host with a recipe MetaGAN learns in ``make test-all``, except around MAML.
def timed(name: str) -> object:
    row = METHODS[name]
    if not row.long:
        return pytest.param(name, marks=pytest.mark.slow)
    return pytest.param(name, marks=pytest.mark.thorough) if row.host and name != "metagan" else name


LEARN = [timed(name) for name in TRAINED]


@pytest.mark.parametrize("name", LEARN)
def test_learns_a_toy_problem(name, tmp_path):
    method, scores = build(name, VmapEngine()), Scores()
    before = score(name, method, tmp_path, scores)
    trainer(tmp_path, 60).fit(method, datamodule=data(name))
    after = score(name, method, tmp_path, scores)
    assert 1 - after < 0.7 * (1 - before), (
        f"accuracy {before:.3f} before 60 steps and {after:.3f} after: errors must fall by 30%; "
        "choose the network, the scale of the logits or the learning rate in the row"
    )
    open_set = scores.summary().open_set
    assert open_set is not None
    assert open_set.auroc > 0.5, (
        f"AUROC {open_set.auroc:.3f} of unknown classes by {open_set.knownness}: guessing has 0.5"
    )


class TestRows:
    """What a row claims of a method is what the method does."""

    @pytest.mark.parametrize("name", RECIPES)
    def test_every_recipe_has_a_row(self, name):
        assert name in METHODS, f"conf/method/{name}.yaml: add a row named {name} to tests/methods_table.py"

    def test_names_are_unique(self):
        assert len(METHODS) == len(ROWS)

    @pytest.mark.parametrize("name", METHODS)
    def test_any_ways(self, name, split):
        other = EpisodeSampler(split, 7, 2, 3, seed=0, **UNLABELED)(torch.arange(2))
        method = build(name, VmapEngine()).eval()
        if METHODS[name].any_ways:
            assert method.logits(other).shape == (2, 21, 7)
        else:
            with pytest.raises(UserError, match="the classifier has 5 outputs, but a task has 7 ways"):
                method.logits(other)

    @pytest.mark.parametrize("name", METHODS)
    def test_permutes_labels(self, name, episodes, float64):
        """Predictions on a task with permuted class numbers are permuted likewise, where no head knows the numbers."""
        episodes = doubled(episodes)
        rename = torch.tensor([2, 0, 4, 1, 3])
        method = build(name, VmapEngine()).eval()
        renamed = method.logits(replace(episodes, support_y=rename[episodes.support_y]))
        same = torch.allclose(renamed[..., rename], method.logits(episodes), rtol=1e-8, atol=1e-10)
        assert same == METHODS[name].permutes_labels

    @pytest.mark.parametrize("name", METHODS)
    def test_keeps_running_statistics(self, name, episodes):
        """Under ``bn=transductive``, which itself asks for no averages."""
        method = build(name, VmapEngine()).train()
        method.bn = "transductive"
        with_head(method)
        terms = method.map_tasks(method.task_terms, episodes[:1])
        assert any(term.startswith("norm/") for term in terms) == METHODS[name].keeps_running_statistics

    @pytest.mark.parametrize("name", METHODS)
    def test_adapts(self, name):
        method = build(name, VmapEngine()).eval()
        assert (method.inner_steps > 0) == METHODS[name].adapts == (adapting_method(method) is not None)

    @pytest.mark.parametrize("name", METHODS)
    def test_needs_unlabelled(self, name, episodes):
        bare = replace(episodes, unlabeled_x=None)
        method = build(name, VmapEngine()).eval()
        if METHODS[name].needs_unlabelled:
            with pytest.raises(UserError, match=r"needs task\.unlabeled of at least 1"):
                method.logits(bare)
        else:
            assert method.logits(bare).isfinite().all()

    @pytest.mark.parametrize("name", METHODS)
    def test_trains(self, name):
        trained = [parameter for parameter in build(name, VmapEngine()).parameters() if parameter.requires_grad]
        assert bool(trained) == METHODS[name].trains

    @pytest.mark.parametrize("name", METHODS)
    def test_hosts_metagan(self, name):
        if METHODS[name].hosts_metagan:
            assert [row.name for row in ROWS if row.host == name]
            assert metagan(METHODS[name].make, VmapEngine()).features > 0
        else:
            with pytest.raises(UserError, match="cannot be the host of"):
                metagan(METHODS[name].make, VmapEngine())


class TestGradientSizes:
    """The check that a gradient reaches every parameter is a check."""

    def test_rounding_noise_is_no_gradient(self):
        gradient = {"weight": torch.full((9,), 0.01), "bias": torch.full((3,), 0.2), "dead": torch.full((3,), 6e-9)}
        assert starved(gradient) == ["dead"]
        assert starved(gradient | {"dead": torch.zeros(3)}) == ["dead"]
        assert not starved(gradient | {"dead": torch.tensor([0.0, 0.0, 1e-4])})

    def test_a_parameter_that_nothing_reads_is_found(self, episodes, float64):
        method = build("protonet", VmapEngine())
        method.forgotten = torch.nn.Parameter(torch.ones(2))
        gradient = outer_gradient(method, doubled(episodes))
        assert set(starved(gradient)) - cancelled(method) == {"forgotten"}


@pytest.mark.parametrize("host", [row.name for row in ROWS if row.hosts_metagan and row.name in RECIPES])
def test_metagan_without_weights_is_its_host(host, tmp_path):
    """Bit-equal weights after training, with all terms of the game at 0."""
    make = METHODS[host].make
    torch.manual_seed(0)
    alone = make(VmapEngine())
    torch.manual_seed(0)
    zero = dict.fromkeys(("inner_real", "inner_fake", "outer_real", "outer_fake"), 0.0)
    wrapped = metagan(make, VmapEngine(), **zero)
    for method in (alone, wrapped):
        trainer(tmp_path, 20).fit(method, datamodule=data(host))
    ours = wrapped.host.state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in alone.state_dict().items())


@pytest.mark.parametrize("name", [row.name for row in ROWS if row.host])
def test_fakes_move_the_classifier_and_the_classifier_does_not_move_with_the_generator(name, episodes, float64):
    assert_the_generator_does_not_move_its_host(METHODS[name], doubled(episodes))


class ReadsItself(MatchingNet):
    """A bad host: the prediction reads the learned scale from ``self``, not from ``state``."""

    def fit_task(self, episode: Episode, extra: ExtraLoss | None = None) -> Predictor:
        support_x = episode.support_x
        embed = super().fit_task(episode)

        def predict(state: dict[str, torch.Tensor], x: torch.Tensor) -> Prediction:
            queries, support = (embed.function(state, images).features for images in (x, support_x))
            similarities = self.log_scale.exp() * F.normalize(queries) @ F.normalize(support).T
            return Prediction(class_logits(similarities, episode.support_y, episode.ways), queries)

        return Predictor(predict, embed.state)


def test_a_host_that_reads_learned_tensors_from_itself_is_caught(episodes, float64):
    def make(engine: Engine) -> Method:
        network = conv4(1, SIZE, width=8, depth=2, stride=False, mean_over_space=False)
        return ReadsItself(network, engine=engine, bn="running", optimizer=adam)

    good = METHODS["matching"]
    assert_the_generator_does_not_move_its_host(around(good), doubled(episodes))
    with pytest.raises(AssertionError, match=r"host\.log_scale"):
        assert_the_generator_does_not_move_its_host(around(replace(good, make=make)), doubled(episodes))


def assert_the_generator_does_not_move_its_host(row: Row, episodes: Episode) -> None:
    """Check that the fakes train D, and that the generator's own loss reaches G alone.

    A host whose predictor reads something learned from ``self``, and not from ``state``, fails here:
    ``Predictor.detach`` cuts ``state`` only.
    """
    torch.manual_seed(0)
    method = row.make(VmapEngine())
    assert isinstance(method, MetaGAN)
    with_fakes = outer_gradient(method, episodes)
    method.outer_fake = method.inner_fake = 0.0
    without = outer_gradient(method, episodes)
    classifier = [key for key in with_fakes if key.startswith("host.")]
    moved = any(not torch.allclose(with_fakes[key], without[key]) for key in classifier)
    assert moved, "fakes move nothing: give the row metagan_options=LEARNED, or the logits another scale"
    # The generator's own loss must not reach D: it may change only through D's terms.
    method.generator_loss = "feature_matching" if method.generator_loss == "nonsaturating" else "nonsaturating"
    other = outer_gradient(method, episodes)
    for key in classifier:
        torch.testing.assert_close(
            other[key], without[key], rtol=1e-9, atol=1e-12, msg=lambda message, key=key: f"{key}: {message}"
        )
    generator = [key for key in other if key.startswith("generator.")]
    assert any(not torch.allclose(other[key], without[key]) for key in generator)


def starved(gradient: dict[str, torch.Tensor]) -> list[str]:
    """Return the parameters whose gradient is nothing but rounding beside the other gradients."""
    size = {name: float(value.square().mean().sqrt()) for name, value in gradient.items()}
    typical = sorted(size.values())[len(size) // 2]
    return [name for name, value in size.items() if not value > 1e-6 * typical]


def doubled(episodes):
    floating = {name: x.double() for name, x in episodes.tensors().items() if x.is_floating_point()}
    return episodes.with_tensors(floating)


def score(name: str, method, tmp_path, scores: Scores) -> float:
    trainer(tmp_path, 1, scores).test(method, datamodule=data(name), verbose=False)
    return scores.summary().accuracy
