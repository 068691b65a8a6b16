"""Methods that use unlabelled images: soft k-means, its masked form, pseudo-labels, augmentations."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from test_gradients import directional_error
from torch.func import functional_call

from fewshot import augment, rng
from fewshot.data.sampler import EpisodeSampler
from fewshot.engines import LoopEngine, VmapEngine
from fewshot.errors import UserError
from fewshot.methods import MaskedSoftKMeans, PseudoLabels, SoftKMeans
from fewshot.methods.soft_kmeans import distance_statistics
from fewshot.networks import Prediction
from fewshot.networks.norm_layers import Statistics, normalising
from methods_table import ROWS, build, maml, metagan, outer_gradient, protonet
from synthetic_data import synthetic_split

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def tasks(float64):
    """Three 5-way 2-shot tasks with 3 queries and 2 unlabelled images a class, 2 of a distractor class."""
    return EpisodeSampler(synthetic_split(), 5, 2, 3, seed=0, unlabeled=2, distractors=1)(torch.arange(3))


def moved(prototypes, counts, unlabeled, mask, steps=1):
    """Refined prototypes, one number at a time."""
    refined = prototypes.copy()
    for _ in range(steps):
        total, weight = counts[:, None] * prototypes, counts.copy()
        for j, h in enumerate(unlabeled):
            likelihood = np.array([math.exp(-sum((h - p) ** 2)) for p in refined])
            for c, z in enumerate(likelihood / likelihood.sum()):
                total[c] += z * mask[j, c] * h
                weight[c] += z * mask[j, c]
        refined = total / weight[:, None]
    return refined


class TestSoftKMeans:
    def test_numbers_that_need_no_machine(self):
        prototypes, counts = torch.tensor([[0.0], [2.0]]), torch.tensor([1.0, 2.0])
        # Half way: half an image for each. Far to the left: all of it for the first.
        half = SoftKMeans()(prototypes, counts, torch.tensor([[1.0]]))
        torch.testing.assert_close(half, torch.tensor([[0.5 / 1.5], [4.5 / 2.5]]))
        far = SoftKMeans()(prototypes, counts, torch.tensor([[-100.0]]))
        torch.testing.assert_close(far, torch.tensor([[-50.0], [2.0]]))

    @pytest.mark.parametrize("steps", [1, 3])
    def test_by_loops(self, steps):
        random = np.random.default_rng(0)
        prototypes, unlabeled = random.normal(size=(4, 3)), random.normal(size=(6, 3))
        counts = np.array([1.0, 2.0, 1.0, 5.0])
        ours = SoftKMeans(steps)(*(torch.tensor(x) for x in (prototypes, counts, unlabeled)))
        wanted = moved(prototypes, counts, unlabeled, np.ones((6, 4)), steps)
        torch.testing.assert_close(ours, torch.tensor(wanted))

    def test_gradient_equals_finite_differences(self):
        torch.manual_seed(0)
        prototypes, unlabeled = torch.randn(3, 2, requires_grad=True), torch.randn(4, 2, requires_grad=True)
        assert torch.autograd.gradcheck(lambda p, u: SoftKMeans(2)(p, torch.ones(3), u), (prototypes, unlabeled))


class TestMaskedSoftKMeans:
    def test_statistics_are_those_of_scipy(self):
        x = np.random.default_rng(0).gamma(2.0, size=(9, 4))
        columns = [x.min(0), x.max(0), x.var(0), stats.skew(x), stats.kurtosis(x)]
        torch.testing.assert_close(distance_statistics(torch.tensor(x)), torch.tensor(np.stack(columns, axis=1)))

    def test_statistics_of_equal_rows(self):
        for rows in (1, 4):
            assert distance_statistics(torch.full((rows, 2), 1.0)).tolist() == [[1.0, 1.0, 0.0, 0.0, -3.0]] * 2

    def test_by_loops(self):
        """With the statistics of scipy, the MLP and the mask written out."""
        torch.manual_seed(0)
        random = np.random.default_rng(1)
        prototypes, unlabeled = random.normal(size=(4, 3)), random.normal(size=(6, 3))
        counts = np.array([1.0, 2.0, 1.0, 5.0])
        refine = MaskedSoftKMeans(hidden=7)
        for parameter in refine.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        first, _, second = refine.mlp
        w1, b1, w2, b2 = (p.detach().numpy() for p in (first.weight, first.bias, second.weight, second.bias))
        mask = np.empty((6, 4))
        for c in range(4):
            d = ((unlabeled - prototypes[c]) ** 2).sum(1)
            d = d / d.mean()
            inputs = np.array([d.min(), d.max(), d.var(), stats.skew(d), stats.kurtosis(d)])
            beta, gamma = np.exp(w2 @ np.tanh(w1 @ inputs + b1) + b2)
            mask[:, c] = 1 / (1 + np.exp(gamma * (d - beta)))
        ours = refine(*(torch.tensor(x) for x in (prototypes, counts, unlabeled)))
        torch.testing.assert_close(ours, torch.tensor(moved(prototypes, counts, unlabeled, mask)))

    def test_a_steep_mask_leaves_out_the_distractor(self):
        """beta 1, gamma 200: what is nearer than the mean distance counts, what is farther does not."""
        refine = MaskedSoftKMeans()
        torch.nn.init.zeros_(refine.mlp[2].weight)
        with torch.no_grad():
            refine.mlp[2].bias.copy_(torch.tensor([0.0, math.log(200.0)]))
        prototypes, counts = torch.tensor([[0.0], [50.0]]), torch.tensor([1.0, 1.0])
        refined = refine(prototypes, counts, torch.tensor([[1.0], [-1.0], [-20.0]]))
        torch.testing.assert_close(refined, torch.tensor([[0.0], [50.0]]))
        plain = SoftKMeans()(prototypes, counts, torch.tensor([[1.0], [-1.0], [-20.0]]))
        torch.testing.assert_close(plain, torch.tensor([[-5.0], [50.0]]))

    @pytest.mark.parametrize("unlabeled", [[[0.5, 1.0]], [[0.0, 0.0]], [[0.3, 0.3]] * 3, [[0.0, 0.0]] * 2])
    @pytest.mark.parametrize("refine", [SoftKMeans(2), MaskedSoftKMeans()])
    def test_gradients_without_any_spread_are_finite(self, refine, unlabeled):
        """One unlabelled image, several equal ones, and images on a prototype."""
        refine = refine.double()
        prototypes, images = torch.zeros(2, 2, requires_grad=True), torch.tensor(unlabeled, requires_grad=True)
        refined = refine(prototypes, torch.ones(2), images)
        inputs = [prototypes, images, *refine.parameters()]
        assert all(g.isfinite().all() for g in torch.autograd.grad(refined.square().sum() + refined.sum(), inputs))

    def test_gradient_at_constant_thresholds_equals_finite_differences(self):
        torch.manual_seed(0)
        refine = MaskedSoftKMeans()
        torch.nn.init.zeros_(refine.mlp[2].weight)  # no gradient passes through the statistics: let them not enter
        prototypes, unlabeled = torch.randn(3, 2, requires_grad=True), torch.randn(4, 2, requires_grad=True)
        assert torch.autograd.gradcheck(lambda p, u: refine(p, torch.ones(3), u), (prototypes, unlabeled))


class TestProtoNet:
    @pytest.mark.parametrize("bn", ["transductive", "support", "running"])
    def test_logits_by_loops(self, tasks, bn):
        """One pass of support, unlabelled and query images; under ``support`` the first two give the statistics."""
        method = build("soft_kmeans", VmapEngine()).eval()
        method.bn = bn
        task = tasks[0]
        source = {
            "transductive": Statistics.BATCH,
            "support": (10 + 12) / (10 + 12 + 15),
            "running": Statistics.RUNNING,
        }
        with torch.no_grad(), normalising(method.backbone, source[bn]):
            features = method.backbone(torch.cat([task.support_x, task.unlabeled_x, task.query_x])).numpy()
        support, unlabeled, query = np.split(features, [10, 22])
        labels = task.support_y.numpy()
        means = np.stack([support[labels == c].mean(0) for c in range(5)])
        refined = moved(means, np.full(5, 2.0), unlabeled, np.ones((12, 5)), steps=2)
        wanted = [[-((q - p) ** 2).sum() for p in refined] for q in query]
        torch.testing.assert_close(method.fit_task(task)(task.query_x).logits.detach(), torch.tensor(wanted))

    @pytest.mark.parametrize("name", ["soft_kmeans", "masked_soft_kmeans"])
    def test_unlabelled_images_matter_and_their_order_does_not(self, name, tasks):
        method = build(name, VmapEngine()).eval()
        logits = method.logits(tasks)
        turned = method.logits(tasks.with_tensors({"unlabeled_x": tasks.unlabeled_x.flip(1)}))
        torch.testing.assert_close(turned, logits, rtol=1e-10, atol=1e-12)
        fewer = method.logits(tasks.with_tensors({"unlabeled_x": tasks.unlabeled_x[:, :1]}))
        assert not torch.allclose(fewer, logits)

    def test_outer_gradient_equals_finite_differences(self, tasks):
        assert directional_error(build("soft_kmeans", VmapEngine()), tasks) < 1e-6

    @pytest.mark.parametrize("name", ["protonet_cosine", "masked_soft_kmeans"])
    def test_a_detached_predictor_reaches_no_parameter(self, name, tasks):
        method = build(name, VmapEngine()).train()
        images = tasks[0].query_x.clone().requires_grad_()
        loss = method.fit_task(tasks[0]).detach()(images).logits.square().sum()
        inputs = [images, *method.parameters()]
        found, *others = torch.autograd.grad(loss, inputs, allow_unused=True)
        assert float(found.abs().sum()) > 0
        assert all(g is None for g in others)

    @pytest.mark.parametrize("refinement", [SoftKMeans, MaskedSoftKMeans])
    def test_metagan_around_it(self, refinement, tasks):
        torch.manual_seed(0)
        host = partial(protonet, refinement=refinement())
        gradient = outer_gradient(metagan(host, VmapEngine(), fake_logit="learned"), tasks)
        assert all(value.isfinite().all() for value in gradient.values())
        assert all(value.abs().sum() > 0 for value in gradient.values())


HALF = 0.204  # about half of the predictions of a fresh classifier of 5 ways are surer, after one step


def pseudo_labels(threshold: float, **options) -> PseudoLabels:
    """With augmentations that can be followed by hand."""
    return PseudoLabels(
        threshold, weak=lambda x, key, stream: 0.9 * x, strong=lambda x, key, stream: x.flip(3) + 0.1, **options
    )


class TestPseudoLabels:
    def test_term_by_hand(self, tasks):
        torch.manual_seed(0)
        task, threshold = tasks[0], 0.5
        weights = torch.randn(64, 5, requires_grad=True)

        def predict(x):
            return Prediction(0.7 * x.flatten(1) @ weights, x.flatten(1))

        term = pseudo_labels(threshold, weight=0.7, start=2)(task)
        first = predict(task.support_x)
        assert [float(term(first, predict, step)) for step in (0, 1)] == [0.0, 0.0]
        ours = term(first, predict, 2)

        total, confident = torch.zeros(()), 0
        for image in task.unlabeled_x:
            q = predict(0.9 * image[None]).logits[0].softmax(0).tolist()
            if max(q) >= threshold:
                confident += 1
                total = total - predict(image[None].flip(3) + 0.1).logits[0].log_softmax(0)[q.index(max(q))]
        assert 0 < confident < 12
        wanted = 0.7 * total / 12
        torch.testing.assert_close(ours, wanted)
        torch.testing.assert_close(*(torch.autograd.grad(value, weights)[0] for value in (ours, wanted)))

    @pytest.mark.parametrize("engine", [LoopEngine, VmapEngine])
    def test_adapted_weights_by_hand(self, tasks, engine):
        torch.manual_seed(0)
        method = maml(engine(), pseudo_labels=pseudo_labels(HALF, weight=2.0)).train()
        task = tasks[1]
        params = {name: p.detach().requires_grad_() for name, p in method.classifier.named_parameters()}
        counted = []
        for step in range(2):
            loss = F.cross_entropy(functional_call(method.classifier, params, (task.support_x,)).logits, task.support_y)
            if step == 1:
                q = functional_call(method.classifier, params, (0.9 * task.unlabeled_x,)).logits.softmax(1)
                strong = functional_call(method.classifier, params, (task.unlabeled_x.flip(3) + 0.1,)).logits
                counted = [j for j in range(12) if float(q[j].detach().max()) >= HALF]
                loss -= 2.0 * sum(strong[j].log_softmax(0)[q[j].argmax()] for j in counted) / 12
            gradients = torch.autograd.grad(loss, list(params.values()))
            params = {
                name: (p - 0.3 * g).detach().requires_grad_()
                for (name, p), g in zip(params.items(), gradients, strict=True)
            }
        assert 0 < len(counted) < 12
        state = method.fit_task(task).state
        for name, value in params.items():
            torch.testing.assert_close(state[name], value)

    def test_no_class_is_more_probable_than_one(self, tasks):
        """Above 1 the threshold keeps every image out: the inner loop is MAML's own."""
        logits = []
        for options in ({}, {"pseudo_labels": PseudoLabels(1.01)}, {"pseudo_labels": PseudoLabels(0.0)}):
            torch.manual_seed(0)
            logits.append(maml(VmapEngine(), **options).eval().logits(tasks))
        assert torch.equal(logits[0], logits[1])
        assert not torch.allclose(logits[0], logits[2])

    def test_outer_gradient_equals_finite_differences(self, tasks):
        torch.manual_seed(0)
        method = maml(VmapEngine(), steps=3, pseudo_labels=PseudoLabels(HALF))
        assert directional_error(method, tasks) < 1e-6

    def test_metagan_adds_its_own_terms(self, tasks):
        """Of four adaptations, with and without either term, no two are equal."""
        logits = []
        for options in ({}, {"pseudo_labels": PseudoLabels(HALF)}):
            for weight in (0.0, 0.5):
                torch.manual_seed(0)
                method = metagan(maml, VmapEngine(), host_options=options, inner_real=weight, inner_fake=weight).train()
                logits.append(method.fit_task(tasks[0])(tasks[0].query_x).logits)
        assert not any(torch.allclose(a, b) for i, a in enumerate(logits) for b in logits[:i])


