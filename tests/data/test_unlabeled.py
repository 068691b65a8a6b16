"""Images without labels: drawn as they should be, and no label of theirs reaches a method."""

from dataclasses import fields

import pytest
import torch
from scipy import stats
from test_sampler import coded_split, codes

from fewshot.data import EpisodeData, EpisodeSampler, Task
from fewshot.engines import VmapEngine
from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.streams import EpisodeStream
from methods_table import METHODS, TRAINED, build, objective, outer_gradient
from synthetic_data import synthetic_split

SPLIT = coded_split(12, [14] * 12)


def decoded(x: torch.Tensor) -> torch.Tensor:
    """(class, drawing, quarter turns) ``(..., 3)`` of coded images that may be turned."""
    found = torch.full((*x.shape[:-3], 3), -1)
    for turn in range(4):
        upright = torch.rot90(x, -turn, (-2, -1))
        here = upright[..., 0, 0, 2] == 1
        classes, drawings = codes(upright)
        code = torch.stack([classes, drawings, torch.full_like(classes, turn)], dim=-1)
        found = torch.where(here[..., None], code, found)
    assert int(found.min()) >= 0
    return found


def rows(codes: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(code) for code in codes.tolist()]


class TestDraw:
    def test_no_tensor_holds_labels_of_unlabelled_images(self):
        """Nothing but the pixels has as many entries as there are unlabelled images."""
        episodes = EpisodeSampler(SPLIT, 3, 1, 2, seed=0, unlabeled=4, unlabeled_query=3, distractors=2)(
            torch.arange(7)
        )
        sizes = {name: tuple(value.shape[:2]) for name, value in episodes.tensors().items()}
        assert sizes == {
            "support_x": (7, 3), "support_y": (7, 3), "query_x": (7, 6), "query_y": (7, 6), "key": (7,),
            "fingerprint": (7,), "unlabeled_x": (7, 20), "unlabeled_query_x": (7, 15),
        }  # fmt: skip
        assert {field.name for field in fields(Episode)} == {*sizes, "ways", "labeled", "unknown_x"}

    @pytest.mark.parametrize("rotations", [False, True, "random"])
    def test_numbers_of_each_class_and_no_image_twice(self, rotations):
        draw = EpisodeSampler(
            SPLIT, 3, 2, 2, seed=0, rotations=rotations, unlabeled=4, unlabeled_query=3, distractors=2
        )
        episodes = draw(torch.arange(40))
        for task in (episodes[i] for i in range(40)):
            support, query, one, other = (
                decoded(x) for x in (task.support_x, task.query_x, task.unlabeled_x, task.unlabeled_query_x)
            )
            everything = [image for images in (support, query, one, other) for image in rows(images)]
            assert len(set(everything)) == len(everything) == 6 + 6 + 20 + 15
            known = set(rows(support[:, ::2]))  # class and turn
            assert len(known) == 3
            for images, number in ((one, 4), (other, 3)):
                classes = rows(images[:, ::2])
                counts = {which: classes.count(which) for which in classes}
                assert set(counts.values()) == {number}
                assert known < set(counts)
                assert len(counts) == 5
            assert set(rows(one[:, ::2])) == set(rows(other[:, ::2]))

    @pytest.mark.parametrize("place", [0, 7, 14])
    def test_the_place_says_nothing_of_the_class(self, place):
        """Label 0, 1, 2, or one of the two distractors: each is at every place as often."""
        episodes = EpisodeSampler(SPLIT, 3, 1, 1, seed=0, unlabeled=3, distractors=2)(torch.arange(4000))
        support, unlabeled = codes(episodes.support_x)[0], codes(episodes.unlabeled_x)[0]
        match = unlabeled[:, place, None] == support  # (episodes, support images)
        label = torch.where(match.any(1), (match * episodes.support_y).sum(1), 3)
        counts = label.bincount(minlength=4)
        assert stats.chisquare(counts.numpy(), [800, 800, 800, 1600]).pvalue > 1e-3

    @pytest.mark.parametrize("rotations", [False, True])
    def test_support_and_query_are_the_same_with_and_without(self, rotations):
        plain = EpisodeSampler(SPLIT, 3, 2, 2, seed=5, rotations=rotations)(torch.arange(50))
        more = EpisodeSampler(
            SPLIT, 3, 2, 2, seed=5, rotations=rotations, unlabeled=4, unlabeled_query=3, distractors=2
        )(torch.arange(50))
        for name, value in plain.tensors().items():
            assert torch.equal(value, more.tensors()[name]), name

    def test_what_evaluation_and_training_hold(self):
        class Data:
            def load(self):
                return {name: synthetic_split(name=name, seed=n) for n, name in enumerate(("train", "val", "test"))}

        numbers = {"ways": 4, "shots": 1, "queries": 2, "train_ways": 3, "train_shots": 1, "train_queries": 1}
        more = {"unlabeled": 3, "train_unlabeled": 2, "distractors": 1, "unlabeled_query": 1, "unlabeled_tasks": 0.5}
        with_all = EpisodeData(Data(), Task(**numbers, meta_batch=1, **more), seed=0, steps=1, label_fraction=0.5)
        plain = EpisodeData(Data(), Task(**numbers, meta_batch=1), seed=0, steps=1)
        for data in (with_all, plain):
            data.setup()
        train, test = (with_all.sampler(name)(torch.arange(5)) for name in ("train", "test"))
        assert train.unlabeled_x.shape[1] == 3 * 2
        assert train.unlabeled_query_x.shape[1] == 3
        assert train.labeled.shape == (5,)
        assert test.unlabeled_x.shape[1] == (4 + 1) * 3
        assert test.unlabeled_query_x is None
        assert test.labeled is None
        assert torch.equal(test.fingerprint, plain.sampler("test")(torch.arange(5)).fingerprint)


