"""Tasks whose classes come from one group, such as an alphabet."""

import pytest
import torch
from scipy import stats

from fewshot.data import EpisodeData, EpisodeSampler, Split, Task
from fewshot.errors import UserError
from synthetic_data import synthetic_split

SIZES = {"few": 3, "five": 5, "nested/eight": 8, "many": 14}


@pytest.fixture
def grouped() -> Split:
    """Groups of several sizes; each image is painted with the number of its class."""
    names = [f"{group}/{member}" for group, size in SIZES.items() for member in range(size)]
    images = torch.arange(len(names), dtype=torch.uint8).repeat_interleave(4).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return Split("grouped/train", images.contiguous(), torch.full((len(names),), 4), tuple(names))


def groups(split: Split, x: torch.Tensor) -> list[set[str]]:
    """The groups that each task's images come from."""
    numbers = (x[:, :, 0, 0, 0] * 255).round().long()
    return [{split.classes[n].rpartition("/")[0] for n in task} for task in numbers.tolist()]


@pytest.mark.parametrize("rotations", [False, True, "random"])
def test_all_classes_of_a_task_come_from_one_group(grouped, rotations):
    sampler = EpisodeSampler(grouped, 5, 1, 2, seed=0, rotations=rotations, within=1.0)
    episodes = sampler(torch.arange(300))
    support, query = groups(grouped, episodes.support_x), groups(grouped, episodes.query_x)
    assert support == query
    assert all(len(seen) == 1 for seen in support)
    # Turned classes count: three characters are twelve classes.
    wanted = set(SIZES) if rotations is True else set(SIZES) - {"few"}
    assert set.union(*support) == wanted


def test_groups_are_equally_likely_and_so_are_their_classes(grouped):
    episodes = EpisodeSampler(grouped, 5, 1, 1, seed=3, within=1.0)(torch.arange(3000))
    seen = [task.pop() for task in groups(grouped, episodes.support_x)]
    assert stats.chisquare([seen.count(name) for name in ("five", "nested/eight", "many")]).pvalue > 1e-3
    numbers = (episodes.support_x[..., 0, 0, 0] * 255).round().long().flatten()
    of_many = numbers[numbers >= 16].bincount()[16:]
    assert len(of_many) == 14
    assert stats.chisquare(of_many.numpy()).pvalue > 1e-3


def test_a_mixture_keeps_the_tasks_across_groups_as_they_were(grouped):
    plain, mixed, within = (EpisodeSampler(grouped, 4, 1, 1, 7, within=w)(torch.arange(2000)) for w in (0.0, 0.3, 1.0))
    is_plain = mixed.fingerprint == plain.fingerprint
    is_within = mixed.fingerprint == within.fingerprint
    assert bool((is_plain | is_within).all())
    assert stats.binomtest(int((~is_plain).sum()), 2000, 0.3).pvalue > 1e-3
    assert torch.equal(plain.support_x[is_plain], mixed.support_x[is_plain])


def test_a_task_does_not_depend_on_its_batch(grouped):
    sampler = EpisodeSampler(grouped, 5, 1, 2, seed=0, within=0.5)
    together, alone = sampler(torch.arange(40)), sampler(torch.tensor([33]))
    for name, value in alone.tensors().items():
        assert torch.equal(value[0], together.tensors()[name][33]), name


def test_distractors_come_from_the_group_too(grouped):
    sampler = EpisodeSampler(grouped, 5, 1, 1, seed=0, unlabeled=1, distractors=3, within=1.0)
    episodes = sampler(torch.arange(100))
    assert episodes.unlabeled_x is not None
    assert groups(grouped, episodes.unlabeled_x) == groups(grouped, episodes.support_x)
    assert all(len(seen) == 1 for seen in groups(grouped, episodes.unlabeled_x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": 15, "within": 0.5}, "no group of grouped/train has 15 classes .*the largest has 14"),
        ({"ways": 10, "within": 0.5, "distractors": 5}, "has 15 classes"),
        ({"ways": 5, "within": 1.5}, "data.within=1.5: must be a fraction"),
        ({"ways": 5, "within": True}, "data.within=True"),
        ({"ways": 5, "within": "half"}, "data.within=half"),
        ({"ways": 5, "within": 0.5, "draw": "passes"}, "need draw=independent, not passes"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(grouped, options, message):
    with pytest.raises(UserError, match=message):
        EpisodeSampler(grouped, shots=1, queries=1, seed=0, **options)


def test_a_split_without_groups_is_refused():
    with pytest.raises(UserError, match="there is only one group"):
        EpisodeSampler(synthetic_split(name="made up"), 5, 1, 1, seed=0, within=0.5)


def test_training_and_evaluation_have_settings_of_their_own(grouped):
    class Data:
        def load(self):
            parts = {"train": grouped}
            for name in ("val", "test"):
                classes = tuple(f"{label} of {name}" for label in grouped.classes)
                parts[name] = Split(f"grouped/{name}", grouped.images, grouped.counts, classes)
            return parts

    task = Task(ways=5, shots=1, queries=1, train_ways=5, train_shots=1, train_queries=1, meta_batch=1)
    data = EpisodeData(Data(), task, 0, steps=10, within=0.0, eval_within=1.0)
    data.setup()
    spread = [len(seen) for seen in groups(grouped, data.sampler("train")(torch.arange(20)).support_x)]
    assert max(spread) > 1
    for name in ("val", "test"):
        assert all(len(s) == 1 for s in groups(grouped, data.sampler(name)(torch.arange(20)).support_x))
