"""Unknown classes of open-set tasks: who they are, and that they change nothing else."""

from dataclasses import replace

import pytest
import torch
from scipy import stats

from fewshot.data import EpisodeData, EpisodeSampler, Split, Task
from fewshot.errors import UserError
from synthetic_data import synthetic_split

CLASSES = 15
DRAWS = [
    {},
    {"rotations": True},
    {"rotations": "random"},
    {"unlabeled": 2, "distractors": 2, "unlabeled_query": 1},
    {"draw": "passes"},
    {"draw": "in_order", "unlabeled": 1},
    {"within": 1.0, "distractors": 1, "unlabeled": 1},
    {"within": 0.5},
    {"label_fraction": 0.6, "unlabeled": 2},
    {"distinct": 4},
    {"unlabeled_tasks": 0.5},
]


@pytest.fixture
def split() -> Split:
    """Classes in two groups, with every pixel of an image equal to the number of its class."""
    made = synthetic_split(classes=CLASSES, images=8)
    images = torch.arange(CLASSES, dtype=torch.uint8).repeat_interleave(8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).clone()
    images[:, 0, 0, 0] = torch.arange(8, dtype=torch.uint8).repeat(CLASSES)  # the number of the image
    return replace(made, images=images, classes=tuple(f"group{n // 9}/{n}" for n in range(CLASSES)))


def classes_of(x: torch.Tensor) -> torch.Tensor:
    return (x[..., 0, 4, 4] * 255).round().long()


def rows(x: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(row) for row in (x.flatten(1) * 255).round().long().tolist()]


@pytest.mark.parametrize("options", DRAWS, ids=str)
def test_all_other_sets_are_the_same_with_and_without(split, options):
    split = replace(split, images=synthetic_split(classes=CLASSES, images=8).images)
    plain, more = (EpisodeSampler(split, 3, 2, 2, seed=5, **options, unknown=u)(torch.arange(40)) for u in (0, 2))
    assert plain.unknown_x is None
    assert more.unknown_x.shape == (40, 2 * 2, 1, 8, 8)
    for name, value in plain.tensors().items():
        assert torch.equal(value, more.tensors()[name]), name


@pytest.mark.parametrize("options", [options for options in DRAWS if not options.get("rotations")], ids=str)
def test_unknown_classes_are_in_no_other_set(split, options):
    episodes = EpisodeSampler(split, 3, 2, 2, seed=5, **options, unknown=2)(torch.arange(40))
    for task in (episodes[number] for number in range(40)):
        unknown = classes_of(task.unknown_x).tolist()
        assert sorted(unknown.count(label) for label in set(unknown)) == [2, 2]  # two classes of two images
        assert len(set(rows(task.unknown_x))) == 4
        others = [x for x in (task.support_x, task.query_x, task.unlabeled_x, task.unlabeled_query_x) if x is not None]
        assert not set(unknown) & set(classes_of(torch.cat(others)).tolist())


def test_unknown_rotations_are_other_classes(split):
    """Rotated copies are classes of their own: one may be known, and another unknown."""
    split = replace(split, images=synthetic_split(classes=CLASSES, images=8).images)
    sampler = EpisodeSampler(split, 3, 2, 2, seed=5, rotations=True, unknown=50)
    for task in (sampler(torch.arange(3))[number] for number in range(3)):
        everything = rows(torch.cat([task.support_x, task.query_x, task.unknown_x]))
        assert len(set(everything)) == len(everything) == 6 + 6 + 100


def test_unknown_classes_come_from_the_group_too(split):
    episodes = EpisodeSampler(split, 3, 1, 2, seed=0, within=1.0, unknown=3)(torch.arange(60))
    groups = torch.cat([classes_of(episodes.support_x), classes_of(episodes.unknown_x)], 1) // 9
    assert bool((groups == groups[:, :1]).all())


def test_each_class_is_unknown_as_often(split):
    episodes = EpisodeSampler(split, 3, 1, 1, seed=0, unknown=2)(torch.arange(3000))
    counts = classes_of(episodes.unknown_x).flatten().bincount(minlength=CLASSES)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_the_place_says_nothing_of_the_class(split):
    """The images of one class are not side by side."""
    episodes = EpisodeSampler(split, 3, 1, 2, seed=0, unknown=2)(torch.arange(3000))
    unknown = classes_of(episodes.unknown_x)
    counts = [int((unknown[:, 0] == unknown[:, place]).sum()) for place in (1, 2, 3)]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_in_order_unknown_classes_are_the_next(split):
    episodes = EpisodeSampler(split, 4, 1, 1, seed=0, draw="in_order", unknown=5)(torch.arange(3))
    for task, unknown in ((0, {4, 5, 6, 7, 8}), (2, {12, 13, 14, 0, 1})):
        assert set(classes_of(episodes[task].unknown_x).tolist()) == unknown


def test_the_images_have_the_tasks_normalisation(split):
    plain, scaled = (
        EpisodeSampler(split, 3, 1, 1, 0, mean=mean, std=std, unknown=2)(torch.arange(4))
        for mean, std in ((0.0, 1.0), (0.5, 0.25))
    )
    torch.testing.assert_close(scaled.unknown_x, (plain.unknown_x - 0.5) / 0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unknown": 13}, "^3 ways \\+ 13 unknown classes, but made/train has 15 classes: lower task.unknown$"),
        ({"unknown": 12, "distractors": 1}, "3 ways \\+ 1 distractors \\+ 12 unknown classes, .*lower task.unknown$"),
        ({"unknown": 13, "draw": "passes"}, "lower task.unknown$"),
        ({"unknown": 4, "within": 0.5}, "have only 3 further classes: lower task.unknown=4 or data.eval_within"),
    ],
)
def test_too_few_classes_are_one_line(split, options, message):
    with pytest.raises(UserError, match=message):
        EpisodeSampler(split, 3, 2, 2, seed=0, **options)


class Data:
    def load(self) -> dict[str, Split]:
        return {name: synthetic_split(name=name, seed=seed) for seed, name in enumerate(("train", "val", "test"))}


def test_only_test_tasks_have_unknown_images():
    task = Task(ways=4, shots=1, queries=2, train_ways=3, train_shots=1, train_queries=1, meta_batch=1, unknown=3)
    data = EpisodeData(Data(), task, seed=0, steps=1)
    data.setup()
    test, *others = (data.sampler(name)(torch.arange(5)) for name in ("test", "val", "train"))
    assert test.unknown_x.shape[1] == 3 * 2
    assert [episodes.unknown_x for episodes in others] == [None, None]
    assert all(episodes.unknown_x is None for episodes in data.calibration(3, torch.device("cpu")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unknown": -1}, "task.unknown=-1: must be a whole number of at least 0"),
        ({"knownness": "often"}, "task.knownness=often: choose one of auto, probability, energy, logit, real"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises(UserError, match=message):
        Task(5, 1, 1, 5, 1, 1, meta_batch=1, **change)