class TestLabelFraction:
    @pytest.mark.parametrize("rotations", [False, True, "random"])
    def test_a_fixed_part_of_each_class_is_labelled(self, rotations):
        """0.3 of 10, 20, 14 and 5 drawings are 3, 6, 4 and (of 1.5, to even) 2, the same for every seed and turn."""
        counts = [10, 20, 14, 5]
        seen = []
        for seed in (0, 1):
            draw = EpisodeSampler(
                coded_split(4, counts), 3, 1, 1, seed, rotations=rotations, unlabeled=2, unlabeled_query=1,
                label_fraction=0.3,
            )  # fmt: skip
            episodes = draw(torch.arange(1500))
            labelled = decoded(torch.cat([episodes.support_x, episodes.query_x], dim=1)).flatten(0, 1)
            others = decoded(torch.cat([episodes.unlabeled_x, episodes.unlabeled_query_x], dim=1)).flatten(0, 1)
            assert len(set(labelled[:, 2].tolist())) == len(set(others[:, 2].tolist())) == (4 if rotations else 1)
            seen.append((set(rows(labelled[:, :2])), set(rows(others[:, :2]))))
        assert seen[0] == seen[1]
        labelled, others = seen[0]
        assert not labelled & others
        assert labelled | others == {(c, drawing) for c, count in enumerate(counts) for drawing in range(count)}
        assert [sum(c == label for c, _ in labelled) for label in range(4)] == [3, 6, 4, 2]

    def test_which_are_labelled_is_not_the_same_for_every_class(self):
        episodes = EpisodeSampler(SPLIT, 3, 1, 1, seed=0, label_fraction=0.2)(torch.arange(500))
        classes, drawings = codes(torch.cat([episodes.support_x, episodes.query_x], dim=1))
        assert len({frozenset(drawings[classes == c].tolist()) for c in range(12)}) > 6

    def test_all_are_labelled_at_one(self):
        one = EpisodeSampler(SPLIT, 3, 7, 7, seed=0, label_fraction=1.0)(torch.arange(3))
        assert torch.equal(one.fingerprint, EpisodeSampler(SPLIT, 3, 7, 7, seed=0)(torch.arange(3)).fingerprint)


