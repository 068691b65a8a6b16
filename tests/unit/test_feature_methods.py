"""Compare the methods on frozen features with scikit-learn, and with values computed by hand."""

import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.neighbors import KNeighborsClassifier

import small_pretrained
from fewshot.data import ClassBatches, EpisodeData, Split, Task
from fewshot.engines import LoopEngine, VmapEngine
from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods import NearestNeighbour, logistic_regression
from fewshot.methods.logistic_regression import fit_logistic
from fewshot.methods.ridge import ridge_regression
from fewshot.networks import Backbone, mlp
from fewshot.networks.norm_layers import Statistics, normalising
from methods_table import baseline, pixels, ridge, simpleshot
from synthetic_data import synthetic_split


def features(rows: int, columns: int, ways: int, seed: int = 0, unit: bool = True):
    """Return features of classes that overlap, and labels of unequal numbers."""
    random = np.random.default_rng(seed)
    y = np.concatenate([np.arange(ways), np.sort(random.integers(0, ways, rows - ways))])
    x = random.normal(size=(ways, columns))[y] + random.normal(size=(rows, columns))
    x = x / np.linalg.norm(x, axis=1, keepdims=True) if unit else x
    return torch.tensor(x), torch.tensor(y)


def doubled(episodes: Episode) -> Episode:
    return episodes.with_tensors({"support_x": episodes.support_x.double(), "query_x": episodes.query_x.double()})


def flat(columns: int) -> Backbone:
    return Backbone(columns, torch.nn.Flatten())


class TestRidge:
    @pytest.mark.parametrize("columns", [4, 25, 200])
    @pytest.mark.parametrize("regularisation", [1e-3, 1.0, 50.0])
    def test_it_is_scikit_learns(self, columns, regularisation):
        x, labels = features(25, columns, 5, unit=False)
        y = F.one_hot(labels, 5).double()
        theirs = SklearnRidge(alpha=regularisation).fit(x.numpy(), y.numpy())
        weight, bias = ridge_regression(x, y, regularisation)
        np.testing.assert_allclose(weight.T, theirs.coef_, atol=1e-9)
        np.testing.assert_allclose(bias, theirs.intercept_, atol=1e-9)

    @pytest.mark.parametrize("engine", [LoopEngine(), VmapEngine(4)])
    def test_logits_of_tasks(self, engine, episodes, float64):
        episodes = doubled(episodes)
        ours = ridge(engine, pixels(), regularisation=0.5, scale=3.0).eval().logits(episodes)
        for task, logits in enumerate(ours):
            support, query = (F.normalize(x[task].flatten(1)) for x in (episodes.support_x, episodes.query_x))
            theirs = SklearnRidge(alpha=0.5).fit(support.numpy(), F.one_hot(episodes.support_y[task], 5).numpy())
            np.testing.assert_allclose(logits, 3 * theirs.predict(query.numpy()), atol=1e-9)

    def test_the_gradient_through_it_is_that_of_finite_differences(self, float64):
        x, labels = features(6, 9, 3)
        y = F.one_hot(labels, 3).double()
        for given in (x, x[:, :4]):
            torch.autograd.gradcheck(lambda x: ridge_regression(x, y, 0.3), (given.clone().requires_grad_(),))

    @pytest.mark.parametrize("columns", [4, 64])
    def test_mixed_precision_is_not_the_precision_of_the_system(self, columns):
        x, labels = features(25, columns, 5)
        y = F.one_hot(labels, 5)
        half = x.bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            found = ridge_regression(half, y, 0.1)
        for value, wanted in zip(found, ridge_regression(half.float(), y, 0.1), strict=True):
            assert value.dtype == torch.float32
            assert torch.equal(value, wanted)

    def test_impossible_settings_are_refused(self):
        with pytest.raises(UserError, match=r"method.regularisation=0.0, .* above 0"):
            ridge(VmapEngine(), regularisation=0.0)


