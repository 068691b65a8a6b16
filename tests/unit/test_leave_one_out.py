"""What left-out images say: folds, temperatures and distances, against numbers computed by hand."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from fewshot.class_distances import POWER, SHRINKAGE, ClassDistances
from fewshot.errors import UserError
from fewshot.leave_one_out import best_temperature, in_folds, learn_trust

LABELS = torch.tensor([0, 1, 2, 0, 1, 0, 0])


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("most", [2, 3, 50])
def test_each_image_is_left_out_once_but_the_only_one_of_a_class(stratified, most):
    parts = list(in_folds(LABELS, most, stratified))
    assert sorted(torch.cat([rest for _, rest in parts]).tolist()) == [0, 1, 3, 4, 5, 6]
    for kept, rest in parts:
        assert sorted([*kept.tolist(), *rest.tolist()]) == list(range(7))
        assert LABELS[kept].unique().tolist() == [0, 1, 2]


def test_stratified_folds_keep_classes_equal():
    labels = torch.arange(20).repeat(5)
    parts = list(in_folds(labels, 5, stratified=True))
    assert len(parts) == 5
    assert all((labels[kept].bincount() == 4).all() for kept, _ in parts)
    assert len(list(in_folds(labels, 100, stratified=False))) == 100


def test_one_image_a_class_has_no_folds():
    assert list(in_folds(torch.arange(4), 5, stratified=True)) == []


def test_the_temperature_is_the_one_that_made_the_labels():
    logits = 3 * drawn(1, 20_000, 4)
    chances = (logits[0] / 2.5).softmax(1)
    labels = chances.multinomial(1, generator=torch.Generator().manual_seed(0))[:, 0]
    assert best_temperature(logits, labels) == pytest.approx(2.5, rel=0.05)


def test_the_temperature_minimises_the_loss_of_smoothed_targets():
    """Against a minimiser without derivatives or bounds, on the formula written again."""
    logits = drawn(2, 9, 3).numpy() * 4
    labels = logits.sum(0).argmax(1)
    labels[0] = (labels[0] + 1) % 3
    miss = 0.25 / 9.5
    targets = np.full((9, 3), miss / 2)
    targets[np.arange(9), labels] = 1 - miss

    def loss(temperature):
        powers = np.exp(logits / temperature[0])
        return -(targets * np.log((powers / powers.sum(2, keepdims=True)).mean(0))).sum(1).mean()

    best = minimize(loss, [1.0], method="Nelder-Mead", options={"xatol": 1e-8}).x[0]
    assert best_temperature(torch.from_numpy(logits), torch.from_numpy(labels)) == pytest.approx(best, rel=1e-3)


def test_no_mistake_is_no_certainty():
    logits = 10 * torch.eye(4)[None]
    temperature = best_temperature(logits, torch.arange(4))
    wrong = 1 - float((logits[0] / temperature).softmax(1)[0, 0])
    assert wrong == pytest.approx(0.25 / 4.5, rel=1e-3)


@pytest.mark.parametrize("features", [5, 40])
def test_distances_are_those_of_the_inverse_covariance(features):
    """With fewer and with more features than images; the covariance is written out, and inverted whole."""
    x = drawn(12, features)
    labels = torch.arange(3).repeat(4)
    asked = drawn(6, features, seed=1)
    raised, other = (value.sign() * value.abs() ** POWER for value in (x, asked))
    centre = torch.stack([raised[labels == name].mean(0) for name in range(3)]).mean(0)
    placed, other = ((value - centre) / (value - centre).norm(dim=1, keepdim=True) for value in (raised, other))
    means = torch.stack([placed[labels == name].mean(0) for name in range(3)])
    residuals = placed - means[labels]
    within = residuals.T @ residuals / (12 - 3)
    covariance = (1 - SHRINKAGE) * within + SHRINKAGE * within.trace() / features * torch.eye(features)
    gaps = other[:, None] - means
    expected = torch.einsum("mnd,de,mne->mn", gaps, covariance.inverse(), gaps) / (1 + 1 / 4)
    torch.testing.assert_close(ClassDistances.fit(x, labels, 3)(asked), expected)
    euclidean = ClassDistances.fit(x, labels, 3, whiten=False)(asked)
    torch.testing.assert_close(euclidean, gaps.square().sum(2) / (1 + 1 / 4))


def test_the_covariance_of_many_images_is_of_some(monkeypatch):
    x = drawn(400, 6)
    labels = torch.arange(2).repeat(200)
    whole = ClassDistances.fit(x, labels, 2)(x[:20])
    monkeypatch.setattr("fewshot.class_distances.MOST_RESIDUALS", 150)
    some = ClassDistances.fit(x, labels, 2)
    assert len(some.factor) == 134
    torch.testing.assert_close(some(x[:20]), whole, rtol=0.2, atol=0.1)


def centred_classes(shots: int, seed: int, ways: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features around the means of classes, which are the same for each seed."""
    means = 3 * drawn(ways, 30, seed=99)
    labels = torch.arange(ways).repeat(shots)
    return means[labels] + drawn(len(labels), 30, seed=seed), labels


def nearest_mean(x: torch.Tensor, y: torch.Tensor, ways: int):
    """Return a fit by class means."""

    def fit(kept):
        means = torch.stack([x[kept][y[kept] == name].mean(0) for name in range(ways)])
        return lambda rest: (-torch.cdist(x[rest], means)[None], x[rest])

    return fit


@pytest.mark.parametrize("frozen", [True, False])
def test_the_rate_of_false_alarms_is_about_as_asked(frozen):
    rates = []
    for seed in range(0, 20, 2):
        x, y = centred_classes(10, seed)
        trust = learn_trust(nearest_mean(x, y, 8), y, 8, frozen, unknown=0.1)
        known, _ = centred_classes(40, seed + 1)
        rates.append(float(trust.is_unknown(trust.knownness(known)).double().mean()))
        foreign = trust.knownness(3 * drawn(50, 30, seed=seed))
        assert trust.is_unknown(foreign).all()
    assert 0.06 < np.mean(rates) < 0.14, rates


def test_a_rate_needs_images_to_leave_out():
    x, y = centred_classes(1, 0)
    with pytest.raises(UserError, match=r"unknown=0\.05 leaves images out to learn a limit: give two"):
        learn_trust(nearest_mean(x, y, 8), y, 8, True, unknown=0.05)
    trust = learn_trust(nearest_mean(x, y, 8), y, 8, True, unknown=None)
    assert (trust.temperature, trust.left_out, trust.limit) == (1.0, 0, None)
    assert trust.knownness(x).shape == (8,)
    assert not trust.is_unknown(trust.knownness(x)).any()


def test_few_images_are_named(caplog):
    x, y = centred_classes(2, 0, ways=4)
    trust = learn_trust(nearest_mean(x, y, 4), y, 4, False, unknown=0.05)
    assert trust.limit > 0
    assert "rests on 8 support images: with fewer than 20 the rate is rough" in caplog.text
