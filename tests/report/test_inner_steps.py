"""Curves over inner steps, by hand."""

import csv

import numpy as np
import pytest
from PIL import Image

from fewshot.figures.inner_steps import Curve, draw_inner_steps


def test_means_and_intervals_over_tasks(tmp_path):
    """Of two values half a unit apart the t-interval is 12.706 quarters: t(0.975, 1) of their standard error 1/4."""
    curve = Curve.from_tasks([0, 5], np.array([[0.5, 1.0], [0.8, 0.8]]), np.array([[2.0, 2.5], [0.1, 0.3]]))
    curve.write(tmp_path / "inner_steps.csv")
    with (tmp_path / "inner_steps.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["step", "accuracy", "accuracy_ci95", "loss", "loss_ci95"]
    t = 12.7062047364
    expected = [[0, 0.75, t / 4, 2.25, t / 4], [5, 0.8, 0, 0.2, t / 10]]
    assert [[float(cell) for cell in row] for row in rows] == [pytest.approx(row, abs=1e-8) for row in expected]


def test_one_task_has_no_interval_and_still_a_figure(tmp_path):
    curve = Curve.from_tasks([0, 1], np.array([[0.2], [0.6]]), np.array([[1.6], [1.0]]))
    draw_inner_steps(curve, tmp_path / "inner_steps.png", used=1)
    assert Image.open(tmp_path / "inner_steps.png").width > 500
