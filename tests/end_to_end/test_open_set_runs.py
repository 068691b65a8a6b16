"""Runs with unknown classes: their files, and what a user can get wrong about them."""

import csv

import numpy as np
import pytest
from test_run import assert_one_line_error, environment, result, rows, run  # noqa: F401

from fewshot.report import collect, compare

CHECK = ("train=false", "task.val_episodes=0")


@pytest.mark.thorough
def test_scores_of_unknown_classes_stand_beside_the_same_accuracies(run, tmp_path):  # noqa: F811
    done = run("task.unknown=2", folder=tmp_path / "a")
    assert done.returncode == 0, done.stdout + done.stderr
    checkpoint = f"checkpoint={tmp_path / 'a' / 'checkpoints' / 'best.ckpt'}"
    for name, typed in (
        ("b", ["task.unknown=0", "figures=false"]),
        ("c", ["task.knownness=probability", "figures=false"]),
    ):
        done = run(checkpoint, *CHECK, *typed, folder=tmp_path / name)
        assert done.returncode == 0, done.stdout + done.stderr
    one, closed, other = (rows(tmp_path / name) for name in "abc")
    for row, same, third in zip(one, closed, other, strict=True):
        assert list(row) == ["episode", "accuracy", "fingerprint", "auroc", "fpr95"]
        assert {key: row[key] for key in same} == same
        assert {key: third[key] for key in same} == same
    open_set = result(tmp_path / "a")["test"]["open_set"]
    assert open_set["knownness"] == "logit"
    assert result(tmp_path / "c")["test"]["open_set"]["knownness"] == "probability"
    assert result(tmp_path / "c")["test"]["open_set"]["auroc"] != open_set["auroc"]
    assert "open_set" not in result(tmp_path / "b")["test"]
    assert open_set["auroc"] == pytest.approx(np.mean([float(row["auroc"]) for row in one]))
    assert open_set["fpr95"] == pytest.approx(np.mean([float(row["fpr95"]) for row in one]))
    assert (tmp_path / "a" / "figures" / "open_set.png").exists()
    with (tmp_path / "a" / "metrics.csv").open() as stream:
        logged = [line for line in csv.DictReader(stream) if line["test/auroc"]]
    assert float(logged[-1]["test/auroc"]) == pytest.approx(open_set["auroc"])

    table = compare(*collect([tmp_path]))
    assert [bool(row.open_set) for row in table.rows] == [True, False, True]
    assert table.rows[1].paired is not None
    assert table.rows[2].open_set["auroc"].paired is not None


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["task.unknown=700"], ["5 ways + 700 unknown classes", "lower task.unknown"]),
        (["task.unknown=-1"], ["task.unknown=-1", "must be a whole number of at least 0"]),
        (["task.unknown=2", "task.knownness=often"], ["task.knownness=often", "choose one of auto, probability"]),
        (["task.unknown=2", "task.knownness=real"], ["task.knownness=real", "only MetaGAN has it"]),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, typed, words):  # noqa: F811
    assert_one_line_error(run(*typed, folder=tmp_path / "out"), *words)
