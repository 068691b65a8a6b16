"""Which class is taken for which, in tasks that hold few of the classes: by hand."""

import csv

import numpy as np
import pytest

from fewshot.figures.confused_pairs import ConfusedPairs

# Three tasks of two ways with two queries a class; classes 0, 1 and 2.
CLASSES = np.array([[0, 1], [1, 0], [2, 1]])
LABELS = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]])
#                    0 1  1 1       1 1  1 1       2 2  2 1
PREDICTED = np.array([[0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]])


@pytest.fixture
def pairs() -> ConfusedPairs:
    return ConfusedPairs.from_tasks(CLASSES, LABELS, PREDICTED)


def test_a_share_is_of_the_queries_in_tasks_that_held_both(pairs):
    """Class 0 met 1 in two tasks, four queries, of which three were called 1; class 1 met 2 once."""
    nan = np.nan
    expected = [[1 / 4, 3 / 4, nan], [0, 5 / 6, 1 / 2], [nan, 0, 1]]
    np.testing.assert_array_equal(pairs.matrix([0, 1, 2]), expected)
    np.testing.assert_array_equal(pairs.matrix([2, 0]), [[1, nan], [nan, 1 / 4]])


def test_the_worst_are_the_pairs_most_often_confused_side_by_side(pairs):
    assert pairs.worst(3) == [0, 1, 2]  # all of them, as they lie
    assert pairs.worst(2) == [0, 1]
    # Four classes in two tasks: 3 is called 0 three times, 1 is called 2 once.
    other = ConfusedPairs.from_tasks(
        np.array([[0, 3], [1, 2]]),
        np.array([[0, 0, 0, 1, 1, 1]] * 2),
        np.array([[0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]]),
    )
    assert other.worst(3) == [3, 0, 1]


def test_without_a_confusion_those_least_often_right_fill_up():
    sure = ConfusedPairs.from_tasks(np.array([[4, 5], [6, 7]]), np.array([[0, 1]] * 2), np.array([[0, 1]] * 2))
    assert sure.worst(3) == [4, 5, 6]


def test_the_csv_has_each_class_and_each_confusion(pairs, tmp_path):
    pairs.write(("a", "b/1", "c, 90°"), tmp_path / "confusion.csv")
    with (tmp_path / "confusion.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    assert rows == [
        ["true", "predicted", "queries", "called", "share"],
        ["a", "a", "4", "1", "0.25"],
        ["a", "b/1", "4", "3", "0.75"],
        ["b/1", "b/1", "6", "5", "0.833333"],
        ["b/1", "c, 90°", "2", "1", "0.5"],
        ["c, 90°", "c, 90°", "2", "2", "1"],
    ]