class TestLogisticRegression:
    @pytest.mark.parametrize(
        ("rows", "columns", "ways", "c"),
        [(25, 1280, 5, 1.0), (5, 64, 5, 1.0), (25, 8, 5, 100.0), (60, 3, 3, 1e4), (40, 1, 4, 1.0), (100, 40, 20, 10.0)],
    )
    def test_it_is_scikit_learns(self, rows, columns, ways, c):
        x, y = features(rows, columns, ways)
        theirs = LogisticRegression(C=c, solver="newton-cg", tol=1e-10, max_iter=10_000).fit(x.numpy(), y.numpy())
        weight, bias = fit_logistic(x, y, ways, 1 / c)
        np.testing.assert_allclose(weight, theirs.coef_, atol=1e-4)
        np.testing.assert_allclose(bias - bias.mean(), theirs.intercept_ - theirs.intercept_.mean(), atol=1e-4)

    def test_two_classes_have_twice_scikit_learns_c(self):
        x, y = features(12, 30, 2)
        theirs = LogisticRegression(C=2 * 3.0, tol=1e-10).fit(x.numpy(), y.numpy())
        weight, bias = fit_logistic(x, y, 2, 1 / 3)
        np.testing.assert_allclose(weight[1] - weight[0], theirs.coef_[0], atol=1e-4)
        np.testing.assert_allclose(bias[1] - bias[0], theirs.intercept_[0], atol=1e-4)

    @pytest.mark.parametrize("regularisation", [1e-8, 1e-4, 1.0, 1e4])
    @pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
    def test_the_gradient_at_the_end_is_zero(self, regularisation, size):
        """By autograd, for separable classes and features of any size."""
        x, y = features(15, 40, 5)
        x = x * size
        found = [value.requires_grad_() for value in fit_logistic(x, y, 5, regularisation)]
        loss = F.cross_entropy(x @ found[0].T + found[1], y, reduction="sum")
        loss = loss + regularisation / 2 * found[0].square().sum()
        start = [torch.zeros_like(value).requires_grad_() for value in found]
        at_start = torch.autograd.grad(F.cross_entropy(x @ start[0].T + start[1], y, reduction="sum"), start)
        for gradient in torch.autograd.grad(loss, found):
            assert gradient.norm() <= 1e-6 * max(value.norm() for value in at_start)

    def test_tasks_of_vmap_do_not_see_each_other(self):
        tasks = [features(15, 12, 3, seed) for seed in range(5)]
        x = torch.stack([task[0] for task in tasks])
        x[3] *= 100  # takes more steps than the others
        y = torch.stack([task[1] for task in tasks])
        together = torch.func.vmap(lambda x, y: fit_logistic(x, y, 3, 0.01))(x, y)
        for task in range(5):
            alone = fit_logistic(x[task], y[task], 3, 0.01)
            for whole, one in zip(together, alone, strict=True):
                torch.testing.assert_close(whole[task], one, rtol=1e-9, atol=1e-11)

    def test_images_that_are_all_equal_have_no_weights(self):
        weight, bias = fit_logistic(torch.ones(6, 4), torch.arange(3).repeat(2), 3, 1.0)
        assert not weight.any()
        torch.testing.assert_close(bias, torch.zeros(3))

    def test_a_fit_that_is_stopped_early_is_an_error(self, monkeypatch):
        x, y = features(25, 64, 5)
        monkeypatch.setattr(logistic_regression, "NEWTON_STEPS", 2)
        with pytest.raises(UserError, match=r"did not reach its optimum in 1 of 1 tasks after 2 steps \(norm of"):
            fit_logistic(x, y, 5, 1e-3)

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_features_that_are_not_finite_are_an_error(self, bad):
        x, y = features(25, 64, 5)
        x[3, 4] = bad
        with pytest.raises(UserError, match="not finite"):
            fit_logistic(x, y, 5, 1.0)


