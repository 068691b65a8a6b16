"""``result.json``: written and read by one schema, older results included."""

import json
from dataclasses import asdict

import pytest

from fewshot.errors import UserError
from fewshot.provenance import git_commit
from fewshot.result import (
    FORMAT,
    MeanScores,
    Result,
    Training,
    Validation,
    read_result,
    validation_accuracy,
    write_result,
)

# The entries of a run at format 0, in their order.
OLDER = {
    "method": "maml",
    "name": "maml",
    "data": "glyphs",
    "split": None,
    "label_fraction": 1.0,
    "task": {"name": "5w1s", "ways": 5, "shots": 1, "queries": 15, "distractors": 0, "train_distinct": None},
    "seed": 3,
    "bn": "support",
    "bn_statistics_estimated": False,
    "test": {"accuracy": 0.5, "ci95": 0.01, "episodes": 1000, "loss": 1.2, "ece": 0.03},
    "val": {"accuracy": 0.55},
    "train": {"steps": 10, "episodes": 320, "seconds": 90.4, "episodes_per_second": 3.54},
    "pretrained": None,
    "parameters": 112_000,
    "adapted_parameters": 100_000,
    "processes": 1,
    "peak_memory_mb": 812.4,
    "device": "cpu (2 threads)",
    "versions": {"fewshot": "0.1.0", "python": "3.11"},
    "git_commit": "c0ffee",
    "checkpoint": "checkpoints/best.ckpt",
    "overrides": ["method=maml", "seed=3"],
    "path": "outputs/a",
}


def changed(path: str, value: object) -> str:
    """``OLDER`` with another value at ``task.ways``, or without it where the value is an ellipsis."""
    entries = json.loads(json.dumps(OLDER))
    *groups, last = path.split(".")
    group = entries
    for name in groups:
        group = group[name]
    if value is ...:
        del group[last]
    else:
        group[last] = value
    return json.dumps(entries)


def test_a_result_is_read_as_written(tmp_path):
    result = Result.from_json(json.dumps(OLDER))
    write_result(tmp_path, result)
    assert read_result(tmp_path) == result
    assert json.loads((tmp_path / "result.json").read_text()) == {"format": FORMAT} | OLDER
    assert list(json.loads((tmp_path / "result.json").read_text())) == ["format", *OLDER]
    assert validation_accuracy(tmp_path) == 0.55


def test_entries_that_older_results_lack_have_defaults():
    needed = {key: OLDER[key] for key in ("method", "data", "seed", "bn")}
    result = Result.from_json(
        json.dumps(needed | {"task": {"ways": 5, "shots": 1}, "test": {"accuracy": 0.5}, "val": None})
    )
    assert (result.task_name, result.ways, result.distractors) == ("5w1s", 5, 0)
    assert (result.val, result.train) == (Validation(), Training())
    assert (result.label_fraction, result.overrides, result.name) == (1.0, (), None)


def test_a_run_that_diverged_keeps_its_result():
    result = Result.from_json(changed("test.loss", float("inf")))
    assert Result.from_json(result.to_json()).test == MeanScores(**asdict(result.test))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("method", ..., "the entry 'method' is missing"),
        ("test.accuracy", ..., r"the entry 'test\.accuracy' is missing"),
        ("task", [], r"task is list, not a group of entries"),
        ("test", 0.5, r"test is 0\.5, not a group of entries"),
        ("seed", "one", r"seed is 'one', not a whole number"),
        ("seed", True, r"seed is True, not a whole number"),
        ("seed", 10**30, r"seed is 1000.*, not a whole number"),
        ("task.ways", ..., r"task\.ways is NoneType"),
        ("task.ways", 0, r"task\.ways is 0, not a whole number from 1 on"),
        ("task.ways", float("inf"), r"task\.ways is inf, not a whole number from 1 on"),
        ("task.ways", 10**400, r"task\.ways is 1000.*, not a whole number from 1 on"),
        ("task.name", {"a": 1}, r"task\.name is dict, not a text"),
        ("test.accuracy", 7, r"test\.accuracy is 7\.0, not a fraction"),
        ("test.accuracy", float("nan"), r"test\.accuracy is nan, not a fraction"),
        ("train.seconds", float("inf"), r"train\.seconds is inf, not a number"),
        ("peak_memory_mb", 10**400, r"peak_memory_mb is 1000.*, not a number"),
        ("overrides", ["a", 1], r"overrides is list, not a list of texts"),
        ("device", ["\x1b[31m"], r"device is list, not a text"),
        ("seed", "\x1b[31m\n" * 1000, r"seed is '\\x1b.*, not a whole number"),
        ("format", FORMAT + 1, rf"has format {FORMAT + 1} of a newer version; this one reads up to {FORMAT}"),
        ("format", "new", r"format is 'new', not a whole number"),
    ],
)
def test_an_entry_that_is_missing_or_wrong_is_named_in_one_line(path, value, message):
    text = changed(path, value)
    with pytest.raises(UserError, match=message) as caught:
        Result.from_json(text, "a/result.json")
    assert str(caught.value).startswith("a/result.json: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("text", ["[" * 100_000, '{"seed": ' + "1" * 10_000 + "}", "{", "[1]", "null", '"a"'])
def test_a_text_that_is_no_result_is_one_line(text):
    with pytest.raises(UserError, match=r"result\.json: not (JSON|the result of a run)") as caught:
        Result.from_json(text)
    assert str(caught.value).isprintable()


def test_a_checkout_that_git_refuses_is_said_in_a_line(tmp_path, caplog):
    assert git_commit(tmp_path) is None
    assert caplog.text == ""
    (tmp_path / ".git").mkdir()
    assert git_commit(tmp_path) is None
    assert f"the commit of {tmp_path} is not recorded: fatal: " in caplog.text
    assert len(caplog.records) == 1
