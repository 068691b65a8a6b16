"""Intervals and paired tests against scipy and by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from fewshot.statistics import Paired, interval, paired


@pytest.fixture
def accuracies() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    first = generator.uniform(0.2, 1, 50)
    return first, np.clip(first + generator.normal(0.02, 0.1, 50), 0, 1)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_interval_is_scipys(accuracies, confidence):
    values = accuracies[0]
    mean, half_width = interval(values, confidence)
    low, high = stats.t.interval(confidence, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
    assert mean - half_width == pytest.approx(low, rel=1e-12)
    assert mean + half_width == pytest.approx(high, rel=1e-12)


def test_interval_by_hand():
    # mean 0.4, standard deviation 0.2, t(2 degrees, 97.5%) = 4.302653
    assert interval([0.2, 0.4, 0.6]) == pytest.approx((0.4, 4.302653 * 0.2 / math.sqrt(3)), rel=1e-6)


def test_interval_covers_the_true_mean_as_often_as_it_says():
    samples = np.random.default_rng(1).normal(0.5, 0.1, (1500, 6))
    hits = [abs(mean - 0.5) <= half_width for mean, half_width in map(interval, samples)]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.02)  # 3.5 standard errors


def test_interval_without_spread_to_estimate():
    assert interval([0.7]) == pytest.approx((0.7, math.nan), nan_ok=True)
    assert interval([]) == pytest.approx((math.nan, math.nan), nan_ok=True)
    assert interval([0.5, 0.5]) == (0.5, 0.0)
    with pytest.raises(ValueError, match="one-dimensional"):
        interval(np.zeros((2, 2)))


def test_paired_is_scipys(accuracies):
    first, second = accuracies
    result = paired(first, second)
    reference = stats.ttest_rel(first, second)
    low, high = reference.confidence_interval(0.95)
    assert result.difference == pytest.approx(np.mean(first) - np.mean(second), rel=1e-9)
    assert result.difference - result.half_width == pytest.approx(low, rel=1e-9)
    assert result.difference + result.half_width == pytest.approx(high, rel=1e-9)
    assert result.p_value == pytest.approx(reference.pvalue, rel=1e-12)


def test_pairing_is_narrower_than_two_intervals(accuracies):
    first, second = accuracies
    assert paired(first, second).half_width < 0.6 * math.hypot(interval(first)[1], interval(second)[1])


def test_paired_without_spread():
    assert paired([0.5, 0.75], [0.5, 0.75]) == Paired(0.0, 0.0, 1.0)
    assert paired([0.75, 1.0], [0.5, 0.75]) == Paired(0.25, 0.0, 0.0)
    one = paired([0.5], [0.25])
    assert one.difference == 0.25
    assert math.isnan(one.half_width)
    assert math.isnan(one.p_value)


def test_paired_refuses_different_lengths():
    with pytest.raises(ValueError, match="match"):
        paired([0.5, 0.6], [0.5])
