"""Scores of unknown images: against scikit-learn, and by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from fewshot.callbacks import Scores
from fewshot.engines import VmapEngine
from fewshot.errors import UserError
from fewshot.figures.open_set import draw_open_set
from fewshot.methods.gan_losses import real_logit
from fewshot.methods.knownness import score_logits
from fewshot.networks import Prediction
from fewshot.open_set import OpenSetScores, auroc, false_positive_rates, fpr95
from methods_table import build


def samples(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Known and unknown images of any number, with and without ties."""
    generator = np.random.default_rng(seed)
    known = generator.normal(generator.uniform(-1, 2), 1, generator.integers(1, 90))
    unknown = generator.normal(0, 1, generator.integers(1, 90))
    return (known.round(1), unknown.round(1)) if seed % 2 else (known, unknown)


@pytest.mark.parametrize("seed", range(60))
def test_scores_are_those_of_scikit_learn(seed):
    known, unknown = samples(seed)
    labels = np.repeat([1, 0], [len(known), len(unknown)])
    values = np.concatenate([known, unknown])
    assert auroc(known, unknown) == pytest.approx(roc_auc_score(labels, values), abs=1e-12)
    false_alarms, recall, _ = roc_curve(labels, values, drop_intermediate=False)
    assert fpr95(known, unknown) == pytest.approx(false_alarms[np.argmax(recall >= 0.95 - 1e-12)], abs=1e-12)
    rates = false_positive_rates(known, unknown)
    wanted = [false_alarms[np.argmax(recall >= k / len(known) - 1e-12)] for k in range(1, len(known) + 1)]
    np.testing.assert_allclose(rates, wanted, atol=1e-12)


def test_scores_by_hand():
    known, unknown = np.array([3.0, 2.0, 2.0, 0.0]), np.array([2.0, -1.0])
    # Of the 8 pairs the known image is higher in 1 + 0 + 0 + 0 (of 2.0) and 4 (of -1.0), and equal in 2.
    assert auroc(known, unknown) == pytest.approx((1 + 4 + 2 / 2) / 8)
    assert fpr95(known, unknown) == 0.5  # all four known images are needed: the threshold is 0
    assert false_positive_rates(known, unknown).tolist() == [0, 0.5, 0.5, 0.5]
    assert (auroc(known, known[:1]), auroc(np.ones(3), np.ones(2)), fpr95(np.ones(3), np.ones(2))) == (0.125, 0.5, 1)


@pytest.mark.parametrize(
    ("n", "needed"), [(1, 1), (19, 19), (20, 19), (21, 20), (40, 38), (60, 57), (100, 95), (300, 285)]
)
def test_recall_of_95_percent_is_exact(n, needed):
    """The threshold is the 19th of 20 values, not the 20th: 0.95 is no float."""
    known = np.arange(n, 0, -1.0)
    assert fpr95(known, np.array([known[needed - 1]])) == 1
    assert fpr95(known, np.array([known[needed - 1] - 0.5])) == 0


def test_scores_do_not_change_with_increasing_functions():
    known, unknown = samples(0)
    assert auroc(np.exp(known), np.exp(unknown)) == auroc(known, unknown)
    assert fpr95(np.exp(known), np.exp(unknown)) == fpr95(known, unknown)


@pytest.mark.parametrize("score", [auroc, fpr95])
def test_what_is_not_a_number_is_no_score(score):
    bad = np.array([0.0, np.nan])
    assert math.isnan(score(bad, np.zeros(3)))
    assert math.isnan(score(np.zeros(3), bad))


