"""Principal components of features, and panels of tasks of any number of ways."""

import numpy as np
import pytest
from PIL import Image

from fewshot.figures.embedding import Embedded, draw_embedding, principal_components


def test_principal_components_by_hand():
    """Two orthogonal directions of spread: the mean is taken away, and no sign is left to chance."""
    wide, narrow = np.array([2, -1, -1, 0]), np.array([0.1, 0.4, -0.2, -0.3])
    features = 5 + np.stack([narrow, np.zeros(4), wide], axis=1)
    places, explained = principal_components(features)
    np.testing.assert_allclose(places, np.stack([wide, narrow], axis=1), atol=1e-12)
    assert explained == pytest.approx(1)
    np.testing.assert_allclose(principal_components(-features)[0], places, atol=1e-12)


def test_what_two_dimensions_leave_out_is_not_explained():
    assert principal_components(np.diag([1.0, 1, 1, 1]))[1] == pytest.approx(2 / 3)


@pytest.mark.parametrize("features", [np.ones((4, 3)), np.ones((1, 3))])
def test_features_without_spread_lie_at_zero(features):
    places, explained = principal_components(features)
    assert (places == 0).all()
    assert explained == 0


def test_one_feature_lies_on_a_line():
    places, explained = principal_components(np.array([[0.0], [4.0]]))
    np.testing.assert_allclose(np.abs(places[:, 0]), [2, 2])
    assert (places[:, 1] == 0).all()
    assert explained == 1


def test_more_ways_than_colours_and_any_names(tmp_path):
    labels = np.arange(12)
    names = ["$a_b", *(f"class {label}" for label in labels[1:])]
    places = np.random.default_rng(0).normal(size=(12, 2))
    many = Embedded(0, places, labels, places, labels, labels > 3, 0.5, names)
    few = Embedded(1, places[:2], labels[:2], places[:2], labels[:2], labels[:2] < 2, 0.5, ["$a$^", "b"])
    draw_embedding([many], tmp_path / "one.png")
    draw_embedding([many, few, many], tmp_path / "three.png")
    one, three = (Image.open(tmp_path / name) for name in ("one.png", "three.png"))
    assert three.width > 1.7 * one.width
    assert three.height > 1.7 * one.height
