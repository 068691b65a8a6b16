"""Episodes are a pure function of their seed and number."""

import pytest
import torch
from scipy import stats

from fewshot.data import EpisodeData, EpisodeSampler, Split, Task
from fewshot.data.split import assert_disjoint
from fewshot.errors import UserError
from synthetic_data import synthetic_split


def coded_split(classes: int, counts: list[int], size: int = 4) -> Split:
    """Images whose first two pixels say which class and drawing they are; a third marks the corner."""
    images = torch.zeros(sum(counts), 1, size, size, dtype=torch.uint8)
    row = 0
    for label, count in enumerate(counts):
        for drawing in range(count):
            images[row, 0, 0, 0], images[row, 0, 0, 1], images[row, 0, 0, 2] = label + 1, drawing + 1, 255
            row += 1
    return Split("coded/train", images, torch.tensor(counts), tuple(f"c{c}" for c in range(classes)))


def codes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = (x * 255).round().long()
    return pixels[..., 0, 0, 0] - 1, pixels[..., 0, 0, 1] - 1


def test_batch_size_and_order_of_drawing_do_not_matter(split):
    sampler = EpisodeSampler(split, 5, 1, 3, seed=4, rotations=True)
    together, alone = sampler(torch.tensor([0, 5, 7])), sampler(torch.tensor([7]))
    for name, value in alone.tensors().items():
        assert torch.equal(value[0], together.tensors()[name][2]), name


def test_labels_classes_and_drawings_are_consistent():
    sampler = EpisodeSampler(coded_split(20, [12] * 20), 5, 3, 4, seed=0)
    episodes = sampler(torch.arange(50))
    for task in (episodes[i] for i in range(50)):
        support_class, support_drawing = codes(task.support_x)
        query_class, query_drawing = codes(task.query_x)
        of_label = {int(y): int(c) for y, c in zip(task.support_y, support_class, strict=True)}
        assert len(set(of_label.values())) == 5
        assert task.support_y.bincount().tolist() == [3] * 5
        assert task.query_y.bincount().tolist() == [4] * 5
        assert all(of_label[int(y)] == int(c) for y, c in zip(task.query_y, query_class, strict=True))
        everything = [*zip(support_class.tolist(), support_drawing.tolist(), strict=True)]
        everything += [*zip(query_class.tolist(), query_drawing.tolist(), strict=True)]
        assert len(set(everything)) == 5 * 7  # no image twice, so none in both sets


def test_classes_images_and_places_are_uniform():
    sampler = EpisodeSampler(coded_split(10, [6] * 10), 4, 1, 2, seed=1)
    episodes = sampler(torch.arange(4000))
    classes, drawings = codes(episodes.support_x)
    for values, outcomes in ((classes, 10), (drawings, 6)):
        assert stats.chisquare(values.flatten().bincount(minlength=outcomes).numpy()).pvalue > 1e-3
    # Which label stands first in the support set carries nothing; nor does which class gets label 0.
    assert stats.chisquare(episodes.support_y[:, 0].bincount(minlength=4).numpy()).pvalue > 1e-3
    assert stats.chisquare(classes[episodes.support_y == 0].bincount(minlength=10).numpy()).pvalue > 1e-3


def test_seeds_give_other_episodes(split):
    one, two = (EpisodeSampler(split, 5, 1, 3, seed)(torch.arange(20)) for seed in (0, 1))
    assert not set(one.fingerprint.tolist()) & set(two.fingerprint.tolist())


def test_classes_of_unequal_size_give_only_their_own_images():
    counts = [3, 9, 4, 7, 3, 12]
    episodes = EpisodeSampler(coded_split(6, counts), 3, 1, 2, seed=0)(torch.arange(300))
    for x in (episodes.support_x, episodes.query_x):
        classes, drawings = codes(x)
        assert bool((drawings < torch.tensor(counts)[classes]).all())
        assert int(drawings.min()) == 0


