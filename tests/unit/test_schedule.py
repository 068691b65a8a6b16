"""Learning-rate schedules by hand."""

from functools import partial

import pytest

from fewshot.schedule import constant, cosine, halving, warm_cosine


def test_cosine_over_the_budget():
    assert cosine(7, 0.0) == 1.0
    assert cosine(7, 0.5) == pytest.approx(0.5)
    assert cosine(7, 1.0) == pytest.approx(0.0)
    late = partial(cosine, start=0.5)
    assert late(0, 0.4) == 1.0
    assert late(0, 0.75) == pytest.approx(0.5)


def test_warm_cosine_rises_and_falls():
    schedule = partial(warm_cosine, warm=0.2)
    assert [schedule(0, spent) for spent in (0.0, 0.05, 0.2)] == [0.0, 0.25, 1.0]
    assert schedule(0, 0.6) == pytest.approx(0.5)
    assert schedule(0, 1.0) == pytest.approx(0.0)
    assert warm_cosine(0, 0.0, warm=0.0) == 1.0


def test_halving_and_constant():
    assert [halving(step, 0.9, every=100) for step in (0, 99, 100, 250)] == [1.0, 1.0, 0.5, 0.25]
    assert constant(10**6, 1.0) == 1.0