class TestUnlabeledTasks:
    def test_their_part(self):
        labeled = EpisodeSampler(SPLIT, 3, 1, 1, seed=0, unlabeled_tasks=0.4)(torch.arange(4000)).labeled
        assert stats.binomtest(int((~labeled).sum()), 4000, 0.4).pvalue > 1e-3

    def test_labels_are_independent_of_classes(self):
        """Of two support images: whether they have the same label, against whether they are of the same class."""
        episodes = EpisodeSampler(SPLIT, 3, 3, 1, seed=0, unlabeled_tasks=0.5)(torch.arange(8000))
        classes, labels = codes(episodes.support_x)[0], episodes.support_y
        for first, second in ((0, 3), (2, 8)):
            same_class, same_label = (t[:, first] == t[:, second] for t in (classes, labels))
            assert torch.equal(same_class[episodes.labeled], same_label[episodes.labeled])
        unlabeled = ~episodes.labeled
        # The label of a place is fixed there, and the class at a place is any.
        assert bool((labels[unlabeled] == torch.arange(9) % 3).all())
        for place in range(9):
            counts = classes[unlabeled][:, place].bincount(minlength=12)
            assert stats.chisquare(counts.numpy()).pvalue > 1e-3
        pairs = ((0, 3), (0, 1))  # places of the same label, and of two
        same = [int((classes[unlabeled][:, a] == classes[unlabeled][:, b]).sum()) for a, b in pairs]
        table = [same, [int(unlabeled.sum()) - n for n in same]]
        assert stats.chi2_contingency(table).pvalue > 1e-3

    def test_true_labels_do_not_enter(self, monkeypatch):
        """With other labels given to the same images, tasks without labels stay as they are, fingerprint and all."""
        numbers = torch.arange(200)

        def drawn():
            return EpisodeSampler(SPLIT, 3, 2, 2, seed=0, unlabeled=2, distractors=1, unlabeled_tasks=0.5)(numbers)

        original = EpisodeSampler._shuffle

        def renamed(self, key, stream, rows, *others):
            shuffled = original(self, key, stream, rows, *others)
            if stream not in (EpisodeStream.SUPPORT, EpisodeStream.QUERY):
                return shuffled
            return *shuffled[:-1], (shuffled[-1] + torch.arange(shuffled[-1].shape[1]) + 1) % 3

        before = drawn()
        monkeypatch.setattr(EpisodeSampler, "_shuffle", renamed)
        after = drawn()
        for name, value in before.tensors().items():
            assert torch.equal(value[~before.labeled], after.tensors()[name][~before.labeled]), name
        with_labels = before.labeled
        assert not bool((before.fingerprint == after.fingerprint)[with_labels].any())

    @pytest.mark.parametrize(
        "name", [name for name in TRAINED if not METHODS[name].on_minibatches]
    )  # of images, not tasks
    def test_no_objective_depends_on_their_labels(self, name):
        """A method without unsupervised terms has nothing to learn there; no other sees labels of the queries."""
        episodes = EpisodeSampler(synthetic_split(), 5, 2, 3, 0, unlabeled=2, unlabeled_tasks=1 - 1e-9)(torch.arange(4))
        assert not bool(episodes.labeled.any())
        method = build(name, VmapEngine())
        if METHODS[name].host:
            loss = objective(method, episodes)
            assert bool(loss > 0)
            other = {"query_y": episodes.query_y.flip(1)}
            if method.inner_steps:  # prototypes are of some partition, which is one of places
                other["support_y"] = episodes.support_y.flip(1)
            assert torch.equal(objective(method, episodes.with_tensors(other)), loss)
        else:
            assert not bool(objective(method, episodes).any())
            assert not any(bool(gradient.any()) for gradient in outer_gradient(method, episodes).values())

    def test_a_batch_of_both_kinds_learns_from_the_labelled(self):
        """The objective of each task is that of the task alone: 0 without labels, the supervised one with them."""
        method = build("protonet", VmapEngine()).train()
        mixed = EpisodeSampler(synthetic_split(), 5, 2, 3, 0, unlabeled_tasks=0.5)(torch.arange(12))
        plain = EpisodeSampler(synthetic_split(), 5, 2, 3, 0)(torch.arange(12))
        ours, wanted = (method.engine.map_tasks(method.task_terms, e) for e in (mixed, plain))
        assert 0 < int(mixed.labeled.sum()) < 12
        expected = torch.where(mixed.labeled, wanted["objective"], 0.0)
        torch.testing.assert_close(ours["objective"], expected)
        assert torch.equal(ours["accuracy"].isnan(), ~mixed.labeled)