def test_rotated_classes_are_exact_quarter_turns():
    split = coded_split(3, [5] * 3)
    episodes = EpisodeSampler(split, 12, 1, 2, seed=0, rotations=True)(torch.arange(3))
    for task in (episodes[i] for i in range(3)):
        turns = {}
        for x, y in zip(task.support_x, task.support_y, strict=True):
            turns[int(y)] = [
                k for k in range(4)
                for image in split.images if torch.equal(torch.rot90(image[0], k).float() / 255, x[0])
            ]  # fmt: skip
        for x, y in zip(task.query_x, task.query_y, strict=True):
            (turn,) = turns[int(y)]
            assert any(torch.equal(torch.rot90(image[0], turn).float() / 255, x[0]) for image in split.images)


def test_rotated_episodes_stay_in_their_split():
    """Every image of an episode, turned back, is one of the split's own."""
    for seed, name in enumerate(("train", "val", "test")):
        split = synthetic_split(name=name, seed=seed)
        own = {image.numpy().tobytes() for image in split.images}
        episodes = EpisodeSampler(split, 20, 1, 1, seed=0, rotations=True)(torch.arange(5))
        for x in torch.cat([episodes.support_x, episodes.query_x]).flatten(0, 1):
            pixels = (x * 255).round().to(torch.uint8)
            turned_back = (torch.rot90(pixels, turn, (1, 2)).contiguous().numpy().tobytes() for turn in range(4))
            assert any(image in own for image in turned_back)


def test_normalisation(split):
    plain = EpisodeSampler(split, 5, 1, 1, 0)(torch.arange(2))
    scaled = EpisodeSampler(split, 5, 1, 1, 0, mean=0.5, std=0.25)(torch.arange(2))
    assert float(plain.support_x.min()) >= 0
    assert float(plain.support_x.max()) <= 1
    torch.testing.assert_close(scaled.support_x, (plain.support_x - 0.5) / 0.25)


def test_fingerprint_names_images_and_labels_not_their_order():
    one = EpisodeSampler(coded_split(20, [12] * 20), 5, 1, 3, seed=0)(torch.arange(200)).fingerprint
    assert len(set(one.tolist())) == 200
    other = EpisodeSampler(coded_split(20, [11] * 20), 5, 1, 3, seed=0)(torch.arange(200)).fingerprint
    assert not set(one.tolist()) & set(other.tolist())


@pytest.mark.parametrize(
    ("shape", "message"),
    [((31, 1, 1), "31 ways, but made/train has 30 classes"), ((5, 6, 5), "6 shots \\+ 5 queries, but .* 10 images")],
)
def test_episodes_that_cannot_be_drawn(split, shape, message):
    with pytest.raises(UserError, match=message):
        EpisodeSampler(split, *shape, seed=0)


def test_rotations_give_four_times_the_ways(split):
    assert EpisodeSampler(split, 120, 1, 1, seed=0, rotations=True)(torch.arange(1)).ways == 120
    with pytest.raises(UserError, match="121 ways"):
        EpisodeSampler(split, 121, 1, 1, seed=0, rotations=True)


def test_a_class_in_two_splits_is_refused():
    with pytest.raises(UserError, match="in both train and val"):
        assert_disjoint({"train": synthetic_split().classes, "val": synthetic_split().classes})


@pytest.mark.parametrize("field", ["ways", "shots", "queries", "meta_batch", "test_episodes"])
def test_task_numbers_are_checked(field):
    numbers = {
        "ways": 5,
        "shots": 1,
        "queries": 1,
        "train_ways": 5,
        "train_shots": 1,
        "train_queries": 1,
        "meta_batch": 1,
    }
    with pytest.raises(UserError, match=f"task.{field}=0"):
        Task(**numbers | {field: 0})


def test_test_episodes_depend_on_the_test_seed_alone():
    class Data:
        def load(self):
            return {name: synthetic_split(name=name, seed=n) for n, name in enumerate(("train", "val", "test"))}

    task = {"ways": 5, "shots": 1, "queries": 3, "train_ways": 6, "train_shots": 2, "train_queries": 1, "meta_batch": 2}
    prints = []
    for seed, changes in ((0, {}), (1, {"train_ways": 9, "meta_batch": 7}), (0, {"test_seed": 1})):
        data = EpisodeData(Data(), Task(**task | changes), seed, steps=10)
        data.setup()
        prints.append(data.sampler("test")(torch.arange(10)).fingerprint.tolist())
    assert prints[0] == prints[1]
    assert not set(prints[0]) & set(prints[2])


