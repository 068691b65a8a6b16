"""Check that every method tells unknown images, and that these images change nothing else."""

import pytest
import torch

from fewshot.data import EpisodeSampler, Split
from fewshot.engines import LoopEngine, VmapEngine
from fewshot.episode import Episode
from methods_table import METHODS, build

QUERIES = 15
UNKNOWN = 6


@pytest.fixture
def episodes(split: Split) -> Episode:
    """Four 5-way 2-shot tasks with 3 queries of each class and of 2 unknown classes."""
    return EpisodeSampler(split, 5, 2, 3, seed=0, unlabeled=2, distractors=1, unknown=2)(torch.arange(4))


@pytest.fixture
def plain(split: Split) -> Episode:
    """The same tasks without unknown classes."""
    return EpisodeSampler(split, 5, 2, 3, seed=0, unlabeled=2, distractors=1)(torch.arange(4))


@pytest.mark.parametrize("name", METHODS)
class TestEveryMethod:
    def test_unknown_images_change_no_logit(self, name, episodes, plain):
        method = build(name, VmapEngine()).eval()
        method.bn = "transductive"  # under which the queries see each other
        assert torch.equal(episodes.fingerprint, plain.fingerprint)
        assert torch.equal(method.open_set(episodes)["logits"], method.logits(plain))

    def test_every_image_has_a_knownness(self, name, episodes):
        method = build(name, VmapEngine()).eval()
        knownness = method.open_set(episodes)["knownness"]
        assert knownness.shape == (4, QUERIES + UNKNOWN)
        assert knownness.isfinite().all()
        assert (method.knownness_score == "real") == (METHODS[name].host is not None)
        method.choose_knownness("probability")
        assert not torch.equal(method.open_set(episodes)["knownness"], knownness)

    @pytest.mark.thorough
    def test_engines_agree(self, name, episodes, float64):
        episodes = episodes.with_tensors(
            {key: x.double() for key, x in episodes.tensors().items() if x.is_floating_point()}
        )
        looped, mapped = (build(name, engine).eval().open_set(episodes) for engine in (LoopEngine(), VmapEngine(3)))
        torch.testing.assert_close(looped, mapped, rtol=1e-8, atol=1e-10)

    @pytest.mark.parametrize("bn", ["support", "transductive"])
    def test_only_transductive_queries_see_unknown_images(self, name, bn, episodes, float64):
        """Under ``bn=transductive`` all images of the one pass share its statistics, the unknown ones too."""
        episodes = episodes.with_tensors(
            {key: x.double() for key, x in episodes.tensors().items() if x.is_floating_point()}
        )
        method = build(name, VmapEngine()).eval()
        method.bn = bn
        both = method.open_set(episodes)["knownness"]
        fewer = method.open_set(episodes.with_tensors({"unknown_x": episodes.unknown_x[:, :2]}))["knownness"]
        apart = torch.allclose(both[:, : QUERIES + 2], fewer, rtol=1e-8, atol=1e-10)
        assert apart == (bn != "transductive" or not METHODS[name].transductive)