class TestOrders:
    def test_passes_show_every_class_once(self):
        """Four tasks of 3 ways are a pass through 12 classes; the next pass has another order."""
        classes = codes(EpisodeSampler(SPLIT, 3, 1, 1, seed=0, draw="passes")(torch.arange(40)).support_x)[0]
        orders = classes.view(10, 12)
        assert bool((orders.sort(1).values == torch.arange(12)).all())
        partitions = {frozenset(frozenset(task) for task in one.view(4, 3).tolist()) for one in orders}
        assert len(partitions) == 10

    def test_passes_leave_out_what_fills_no_task(self):
        draw = EpisodeSampler(coded_split(11, [4] * 11), 3, 1, 1, seed=0, draw="passes")
        classes = codes(draw(torch.arange(600)).support_x)[0].view(200, 9)
        assert all(len(set(one.tolist())) == 9 for one in classes)
        assert stats.chisquare(classes.flatten().bincount(minlength=11).numpy()).pvalue > 1e-3

    def test_in_order(self):
        """Classes as they lie, and of each the first images; after the last full task it begins again."""
        draw = EpisodeSampler(coded_split(7, [6] * 7), 3, 2, 1, seed=0, draw="in_order", unlabeled=2)
        episodes = draw(torch.arange(3))
        for task, first in ((0, 0), (1, 3), (2, 0)):
            one = episodes[task]
            for x, drawings in ((one.support_x, (0, 1)), (one.query_x, (2,)), (one.unlabeled_x, (3, 4))):
                wanted = {(first + c, drawing) for c in range(3) for drawing in drawings}
                assert set(rows(decoded(x)[:, :2])) == wanted
            assert torch.equal(codes(one.support_x)[0] - first, one.support_y)

    def test_distinct_tasks(self):
        episodes = EpisodeSampler(SPLIT, 3, 1, 2, seed=0, unlabeled=1, distinct=6)(torch.arange(3000))
        names = episodes.fingerprint.unique()
        assert len(names) == 6
        counts = [int((episodes.fingerprint == name).sum()) for name in names]
        assert stats.chisquare(counts).pvalue > 1e-3
        for name in names:
            same = episodes.fingerprint == name
            for value in episodes.tensors().values():
                assert bool((value[same] == value[same][:1]).all())

    def test_random_rotations_turn_a_class_by_one_of_four(self):
        draw = EpisodeSampler(SPLIT, 3, 2, 2, seed=0, rotations="random", unlabeled=2, distractors=1)
        episodes = draw(torch.arange(1500))
        images = decoded(torch.cat([episodes.support_x, episodes.query_x, episodes.unlabeled_x], dim=1))
        turns = []
        for one in images:
            of_class = set(rows(one[:, ::2]))
            assert len(of_class) == len({c for c, _ in of_class}) == 4
            turns += [turn for _, turn in of_class]
        assert stats.chisquare(torch.tensor(turns).bincount(minlength=4).numpy()).pvalue > 1e-3
        # The turn is the task's: a class is seen at each of them.
        assert len(set(rows(images.flatten(0, 1)[:, ::2]))) == 12 * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distractors": 8}, "5 ways \\+ 8 distractors, but coded/train has 12 classes"),
        ({"unlabeled": 6, "unlabeled_query": 4}, "10 images without labels, but coded/train has 9 left of class 'c0'"),
        ({"unlabeled": 8, "label_fraction": 0.5}, "8 images without labels, but coded/train has 7 left of class 'c0'"),
        ({"label_fraction": 0.2}, "2 shots \\+ 3 queries, .* 3 labelled images of class 'c0': .* raise label_fraction"),
        ({"label_fraction": 0}, "data.label_fraction=0: must be in \\(0, 1\\]"),
        ({"label_fraction": 1.5}, "data.label_fraction=1.5: must be in \\(0, 1\\]"),
        ({"draw": "passes", "distractors": 1}, "distractor classes .* need draw=independent, not passes"),
        ({"draw": "shuffled"}, "task.draw=shuffled: choose one of independent, passes, in_order"),
        ({"rotations": "often"}, "data.rotations=often: choose true, false, random or mirrored"),
        ({"rotations": ["random"]}, "data.rotations=\\['random'\\]: choose true, false, random or mirrored"),
    ],
)
def test_episodes_that_cannot_be_drawn(options, message):
    with pytest.raises(UserError, match=message):
        EpisodeSampler(SPLIT, 5, 2, 3, seed=0, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unlabeled_tasks": 1.0}, "task.unlabeled_tasks=1.0: must be a fraction in \\[0, 1\\)"),
        ({"unlabeled_tasks": -0.1}, "task.unlabeled_tasks=-0.1"),
        ({"unlabeled": -1}, "task.unlabeled=-1: must be a whole number of at least 0"),
        ({"train_distractors": 0.5}, "task.train_distractors=0.5: must be a whole number"),
        ({"train_distinct": 0}, "task.train_distinct=0: must be at least 1, or null"),
    ],
)
def test_task_numbers_are_checked(change, message):
    with pytest.raises(UserError, match=message):
        Task(5, 1, 1, 5, 1, 1, meta_batch=1, **change)
