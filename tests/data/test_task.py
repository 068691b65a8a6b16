"""Check the numbers of a task."""

import pytest

from fewshot.data import Task

NUMBERS = {"queries": 1, "train_ways": 2, "train_shots": 1, "train_queries": 1, "meta_batch": 1}


@pytest.mark.parametrize(("name", "shown"), [("5w1s", "3w2s"), ("mine", "mine"), ("", "")])
def test_a_name_of_ways_and_shots_follows_what_is_typed(name, shown):
    assert Task(ways=3, shots=2, name=name, **NUMBERS).name == shown