@pytest.mark.parametrize("name", [row.name for row in ROWS if row.needs_unlabelled])
def test_episodes_without_unlabelled_images_are_refused(name, episodes):
    with pytest.raises(UserError, match=r"needs task\.unlabeled of at least 1"):
        build(name, VmapEngine()).logits(episodes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: protonet(VmapEngine(), distance="cosine", refinement=SoftKMeans()), "needs method.distance=euclidean"),
        (lambda: SoftKMeans(steps=0), "method.refinement.steps=0"),
        (lambda: maml(VmapEngine(), steps=1, pseudo_labels=PseudoLabels()), "start=1: .* below method.steps=1"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


KEY = rng.key(5)


@pytest.mark.parametrize("change", [augment.weak, augment.strong])
class TestAugmentations:
    def test_pure_function_of_key_and_stream(self, change):
        x = torch.rand(6, 2, 28, 28)
        state = torch.get_rng_state()
        one = change(x, KEY, 2)
        assert torch.equal(one, change(x, KEY, 2))
        assert torch.equal(one[:4], change(x[:4], KEY, 2))
        assert torch.equal(state, torch.get_rng_state())
        for other in (change(x, rng.key(6), 2), change(x, KEY, 3)):
            assert not torch.equal(one, other)
        same = change(x[:1].expand(6, -1, -1, -1), KEY, 2)
        assert len({image.numpy().tobytes() for image in same}) > 1  # each image has numbers of its own

    def test_task_axis(self, change):
        x, keys = torch.rand(3, 4, 1, 12, 12), rng.bits(KEY, torch.arange(3))
        mapped = torch.func.vmap(lambda x, key: change(x, key, 2))(x, keys)
        for task in range(3):
            torch.testing.assert_close(mapped[task], change(x[task], keys[task], 2), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_type_and_range(self, change, dtype):
        x = 3 * torch.rand(20, 2, 14, 14, dtype=dtype) - 1
        changed = change(x, KEY, 0)
        assert (changed.dtype, changed.shape) == (x.dtype, x.shape)
        assert bool((changed.amax((2, 3)) <= x.amax((2, 3)) + 1e-6).all())
        assert bool((changed.amin((2, 3)) >= x.amin((2, 3)) - 1e-6).all())


def test_weak_shifts_by_whole_pixels_with_the_edge_repeated():
    x = torch.rand(2000, 2, 28, 28)
    seen = np.zeros(25, dtype=int)
    shifted = augment.weak(x, KEY, 0).numpy()
    for image, ours in zip(x.numpy(), shifted, strict=True):
        wide = np.pad(image, ((0, 0), (2, 2), (2, 2)), mode="edge")
        moves = [np.array_equal(wide[:, d : d + 28, a : a + 28], ours) for d in range(5) for a in range(5)]
        assert sum(moves) == 1
        seen += moves
    assert stats.chisquare(seen).pvalue > 1e-3


def test_warp_is_affine_grid_and_turns_by_hand():
    torch.manual_seed(0)
    x, matrix = torch.rand(3, 2, 7, 9), torch.randn(3, 2, 3)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    wanted = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    torch.testing.assert_close(augment.warp(x, matrix), wanted)
    square, nothing = torch.rand(1, 1, 6, 6), torch.zeros(1, 2)
    for quarters in range(4):
        angle = torch.tensor([quarters * math.pi / 2])
        matrix = augment._affine(angle, torch.zeros(1), torch.ones(1), nothing)
        torch.testing.assert_close(augment.warp(square, matrix), torch.rot90(square, quarters, (2, 3)))


def test_affine_map_is_the_inverse_of_what_it_says():
    """Drawings scaled by ``size``: a step of the result is 1/size of a step in the image."""
    angle, slant, size = torch.tensor([0.3]), torch.tensor([-0.1]), torch.tensor([1.2])
    matrix = augment._affine(angle, slant, size, torch.tensor([[0.2, -0.1]]))[0]
    turn = torch.tensor([[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]])
    shear = torch.tensor([[1.0, math.tan(-0.1)], [0.0, 1.0]])
    torch.testing.assert_close(matrix[:, :2], shear @ turn / 1.2)
    assert matrix[:, 2].tolist() == [0.2, -0.1]


def test_cutout_is_a_square_of_background():
    """Without any affine change, what differs from the image is one square, cut off at the edge, of edge colour."""
    x = 0.5 + torch.rand(200, 2, 28, 28)
    x[:, 0, :, 0] = x[:, 0, :, -1] = x[:, 0, 0] = x[:, 0, -1] = 0.25
    x[:, 0, 0, 3:9] = 1.0  # ink at the edge
    cut = augment.strong(x, KEY, 0, degrees=0, shear=0, scale=0, shift=0)
    sizes, places = set(), []
    for image, ours in zip(x, cut, strict=True):
        changed = (image - ours).abs().amax(0) > 1e-9
        rows, columns = (np.flatnonzero(changed.any(axis).numpy()) for axis in (1, 0))
        hole = ours[0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert bool((hole == 0.25).all())
        assert max(hole.shape) <= 7
        assert min(hole.shape) >= 3
        sizes.add(tuple(hole.shape))
        places.append((rows[0], columns[0]))
    assert (7, 7) in sizes
    assert len(set(places)) > 100


def test_strong_turns_scales_and_moves_within_its_limits():
    """The centre of mass and the spread of a disc off the middle."""
    across = torch.arange(56) - 27.5
    disc = ((across - 12).square() + across[:, None].square() < 36).to(torch.float64)
    x = disc.expand(400, 1, 56, 56)
    moved = augment.strong(x, KEY, 0, shear=0, shift=0, cutout=0)[:, 0]
    mass = moved.sum((1, 2))
    right, down = (moved.sum(1) @ across) / mass, (moved.sum(2) @ across) / mass
    angles, sizes = torch.atan2(down, right).rad2deg(), torch.hypot(right, down) / 12
    for values, low, high in ((angles, -20, 20), (sizes, 0.8, 1.2)):
        assert low - 0.3 < float(values.min()) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < float(values.max()) < high + 0.3
    torch.testing.assert_close((mass / disc.sum()).sqrt(), sizes, rtol=0.03, atol=0)
