"""Unknown classes in the report: read, compared and shown where runs have them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from fewshot.errors import UserError
from fewshot.report import collect, compare, csv_text, markdown, terminal
from fewshot.report.build import report
from fewshot.report.formats import latex
from fewshot.report.read_runs import Run
from fewshot.report.table import Table

AREAS = {"low": (0.7, 0.8, 0.6, 0.75), "high": (0.9, 0.85, 0.8, 0.95)}
ALARMS = {"low": (0.5, 0.4, 0.6, 0.7), "high": (0.1, 0.2, 0.4, 0.2)}


def make_run(folder: Path, level: str | None = None, unknown: int = 5, knownness: str = "logit", **fields) -> Path:
    """Write the files of a run with four test episodes, with unknown classes where ``level`` says how well."""
    folder.mkdir(parents=True)
    accuracy = (0.5, 0.6, 0.7, 0.8)
    test: dict[str, object] = {"accuracy": float(np.mean(accuracy))}
    columns = {"episode": range(4), "accuracy": accuracy, "fingerprint": [f"f{n}" for n in range(4)]}
    task = {"name": "5w1s", "ways": 5, "shots": 1}
    if level:
        test["open_set"] = {"knownness": knownness, "auroc": float(np.mean(AREAS[level]))}
        columns |= {"auroc": AREAS[level], "fpr95": ALARMS[level]}
        task |= {"unknown": unknown}
    result = {"method": "maml", "data": "glyphs", "task": task, "seed": 0, "bn": "none", "test": test}
    (folder / "result.json").write_text(json.dumps(result | fields))
    with (folder / "episodes.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return folder


def table_of(*paths: Path) -> Table:
    return compare(*collect(paths))


def read(folder: Path) -> Run:
    return collect([folder])[0][0]


def printed(table: Table) -> str:
    console = Console(width=80, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(terminal(table))
    return capture.get()


def test_scores_are_read_by_name(tmp_path):
    run = read(make_run(tmp_path / "0", "low"))
    assert run.open_set["auroc"].tolist() == list(AREAS["low"])
    assert run.open_set["fpr95"].tolist() == list(ALARMS["low"])
    assert (run.unknown, run.knownness, run.unknown_images) == (5, "logit", (5, 0))
    assert run.accuracy.tolist() == [0.5, 0.6, 0.7, 0.8]


def test_a_run_without_unknown_classes_has_none(tmp_path):
    run = read(make_run(tmp_path / "0"))
    assert (run.open_set, run.unknown, run.knownness, run.unknown_images) == ({}, 0, None, None)


def test_an_episode_without_a_number_has_no_area(tmp_path):
    folder = make_run(tmp_path / "0", "low")
    file = folder / "episodes.csv"
    file.write_text(file.read_text().replace("0.6,0.6", "nan,nan"))
    assert np.isnan(read(folder).open_set["auroc"][2])
    make_run(tmp_path / "1", "high", method="protonet")
    table = table_of(tmp_path)
    assert np.isnan(table.rows[0].open_set["auroc"].mean)
    assert "nan" in markdown(table)
    assert "AUROC" in printed(table)
    report([tmp_path], tmp_path / "report")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("auroc", "area", "the column 'auroc' is missing"),
        ("0.7,0.5", "1.7,0.5", "line 2 needs auroc and fpr95 in \\[0, 1\\], or nan"),
        ("0.7,0.5", "0.7,-1", "line 2 needs auroc and fpr95"),
        ("0.7,0.5", "0.7,inf", "line 2 needs auroc and fpr95"),
        ("0.7,0.5", "0.7", "line 2 is not an episode"),
        ("0.7,0.5", "0.7,much", "line 2 is not an episode"),
        ("0.5,f0", "nan,f0", "line 2 needs an accuracy in"),
    ],
)
def test_damaged_columns_are_named(tmp_path, before, after, message):
    file = make_run(tmp_path / "0", "low") / "episodes.csv"
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, after))
    with pytest.raises(UserError, match=message):
        collect([tmp_path])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"knownness": "logit", "auroc": 1.5}, r"test.open_set.auroc is 1.5, not a fraction"),
        ({"knownness": "logit", "auroc": "much"}, r"test.open_set.auroc is 'much', not a number"),
        ({"auroc": 0.5}, r"the entry 'test.open_set.knownness' is missing"),
        ([0.5], r"test.open_set is list, not a group of entries"),
    ],
)
def test_damaged_entries_are_named(tmp_path, entry, message):
    make_run(tmp_path / "0", "low", test={"accuracy": 0.65, "open_set": entry})
    with pytest.raises(UserError, match=message):
        collect([tmp_path])


def test_rows_are_compared_episode_by_episode(tmp_path):
    make_run(tmp_path / "0", "low")
    make_run(tmp_path / "1", "high", method="protonet")
    first, second = table_of(tmp_path).rows
    assert first.open_set["auroc"].paired is None
    for name, values in (("auroc", AREAS), ("fpr95", ALARMS)):
        measure = second.open_set[name]
        assert measure.mean == pytest.approx(np.mean(values["high"]))
        assert measure.half_width == pytest.approx(3.182446 * stats.sem(values["high"]), rel=1e-5)  # t of 3
        truth = stats.ttest_rel(values["high"], values["low"])
        assert measure.paired.difference == pytest.approx(np.mean(values["high"]) - np.mean(values["low"]))
        assert measure.paired.p_value == pytest.approx(truth.pvalue)
        low, high = truth.confidence_interval(0.95)
        assert measure.paired.half_width == pytest.approx((high - low) / 2)


def test_p_values_of_several_rows_are_corrected(tmp_path):
    for number, level in enumerate(("low", "high", "high")):
        make_run(tmp_path / str(number), level, method=f"m{number}")
    plain = stats.ttest_rel(AREAS["high"], AREAS["low"]).pvalue
    for row in table_of(tmp_path).rows[1:]:
        assert row.open_set["auroc"].paired.p_value == pytest.approx(2 * plain)


def test_seeds_are_averaged_and_those_of_both_rows_compared(tmp_path):
    for seed, level in enumerate(("low", "high")):
        make_run(tmp_path / f"{seed}a", level, seed=seed)
        make_run(tmp_path / f"{seed}b", "high", seed=seed, method="protonet")
    first, second = table_of(tmp_path).rows
    mean = (np.array(AREAS["low"]) + AREAS["high"]) / 2
    assert first.open_set["auroc"].mean == pytest.approx(mean.mean())
    assert second.open_set["auroc"].paired.difference == pytest.approx((AREAS["high"] - mean).mean())


@pytest.mark.parametrize("other", [{"unknown": 2}, {"level": None}], ids=str)
def test_other_unknown_classes_are_never_paired(tmp_path, other):
    make_run(tmp_path / "0", "low")
    make_run(tmp_path / "1", **{"level": "high"} | other, method="protonet")
    for paths in ([tmp_path / "0", tmp_path / "1"], [tmp_path / "1", tmp_path / "0"]):
        rows = table_of(*paths).rows
        assert rows[1].paired is not None  # accuracies are of the same queries
        assert all(measure.paired is None for row in rows for measure in row.open_set.values())


def test_other_distractors_are_other_unknown_classes(tmp_path):
    """Unknown classes come after the distractors."""
    task = {"name": "5w1s", "ways": 5, "shots": 1, "unknown": 5}
    make_run(tmp_path / "0", "low", task=task)
    make_run(tmp_path / "1", "high", task=task | {"distractors": 2}, method="protonet")
    assert table_of(tmp_path).rows[1].open_set["auroc"].paired is None


def test_seeds_with_other_unknown_classes_are_rows_of_their_own(tmp_path):
    """Such runs come from a checkpoint, whose settings nobody typed."""
    make_run(tmp_path / "0", "low", seed=0)
    make_run(tmp_path / "1", seed=1)
    make_run(tmp_path / "2", "low", seed=2, knownness="energy")
    assert [len(row.runs) for row in table_of(tmp_path).rows] == [1, 1, 1]


def test_every_format_has_the_columns_where_runs_have_them(tmp_path):
    make_run(tmp_path / "a" / "0", "low")
    make_run(tmp_path / "a" / "1", "high", method="metagan", knownness="real")
    table = table_of(tmp_path / "a")
    (make_run(tmp_path / "b" / "0"), make_run(tmp_path / "b" / "1", method="protonet"))
    plain = table_of(tmp_path / "b")
    for text in (markdown, latex, printed):
        assert "AUROC" in text(table)
        assert "AUROC" not in text(plain)
    assert "FPR95 diff." in markdown(table)
    assert "87.50 ± 10.27" in markdown(table)
    assert "+16.25 ± " in markdown(table)
    assert "Knownness: logit of maml; real of metagan." in markdown(table)
    assert max(map(len, printed(table).splitlines())) <= 80
    assert "71.25" in printed(table)
    records = list(csv.DictReader(csv_text(table).splitlines()))
    assert [record["auroc"] for record in records] == ["0.7125", "0.875"]
    assert [record["auroc_difference"] for record in records] == ["", "0.1625"]
    assert [record["fpr95_difference"] for record in records] == ["", "-0.325"]
    assert [(record["unknown"], record["knownness"]) for record in records] == [("5", "logit"), ("5", "real")]
    assert "auroc" not in csv_text(plain)


def test_a_row_of_several_seeds_fits_the_terminal(tmp_path):
    for seed in (0, 1, 2):
        make_run(tmp_path / f"{seed}a", "low", seed=seed)
        make_run(tmp_path / f"{seed}b", "high", seed=seed, method="metagan_protonet")
    text = printed(table_of(tmp_path))
    assert max(map(len, text.splitlines())) <= 80
    assert "+16.25" in text
    assert "…" not in text


def test_the_chart_is_drawn_where_runs_have_scores(tmp_path):
    make_run(tmp_path / "a" / "0", "low")
    report([tmp_path / "a"], tmp_path / "report")
    file = tmp_path / "report" / "figures" / "unknown_classes.png"
    assert file.stat().st_size > 5_000
    assert "Unknown classes" in (tmp_path / "report" / "report.html").read_text()
    make_run(tmp_path / "b" / "0")
    report([tmp_path / "b"], tmp_path / "report")
    assert not file.exists()