class TestKnownness:
    def test_formulas(self, float64):
        logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        probability = logits.softmax(-1).amax(-1)
        torch.testing.assert_close(score_logits(logits, "probability"), probability.logit())
        torch.testing.assert_close(score_logits(logits, "energy"), logits.exp().sum(-1).log())
        torch.testing.assert_close(score_logits(logits, "logit"), logits.max(-1).values)

    def test_sure_predictions_have_an_order(self):
        """Probabilities of 1, as float32 has them, would be ties."""
        logits = torch.tensor([[40.0, 0.0, 0.0], [50.0, 0.0, 0.0], [50.0, 50.0, 0.0]])
        one, two, three = score_logits(logits, "probability").tolist()
        assert two > one > 30 > three
        assert three == pytest.approx(0, abs=1e-6)

    def test_prototypes_are_told_by_the_nearest(self):
        method = build("protonet", VmapEngine())
        centres, x = torch.randn(5, 32), torch.randn(6, 32)
        prediction = Prediction(method.similarities({}, x, centres), x)
        distances = (x[:, None] - centres).square().sum(-1).amin(1)
        torch.testing.assert_close(method.knownness(prediction), -distances, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("name", ["metagan", "metagan_protonet"])
    def test_metagan_has_its_own_log_odds(self, name):
        method = build(name, VmapEngine())
        if method.fake_head is not None:
            torch.nn.init.normal_(method.fake_head.weight)
        prediction = Prediction(torch.randn(6, 5), torch.randn(6, method.features))
        fake = 0.0 if method.fake_head is None else method.fake_head(prediction.features)[:, 0]
        torch.testing.assert_close(method.knownness(prediction), real_logit(prediction.logits, fake))
        method.choose_knownness("logit")
        torch.testing.assert_close(method.knownness(prediction), prediction.logits.amax(-1))

    def test_a_score_is_chosen(self):
        method = build("maml", VmapEngine())
        for score, chosen in (("auto", "energy"), ("probability", "probability"), ("auto", "probability")):
            method.choose_knownness(score)
            assert method.knownness_score == chosen
        with pytest.raises(UserError, match=r"task.knownness=real: only MetaGAN has it; choose one of auto, .* logit$"):
            method.choose_knownness("real")


def scored(knownness: torch.Tensor, queries: int) -> Scores:
    """Collect the scores of tasks with this knownness, in two batches."""
    scores = Scores()
    count = len(knownness)
    method = build("nearest", VmapEngine())
    for part in (slice(0, 3), slice(3, count)):
        tasks = knownness[part]
        labels = torch.zeros(len(tasks), queries, dtype=torch.long)
        outputs = {
            "episodes": SimpleNamespace(fingerprint=torch.arange(count)[part], query_y=labels),
            "accuracy": torch.ones(len(tasks)), "loss": torch.ones(len(tasks)), "knownness": tasks,
            "logits": torch.zeros(len(tasks), queries, 5),
        }  # fmt: skip
        scores.on_test_batch_end(None, method, outputs, None, 0)
    scores.on_test_epoch_end(None, method)
    return scores


def test_scores_of_a_test_are_means_over_episodes():
    knownness = torch.randn(8, 20 + 10, generator=torch.Generator().manual_seed(0))
    scores = scored(knownness, queries=20)
    labels = np.repeat([1, 0], [20, 10])
    areas = [roc_auc_score(labels, task) for task in knownness.numpy()]
    columns = scores.columns()
    assert list(columns) == ["episode", "accuracy", "fingerprint", "auroc", "fpr95"]
    assert columns["auroc"] == pytest.approx(areas)
    summary = scores.summary().open_set
    assert summary.knownness == "logit"
    assert summary.auroc == pytest.approx(np.mean(areas))
    assert summary.fpr95 == pytest.approx(np.mean(columns["fpr95"]))
    assert summary.auroc_ci95 == pytest.approx(2.364624 * np.std(areas, ddof=1) / 8**0.5, rel=1e-5)  # t of 7


def test_the_figure_is_drawn_of_numbers_only(tmp_path):
    generator = np.random.default_rng(0)
    known, unknown = generator.normal(1, 1, (9, 20)), generator.normal(0, 1, (9, 10))
    scores = OpenSetScores("energy", 0.7, 0.01, 0.6, None)
    file = tmp_path / "open_set.png"
    assert draw_open_set(known, unknown, scores, file)
    assert file.stat().st_size > 10_000
    assert draw_open_set(np.ones((1, 1)), np.ones((1, 1)), scores, file)
    known[3, 2] = np.nan
    assert not draw_open_set(known, unknown, scores, file)
    assert not file.exists()