class TestLogisticSolver:
    def test_tasks_of_features_are_solved_together_and_tasks_of_images_are_not(self, episodes):
        of_features = episodes.with_tensors(
            {"support_x": episodes.support_x.view(4, 10, 64, 1, 1), "query_x": episodes.query_x.view(4, 15, 64, 1, 1)}
        )
        method = baseline(VmapEngine(), network=pixels(), solver="logistic").eval()
        assert [len(chunk) for chunk in method.chunks(episodes)] == [1, 1, 1, 1]
        assert [len(chunk) for chunk in method.chunks(of_features)] == [4]
        torch.testing.assert_close(method.logits(of_features), method.logits(episodes))

    @pytest.mark.parametrize("normalise", [False, True])
    @pytest.mark.parametrize("engine", [LoopEngine(), VmapEngine(4)])
    def test_logits_of_tasks(self, engine, normalise, episodes, float64):
        episodes = doubled(episodes)
        method = baseline(engine, network=pixels(), solver="logistic", normalise=normalise, regularisation=0.1)
        for task, logits in enumerate(method.eval().logits(episodes)):
            support, query = (x[task].flatten(1) for x in (episodes.support_x, episodes.query_x))
            if normalise:
                support, query = F.normalize(support), F.normalize(query)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = LogisticRegression(C=10.0, solver="newton-cg", tol=1e-10).fit(
                    support, episodes.support_y[task]
                )
            np.testing.assert_allclose(logits.softmax(1), theirs.predict_proba(query), atol=1e-4)

    @pytest.mark.parametrize("other", [{"head": "cosine"}, {"adapt": "all"}])
    def test_other_heads_are_refused(self, other):
        with pytest.raises(UserError, match=r"method.solver=logistic fits a linear head alone: method.head="):
            baseline(VmapEngine(), solver="logistic", **other)

    def test_an_unknown_solver_is_refused(self):
        with pytest.raises(UserError, match=r"method.solver=newton: choose one of gradient, logistic"):
            baseline(VmapEngine(), solver="newton")
        with pytest.raises(UserError, match=r"method.normalise=true needs method.solver=logistic"):
            baseline(VmapEngine(), normalise=True)


def by_hand(support, labels, query, ways: int, centre) -> torch.Tensor:
    """Return squared distances of CL2N features to class means, one pair at a time."""
    unit = [(x - centre) / (x - centre).norm() for x in support]
    means = [torch.stack([x for x, y in zip(unit, labels, strict=True) if y == way]).mean(0) for way in range(ways)]
    return torch.stack(
        [torch.stack([((q - centre) / (q - centre).norm() - mean).square().sum() for mean in means]) for q in query]
    )


class TestSimpleShot:
    def test_distances_are_those_of_the_formula(self, episodes, float64):
        episodes = doubled(episodes)
        method = simpleshot(VmapEngine(2), pixels(), scale=2.0).eval()
        without = method.logits(episodes)
        base = torch.linspace(0, 1, 64)
        method.base_mean.copy_(base)
        method.base_count.fill_(7)
        ours = method.logits(episodes)
        for task in range(4):
            support, query = (x[task].flatten(1) for x in (episodes.support_x, episodes.query_x))
            labels = episodes.support_y[task]
            torch.testing.assert_close(ours[task], -2 * by_hand(support, labels, query, 5, base))
            torch.testing.assert_close(without[task], -2 * by_hand(support, labels, query, 5, support.mean(0)))

    def test_the_support_mean_is_of_class_means(self, float64):
        x = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0], [4.0, 0.0]])
        y = torch.tensor([0, 0, 0, 1])
        nothing = torch.zeros((), dtype=torch.int64)
        episode = Episode(2, x.view(4, 2, 1, 1), y, x[:1].view(1, 2, 1, 1), y[:1], nothing, nothing)
        method = simpleshot(LoopEngine(), flat(2), centre="support").eval()
        logits = method.predictor(episode)(episode.query_x).logits
        torch.testing.assert_close(logits, -10 * by_hand(x, y, x[:1], 2, torch.tensor([2.0, 1.0])))

    def test_power_and_cosine(self, episodes, float64):
        episodes = doubled(episodes)
        shifted = episodes.with_tensors({"support_x": episodes.support_x - 0.4, "query_x": episodes.query_x - 0.4})
        method = simpleshot(LoopEngine(), pixels(), power=0.5, centre="none", metric="cosine", scale=1.0).eval()
        ours = method.logits(shifted)[0]
        support, query = (x[0].flatten(1) for x in (shifted.support_x, shifted.query_x))
        support, query = (F.normalize(x.sign() * x.abs().sqrt()) for x in (support, query))
        means = torch.stack([support[shifted.support_y[0] == way].mean(0) for way in range(5)])
        torch.testing.assert_close(ours, F.cosine_similarity(query[:, None], means[None], dim=2))

    def test_without_any_transform_it_is_a_prototypical_network(self, episodes, float64):
        episodes = doubled(episodes)
        ours = simpleshot(VmapEngine(), pixels(), centre="none", normalise=False, scale=1.0).eval().logits(episodes)
        support, query = (x[0].flatten(1) for x in (episodes.support_x, episodes.query_x))
        means = torch.stack([support[episodes.support_y[0] == way].mean(0) for way in range(5)])
        torch.testing.assert_close(ours[0], -torch.cdist(query, means).square())

    @pytest.mark.parametrize(
        ("setting", "value"), [("centre", "mean"), ("metric", "dot"), ("power", 0.0), ("scale", 0.0)]
    )
    def test_impossible_settings_are_refused(self, setting, value):
        with pytest.raises(UserError, match=f"method.{setting}={value}: "):
            simpleshot(VmapEngine(), **{setting: value})