@pytest.mark.parametrize(
    ("classes", "ways", "message"),
    [
        ((15, 4, 5), (20, 5), "20 ways, but train has 15 classes; 5 ways, but val has 4 classes: "
         "set task.train_ways=15 task.ways=4"),
        ((15, 4, 3), (5, 5), "5 ways, but val has 4 classes, test has 3 classes: set task.ways=3"),
        ((4, 3, 5), (5, 5), "5 ways, but train has 4 classes, val has 3 classes: "
         "set task.train_ways=3 task.ways=3"),
        ((20, 1, 5), (20, 5), "5 ways, but val has 1 class: a task needs at least 2, add classes"),
    ],
)  # fmt: skip
def test_too_many_ways_are_one_line_for_all_splits(classes, ways, message):
    class Data:
        def load(self):
            return {
                name: synthetic_split(n, name=name) for name, n in zip(("train", "val", "test"), classes, strict=True)
            }

    data = EpisodeData(Data(), Task(ways[1], 1, 1, ways[0], 1, 1, 1), seed=0, steps=1)
    with pytest.raises(UserError, match=f"^{message}$"):
        data.setup()


def test_episodes_are_those_of_earlier_versions():
    """Runs are compared on the fingerprints of their episodes, also with runs of long ago."""
    episodes = EpisodeSampler(synthetic_split(), 5, 2, 3, 0, rotations=True, unlabeled=1)(torch.arange(2))
    found = [f"{number & (1 << 64) - 1:016x}" for number in episodes.fingerprint.tolist()]
    assert found == ["c6275998becc5f8f", "ed6105f729e04eab"]


@pytest.mark.parametrize("rotations", [True, "random", "mirrored"])
def test_images_kept_in_all_turns_are_an_economy_of_time_only(rotations, monkeypatch):
    split, index = synthetic_split(), torch.arange(6)
    kept = EpisodeSampler(split, 5, 2, 3, 0, rotations, 0.4, 0.3)
    monkeypatch.setattr("fewshot.data.rotations.MOST_BYTES", 0)
    made_now = EpisodeSampler(split, 5, 2, 3, 0, rotations, 0.4, 0.3)
    assert kept.rotated.rotated is not None
    assert made_now.rotated.rotated is None
    for name, value in kept(index).tensors().items():
        assert torch.equal(made_now(index).tensors()[name], value), name


@pytest.mark.parametrize("rotations", [False, True, "random", "mirrored"])
def test_the_classes_of_an_episode_are_those_of_its_images(rotations):
    """Each query image is, turned as its class says, an image of the class that its label stands for."""
    split = synthetic_split()
    sampler = EpisodeSampler(split, ways=5, shots=1, queries=2, seed=3, rotations=rotations, distractors=1, unlabeled=1)
    index = torch.tensor([7, 2])
    episodes, classes = sampler(index), sampler.classes(index)
    assert classes.shape == (2, 5)
    assert len(sampler.class_names) == len(set(sampler.class_names)) == 30 * {True: 4, "mirrored": 8}.get(rotations, 1)
    for task in range(2):
        for x, y in zip(episodes.query_x[task], episodes.query_y[task], strict=True):
            name, *turn = sampler.class_names[classes[task, y]].split(", ")
            quarters = [int(turn[0].removesuffix("°")) // 90] if turn else range(4 if rotations else 1)
            first = 10 * split.classes.index(name)
            own = split.images[first : first + 10] / 255
            own = own.flip(3) if turn[1:] == ["mirrored"] else own
            assert any(bool((torch.rot90(own, q, (2, 3)) == x).flatten(1).all(1).any()) for q in quarters)


@pytest.mark.parametrize("setting", ["rotations", "eval_rotations"])
def test_a_mistaken_turn_is_named_before_any_image_is_read(setting):
    with pytest.raises(UserError, match=rf"^data\.{setting}=sideways: choose true, false, random or mirrored"):
        EpisodeData(None, Task(5, 1, 1, 5, 1, 1, meta_batch=1), 0, steps=1, **{setting: "sideways"})