class Data:
    """Features of three splits, with few training classes of unequal numbers of rows."""

    def __init__(self, classes: int = 3, columns: int = 6) -> None:
        self.counts = torch.arange(1, classes + 1)
        self.columns = columns

    def load(self) -> dict[str, Split]:
        random = torch.Generator().manual_seed(len(self.counts))
        ten = torch.full((8,), 10)
        return {
            name: Split(name, torch.randn(int(n.sum()), self.columns, generator=random), n, names(name, len(n)))
            for name, n in (("train", self.counts), ("val", ten), ("test", ten))
        }


def names(split: str, classes: int) -> tuple[str, ...]:
    return tuple(f"{split} {number}" for number in range(classes))


TASK = Task(5, 2, 3, 5, 2, 3, meta_batch=2, test_episodes=4, val_episodes=2, train_batch=8)


def trainer(folder, steps: int = 1, **options) -> pl.Trainer:
    return pl.Trainer(
        max_steps=steps, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, inference_mode=False,
        enable_model_summary=False, default_root_dir=folder, num_sanity_val_steps=0, enable_checkpointing=False,
        use_distributed_sampler=False, **options,
    )  # fmt: skip


class TestMeanOfTheBaseClasses:
    @pytest.mark.parametrize("power", [None, 0.5])
    def test_it_is_the_mean_of_all_training_features(self, power, tmp_path):
        """The training split has fewer classes, and fewer rows of a class, than a task takes."""
        method = simpleshot(VmapEngine(), flat(6), power=power)
        data = EpisodeData(Data(), TASK, 0, 100)
        trainer(tmp_path).validate(method, datamodule=data, verbose=False)
        x = data.splits["train"].images.flatten(1)
        x = x if power is None else x.sign() * x.abs().sqrt()
        torch.testing.assert_close(method.base_mean, x.mean(0))
        assert int(method.base_count) == 6

    def test_a_test_keeps_the_mean_of_a_checkpoint(self, tmp_path):
        first, second = (simpleshot(VmapEngine(), flat(6)) for _ in range(2))
        trainer(tmp_path).test(first, datamodule=EpisodeData(Data(), TASK, 0, 100), verbose=False)
        second.load_state_dict(first.state_dict())
        trainer(tmp_path).test(second, datamodule=EpisodeData(Data(classes=7), TASK, 0, 100), verbose=False)
        assert torch.equal(second.base_mean, first.base_mean)
        assert int(second.base_count) == 6

    @pytest.mark.parametrize("centre", ["support", "none"])
    def test_other_centres_need_no_mean(self, centre, tmp_path):
        method = simpleshot(VmapEngine(), flat(6), centre=centre)
        trainer(tmp_path).test(method, datamodule=EpisodeData(Data(), TASK, 0, 100), verbose=False)
        assert not method.base_count

    @pytest.mark.parametrize("validates", [True, False])
    @pytest.mark.parametrize("bn", ["running", "transductive"])
    def test_it_follows_the_training_of_the_backbone(self, bn, validates, tmp_path):
        torch.manual_seed(0)
        method = simpleshot(VmapEngine(), mlp(6, 1, (5,)), bn=bn)
        task = TASK if validates else replace(TASK, val_episodes=0)
        data = EpisodeData(Data(classes=9), task, 0, 100)
        limit = {"val_check_interval": 3} if validates else {"limit_val_batches": 0}
        trainer(tmp_path, 6, **limit).fit(method, datamodule=data)
        x = data.splits["train"].images
        source = Statistics.RUNNING if bn == "running" else Statistics.BATCH
        with torch.no_grad(), normalising(method.backbone, source):
            torch.testing.assert_close(method.base_mean, method.backbone(x).mean(0))
        assert method.training  # as before

    def test_images_are_evenly_spaced_and_normalised(self):
        split = synthetic_split(6, images=5)
        batches = ClassBatches(split, 4, 0, mean=0.5, std=0.25)
        pixels = (split.images / 255 - 0.5) / 0.25
        every = torch.cat([*batches.spread(1000)])
        torch.testing.assert_close(every, pixels)
        some = [*batches.spread(10)]
        assert [len(part) for part in some] == [4, 4, 2]
        torch.testing.assert_close(torch.cat(some), pixels[::3])

    def test_rotated_copies_are_images(self):
        split = synthetic_split(2, images=3)
        rotated = torch.cat([*ClassBatches(split, 50, 0, rotations=True).spread(1000)])
        wanted = [torch.rot90(image, turn, (1, 2)) for image in split.images / 255 for turn in range(4)]
        torch.testing.assert_close(rotated, torch.stack(wanted))


class TestNothingToTrain:
    @pytest.mark.parametrize("make", [simpleshot, ridge, partial(baseline, solver="logistic"), baseline])
    def test_a_backbone_that_learns_nothing_leaves_nothing_to_train(self, make):
        frozen = mlp(6, 1, (5,)).requires_grad_(False)
        for network in (flat(6), frozen):
            assert not any(parameter.requires_grad for parameter in make(VmapEngine(), network=network).parameters())
        assert all(parameter.requires_grad for parameter in make(VmapEngine(), network=mlp(6, 1, (5,))).parameters())

    def test_a_head_that_is_not_trained_stays_so_when_resized(self):
        head = baseline(VmapEngine(), network=flat(6)).head
        head.resize(9)
        assert not any(parameter.requires_grad for parameter in head.parameters())

    def test_the_scale_of_cosines_is_learned_on_any_backbone(self):
        method = baseline(VmapEngine(), network=flat(6), head="cosine")
        assert all(parameter.requires_grad for parameter in method.parameters())


def test_nearest_neighbour_is_that_of_scikit_learn_on_features_and_on_pixels():
    torch.manual_seed(0)
    x = torch.rand(14, 3, small_pretrained.SIZE, small_pretrained.SIZE)
    y = torch.arange(10) % 5
    pretrained = small_pretrained.network("test_resnet")
    other = mlp(3, small_pretrained.SIZE, norm="none")
    for backbone, space in ((pretrained, pretrained(x)), (other, other(x)), (None, x.flatten(1))):
        method = NearestNeighbour(backbone, engine=VmapEngine(), bn="transductive").eval()
        zero = torch.zeros((), dtype=torch.int64)
        logits = method.fit_task(Episode(5, x[:10], y, x[10:], y[:4], zero, zero))(x[10:]).logits
        peer = KNeighborsClassifier(1).fit(space[:10].detach(), y)
        assert logits.argmax(1).tolist() == peer.predict(space[10:].detach()).tolist()
        distances = peer.kneighbors(space[10:].detach())[0][:, 0]
        torch.testing.assert_close(-logits.amax(1), torch.tensor(distances).square().float(), rtol=1e-3, atol=1e-4)
