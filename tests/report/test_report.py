"""Runs on disk in, tables and figures out."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from scipy import stats

from fewshot.errors import UserError
from fewshot.figures.image_grid import image_rows, task_sheet
from fewshot.figures.learning_curves import learning_curves
from fewshot.report import collect, compare, csv_text, markdown, terminal, write
from fewshot.report.charts import accuracies

LOW, HIGH = (0.2, 0.4, 0.6), (0.4, 0.4, 0.8)


def make_run(folder: Path, accuracy=LOW, first_fingerprint=0, **fields) -> Path:
    """Write the files of a run; ``fields`` replace entries of its result.json."""
    folder.mkdir(parents=True)
    result = {
        "method": "maml",
        "data": "glyphs",
        "task": {"name": "5w1s", "ways": 5, "shots": 1, "queries": 15},
        "seed": 0,
        "bn": "support",
        "overrides": [],
        "test": {"accuracy": float(np.mean(accuracy)), "ci95": 0.1, "episodes": len(accuracy)},
        "val": None,
        "train": {"steps": 10, "episodes": 320, "seconds": 90.4, "episodes_per_second": 3.54},
        "parameters": 112_000,
        "peak_memory_mb": 812.4,
        "device": "cpu",
    } | fields
    (folder / "result.json").write_text(json.dumps(result))
    rows = [f"{episode},{value},{first_fingerprint + episode:016x}" for episode, value in enumerate(accuracy)]
    (folder / "episodes.csv").write_text("\n".join(["episode,accuracy,fingerprint", *rows, ""]))
    return folder


def make_failure(folder: Path, error: str, overrides: str = "") -> Path:
    (folder / ".hydra").mkdir(parents=True)
    (folder / "error.txt").write_text(error)
    if overrides:
        (folder / ".hydra" / "overrides.yaml").write_text(overrides)
    return folder


def table_of(*paths: Path):
    return compare(*collect(paths))


def printed(table, width: int = 80) -> str:
    console = Console(width=width, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(terminal(table))
    return capture.get()


# collect


def test_runs_come_in_natural_order_and_once(tmp_path):
    for number in (10, 2, 1):
        make_run(tmp_path / "sweep" / str(number), seed=number)
    assert [run.seed for run in collect([tmp_path])[0]] == [1, 2, 10]
    runs, failures = collect([tmp_path / "sweep" / "2", tmp_path])
    assert [run.seed for run in runs] == [2, 1, 10]
    assert failures == []


def test_a_run_is_read_as_written(tmp_path):
    folder = make_run(tmp_path / "0", HIGH, 7, name="anil", method="maml", seed=3, overrides=["method=anil"])
    run = collect([folder])[0][0]
    assert (run.label, run.method, run.data, run.task, run.ways) == ("anil", "maml", "glyphs", "5w1s", 5)
    assert (run.seed, run.bn, run.overrides) == (3, "support", ("method=anil",))
    assert (run.seconds, run.episodes_per_second, run.peak_memory_mb) == (90.4, 3.54, 812.4)
    assert run.accuracy.tolist() == list(HIGH)
    assert run.fingerprints == ("0000000000000007", "0000000000000008", "0000000000000009")


def test_episodes_are_put_in_order(tmp_path):
    folder = make_run(tmp_path / "0")
    (folder / "episodes.csv").write_text("fingerprint,episode,accuracy\n12e4,2,0.6\nab,0,0.2\ncd,1,0.4\n")
    run = collect([folder])[0][0]
    assert run.accuracy.tolist() == list(LOW)
    assert run.fingerprints == ("ab", "cd", "12e4")


def test_a_result_outweighs_an_old_error(tmp_path):
    (make_run(tmp_path / "0") / "error.txt").write_text("interrupted")
    runs, failures = collect([tmp_path])
    assert len(runs) == 1
    assert failures == []


def test_missing_paths_and_empty_folders_are_user_errors(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: does not exist"):
        collect([tmp_path / "nowhere"])
    with pytest.raises(UserError, match=r"no result\.json"):
        collect([tmp_path])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file: not a folder"):
        collect([tmp_path / "file"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("result.json", "{", r"result\.json: not JSON \(line 1"),
        ("result.json", "[1]", r"result\.json: not the result of a run"),
        ("result.json", '{"method": "maml", "data": "glyphs"}', r"result\.json: the entry 'task' is missing"),
        ("result.json", b"\xff", r"result\.json: not UTF-8"),
        ("episodes.csv", "", r"episodes\.csv: no test episodes"),
        ("episodes.csv", "episode,accuracy\n0,0.5\n", r"episodes\.csv: the column 'fingerprint' is missing"),
        ("episodes.csv", "episode,accuracy,fingerprint\n0,much,ab\n", r"episodes\.csv: line 2 is not an episode"),
        ("episodes.csv", "episode,accuracy,fingerprint\n0,0.5\n", r"episodes\.csv: line 2 is not an episode"),
        ("episodes.csv", "episode,accuracy,fingerprint\n0,50,ab\n", r"episodes\.csv: line 2 needs an accuracy"),
        ("episodes.csv", "episode,accuracy,fingerprint\n0,nan,ab\n", r"episodes\.csv: line 2 needs an accuracy"),
        ("episodes.csv", "episode,accuracy,fingerprint\n0,1,ab\n0,1,ab\n", r"line 3 repeats episode 0"),
        ("episodes.csv", None, r"episodes\.csv: cannot be read \(No such file"),
    ],
)
def test_malformed_files_are_named(tmp_path, name, content, message):
    file = make_run(tmp_path / "0") / name
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        collect([tmp_path])
    assert "\n" not in str(caught.value)


# compare


def test_a_table_by_hand(tmp_path):
    make_run(tmp_path / "0", LOW)
    make_run(tmp_path / "1", HIGH, method="protonet")
    first, second = table_of(tmp_path).rows
    # Accuracy: 0.4 with standard deviation 0.2. Differences 0.2, 0, 0.2: standard error 1/15, so t = 2,
    # whose two-sided p with 2 degrees of freedom is 1 - 2 / sqrt(6). t(2 degrees, 97.5%) = 4.302653.
    assert (first.label, first.accuracy, first.paired) == ("maml", pytest.approx(0.4), None)
    assert first.half_width == pytest.approx(4.302653 * 0.2 / np.sqrt(3), rel=1e-6)
    assert first.is_reference
    assert (second.label, second.reference) == ("protonet", "maml")
    assert second.paired.difference == pytest.approx(0.4 / 3)
    assert second.paired.half_width == pytest.approx(4.302653 / 15, rel=1e-6)
    assert second.paired.p_value == pytest.approx(1 - 2 / np.sqrt(6))
    assert not second.is_reference
    assert (first.note, second.note) == ("", "")


def test_seeds_of_a_setting_are_one_row_by_hand(tmp_path):
    for seed, (low, high) in enumerate([((0.2, 0.4), (0.5, 0.6)), ((0.4, 0.4), (0.4, 0.7)), ((0.3, 0.1), (0.6, 0.8))]):
        make_run(tmp_path / f"{seed}a", low, seed=seed, overrides=[f"seed={seed}"])
        make_run(tmp_path / f"{seed}b", high, seed=seed, overrides=[f"seed={seed}"], method="protonet")
    first, second = table_of(tmp_path).rows
    assert (first.label, second.label, len(second.runs)) == ("maml", "protonet", 3)
    # Episodes averaged over seeds: 0.3, 0.3 and 0.5, 0.7; seeds: 0.3, 0.4, 0.2 and 0.55, 0.55, 0.7.
    assert (first.accuracy, first.half_width, first.seed_sd) == pytest.approx((0.3, 0, 0.1), abs=1e-12)
    assert second.seed_sd == pytest.approx(np.std([0.55, 0.55, 0.7], ddof=1))
    # Differences over episodes 0.2, 0.4 (t with 1 degree: 12.706), over seeds 0.25, 0.15, 0.5 (2 degrees: 4.3027).
    assert (second.paired.difference, second.paired.half_width) == pytest.approx((0.3, 12.7062 * 0.1), rel=1e-5)
    assert second.by_seed.difference == pytest.approx(0.3)
    assert second.by_seed.half_width == pytest.approx(4.302653 * np.std([0.25, 0.15, 0.5], ddof=1) / np.sqrt(3))
    assert second.verdict == "open"
    header, line = (printed_line.split(" | ") for printed_line in markdown(table_of(tmp_path)).splitlines()[:4:3])
    assert (header[2], line[2]) == ("seeds", "3, sd 8.66")


def test_only_shared_seeds_are_paired(tmp_path):
    """A further seed of the reference alone shifts its accuracy, and no difference."""
    for seed, low in enumerate([LOW, LOW, [a - 0.2 for a in LOW]]):
        make_run(tmp_path / f"{seed}a", low, seed=seed)
    for seed, more in enumerate((0.1, 0.2)):
        make_run(tmp_path / f"{seed}b", [a + more for a in LOW], seed=seed, method="protonet")
    row = table_of(tmp_path).rows[1]
    assert row.paired.difference == pytest.approx(0.15)
    assert row.by_seed.difference == pytest.approx(0.15)
    make_run(tmp_path / "c", HIGH, seed=7, method="other")  # no seed in common: all are compared
    row = table_of(tmp_path).rows[2]
    assert row.paired.difference == pytest.approx(np.mean(HIGH) - np.mean(LOW) + 0.2 / 3)


def test_a_verdict_needs_both_intervals(tmp_path):
    for seed in range(3):
        make_run(tmp_path / f"{seed}a", LOW, seed=seed)
        make_run(tmp_path / f"{seed}b", [a + 0.1 + 0.01 * seed for a in LOW], seed=seed, method="better")
        make_run(tmp_path / f"{seed}c", [a - 0.1 - 0.01 * seed for a in LOW], seed=seed, method="worse")
        jump = (0.3, -0.1, 0.1)[seed]  # the same on every episode, not on every seed
        make_run(tmp_path / f"{seed}d", [a + jump for a in LOW], seed=seed, method="lucky")
    make_run(tmp_path / "e", HIGH, method="single")
    verdicts = {row.label.split()[0]: row.verdict for row in table_of(tmp_path).rows}
    assert verdicts == {"maml": "", "better": "better", "worse": "worse", "lucky": "open", "single": "one seed"}


def test_repeated_runs_of_one_seed_stay_apart(tmp_path):
    for number, seed in enumerate((0, 1, 1)):
        make_run(tmp_path / str(number), seed=seed)
    assert [len(row.runs) for row in table_of(tmp_path).rows] == [1, 1, 1]


def test_p_values_of_several_comparisons_are_corrected(tmp_path):
    generator = np.random.default_rng(0)
    base = generator.uniform(0.3, 0.6, 50)
    make_run(tmp_path / "0", base)
    for number in (1, 2, 3):
        make_run(tmp_path / str(number), base + generator.normal(0.02, 0.05, 50), method=f"m{number}")
    raw = [stats.ttest_rel(run.accuracy, base).pvalue for run in collect([tmp_path])[0][1:]]
    first, second, third = np.argsort(raw)
    wanted = np.empty(3)
    wanted[first] = min(1, 3 * raw[first])
    wanted[second] = min(1, max(wanted[first], 2 * raw[second]))
    wanted[third] = min(1, max(wanted[second], raw[third]))
    assert [row.paired.p_value for row in table_of(tmp_path).rows[1:]] == pytest.approx(wanted.tolist())


def test_other_test_episodes_are_never_paired(tmp_path):
    make_run(tmp_path / "0", LOW)
    make_run(tmp_path / "1", HIGH, first_fingerprint=50, method="protonet")
    make_run(tmp_path / "2", (*LOW, 0.5), method="reptile")  # the same three and one more
    table = table_of(tmp_path)
    assert [row.paired for row in table.rows] == [None] * 3
    assert [row.is_reference for row in table.rows] == [False] * 3
    assert [row.note for row in table.rows] == ["", "other test episodes", "other test episodes"]
    assert "Difference" not in " ".join(table.footnotes)
    assert "3 to 4 test episodes" in table.footnotes[0]


def test_every_task_and_dataset_has_its_own_reference(tmp_path):
    twenty = {"name": "20w1s", "ways": 20, "shots": 1}
    make_run(tmp_path / "0", LOW)
    make_run(tmp_path / "1", LOW, task=twenty, first_fingerprint=10)
    make_run(tmp_path / "2", LOW, data="omniglot")  # same fingerprints, other data: still apart
    make_run(tmp_path / "3", HIGH, method="protonet")
    make_run(tmp_path / "4", HIGH, method="protonet", task=twenty, first_fingerprint=10)
    rows = {row.label: row for row in table_of(tmp_path).rows}
    assert rows["protonet glyphs 5w1s"].reference == "maml glyphs 5w1s"
    assert rows["protonet glyphs 20w1s"].reference == "maml glyphs 20w1s"
    assert rows["maml omniglot 5w1s"].paired is None
    assert {row.note for row in rows.values()} == {""}
    # Rows of a group stand together.
    assert list(rows) == [
        "maml glyphs 5w1s",
        "protonet glyphs 5w1s",
        "maml glyphs 20w1s",
        "protonet glyphs 20w1s",
        "maml omniglot 5w1s",
    ]


def test_another_batchnorm_protocol_is_paired_and_marked(tmp_path):
    make_run(tmp_path / "0", LOW, bn="support", method="protonet")
    make_run(tmp_path / "1", HIGH, bn="transductive")
    make_run(tmp_path / "2", HIGH, bn="support", method="relation")
    table = table_of(tmp_path)
    assert [row.bn_pair for row in table.rows] == [None, ("transductive", "support"), None]
    lines = markdown(table).splitlines()
    assert "| +13.33 ± 28.68† |" in lines[3]
    assert "†" not in lines[2] + lines[4]
    assert lines[-1].startswith("† ")
    assert "BatchNorm" in lines[-1]
    assert lines[-1].endswith("transductive against support.")
    assert [record["bn_differs"] for record in csv.DictReader(csv_text(table).splitlines())] == ["", "True", "False"]


def test_a_network_without_batch_norm_differs_in_no_protocol(tmp_path):
    make_run(tmp_path / "0", LOW, bn="running", method="protonet")
    make_run(tmp_path / "1", HIGH, bn="none", method="nearest")
    table = table_of(tmp_path)
    assert [row.bn_pair for row in table.rows] == [None, None]
    assert "†" not in markdown(table)


def test_same_protocol_has_no_mark(tmp_path):
    make_run(tmp_path / "0", LOW)
    make_run(tmp_path / "1", HIGH, method="protonet")
    assert "†" not in markdown(table_of(tmp_path)) + printed(table_of(tmp_path))


def test_devices_are_told_when_they_differ(tmp_path):
    make_run(tmp_path / "0", device="cpu")
    assert "devices" not in markdown(table_of(tmp_path))
    make_run(tmp_path / "1", device="cuda", method="protonet")
    assert "between devices; these runs used cpu, cuda." in markdown(table_of(tmp_path))


def test_a_result_that_contradicts_its_episodes_is_noted(tmp_path):
    make_run(tmp_path / "0", LOW, test={"accuracy": 0.9})
    row = table_of(tmp_path).rows[0]
    assert row.accuracy == pytest.approx(0.4)
    assert row.note == "result.json states an accuracy of 0.9000"


# labels


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({}, {"method": "protonet"}, ["maml", "protonet"]),
        ({}, {"seed": 1}, ["maml"]),
        ({}, {"seed": 1, "method": "protonet"}, ["maml seed=0", "protonet seed=1"]),
        ({}, {"bn": "running"}, ["maml bn=support", "maml bn=running"]),
        ({"name": "anil"}, {}, ["anil", "maml"]),
        # A default and the same value typed out are one value.
        (
            {"overrides": ["method=maml"]},
            {"overrides": ["bn=running", "data=glyphs"], "bn": "running"},
            ["maml bn=support", "maml bn=running"],
        ),
        ({"overrides": ["method.inner_lr=0.1"]}, {}, ["maml inner_lr=0.1", "maml"]),
        (
            {"overrides": ["+a.lr=1", "b.lr=1"]},
            {"overrides": ["a.lr=2", "b.lr=2"]},
            ["maml a.lr=1 b.lr=1", "maml a.lr=2 b.lr=2"],
        ),
        ({"overrides": ["method.lr=1"]}, {"overrides": ["method.lr=1"], "seed": 2}, ["maml"]),
        (
            {"overrides": ["method.lr=1"]},
            {"overrides": ["method.lr=2"], "seed": 2},
            ["maml seed=0 lr=1", "maml seed=2 lr=2"],
        ),
        # Two recipes of one display name.
        ({"overrides": ["method=a"]}, {"overrides": ["method=b"]}, ["maml method=a", "maml method=b"]),
        ({}, {}, ["maml (0)", "maml (1)"]),
    ],
)
def test_labels_show_only_what_varies(tmp_path, first, second, expected):
    make_run(tmp_path / "0", **first)
    make_run(tmp_path / "1", **second)
    assert [row.label for row in table_of(tmp_path).rows] == expected


def test_equal_runs_in_folders_of_one_name_are_told_apart(tmp_path):
    paths = [make_run(tmp_path / hour / "0") for hour in ("a", "b")]
    assert [row.label for row in table_of(tmp_path).rows] == [f"maml ({path})" for path in paths]


# failures


def test_failures_are_rows_with_their_error(tmp_path):
    make_run(tmp_path / "0", overrides=["method=maml", "seed=0"])
    make_failure(tmp_path / "1", "RuntimeError: a | b <c>\nmore\n", "- method=reptile\n- seed=1\n")
    make_failure(tmp_path / "2", "\n")
    table = table_of(tmp_path)
    assert [row.label for row in table.rows] == ["maml seed=0", "reptile seed=1", "2"]
    assert [row.note for row in table.rows[1:]] == ["RuntimeError: a | b <c>", "stopped without a message"]
    # The bar and the tag must not break the Markdown table.
    assert markdown(table).splitlines()[3] == (
        "| reptile seed=1 | failed |  |  |  |  |  |  | RuntimeError: a \\| b &lt;c> |"
    )
    records = list(csv.DictReader(csv_text(table).splitlines()))
    assert (records[1]["accuracy"], records[1]["note"]) == ("", "RuntimeError: a | b <c>")
    assert "reptile seed=1: RuntimeError: a | b <c>" in printed(table)


def test_a_sweep_that_only_failed_is_still_a_table(tmp_path):
    make_failure(tmp_path / "0", "out of memory", "- method=maml\n")
    assert "| maml | failed |" in markdown(table_of(tmp_path))


def test_broken_overrides_are_named(tmp_path):
    make_failure(tmp_path / "0", "error", "method: {")
    with pytest.raises(UserError, match=r"overrides\.yaml: not YAML"):
        collect([tmp_path])


# render


def test_markdown_by_letter(tmp_path):
    make_run(tmp_path / "0", LOW)
    make_run(
        tmp_path / "1",
        HIGH,
        method="protonet",
        train={"seconds": 600, "episodes_per_second": 250.6},
        peak_memory_mb=None,
    )
    assert markdown(table_of(tmp_path)).splitlines()[:4] == [
        "| run | accuracy | difference | p | time | ep/s | MB | params | notes |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
        "| maml | 40.00 ± 49.68 | reference |  | 90 s | 3.54 | 812 | 112k |  |",
        "| protonet | 53.33 ± 57.37 | +13.33 ± 28.68 | 0.184 | 10 min | 251 |  | 112k |  |",
    ]


def test_csv_is_in_machine_units(tmp_path):
    make_run(tmp_path / "0", LOW)
    make_run(tmp_path / "1", HIGH, method="proto,net")
    first, second = csv.DictReader(csv_text(table_of(tmp_path)).splitlines())
    assert (first["accuracy"], first["accuracy_ci95"], first["difference"]) == ("0.4", "0.496828", "")
    assert second == {
        "label": "proto,net",
        "method": "proto,net",
        "data": "glyphs",
        "task": "5w1s",
        "seeds": "0",
        "bn": "support",
        "episodes": "3",
        "accuracy": "0.533333",
        "accuracy_ci95": "0.573687",
        "seed_sd": "",
        "published": "",
        "published_ci95": "",
        "published_source": "",
        "published_provenance": "",
        "reference": "maml",
        "difference": "0.133333",
        "difference_ci95": "0.286844",
        "p_value": "0.183503",
        "by_seed_difference": "",
        "by_seed_ci95": "",
        "verdict": "one seed",
        "bn_differs": "False",
        "ece": "",
        "seconds": "90.4",
        "episodes_per_second": "3.54",
        "peak_memory_mb": "812.4",
        "parameters": "112000",
        "adapted_parameters": "",
        "note": "",
        "path": str(tmp_path / "1"),
    }


def test_what_adapts_is_counted_where_runs_differ_in_it(tmp_path):
    make_run(tmp_path / "all", overrides=["method.adapt=all"], adapted_parameters=112_000)
    make_run(tmp_path / "nearest", method="nearest", adapted_parameters=0)
    assert "adapted" not in markdown(table_of(tmp_path)).splitlines()[0]
    make_run(tmp_path / "head", HIGH, overrides=["method.adapt=head"], adapted_parameters=325)
    header, _, *rows = markdown(table_of(tmp_path)).splitlines()
    column = [cell.strip() for cell in header.split("|")].index("adapted")
    counts = {row.split("|")[1].strip(): row.split("|")[column].strip() for row in rows[:3]}
    assert sorted(counts.values()) == ["0", "112k", "325"]


def test_terminal_keeps_numbers_whole_at_80_columns(tmp_path):
    generator = np.random.default_rng(0)
    for number, method in enumerate(("metagan_protonet", "maml")):
        make_run(
            tmp_path / str(number),
            np.clip(generator.normal(0.9, 0.1, 400), 0, 1),
            method=method,
            bn=method,
            overrides=[f"method.norms=[{'ab'[number]},c]"],
        )
    table = table_of(tmp_path)
    text = printed(table)
    assert max(map(len, text.splitlines())) <= 80
    cells = markdown(table).splitlines()[3].split(" | ")[1:7]
    assert "†" in cells[1]
    assert all(cell in text for cell in cells)
    assert "norms=[a,c]" in text  # not taken for rich markup


def test_a_table_of_seeds_fits_into_80_columns(tmp_path):
    generator = np.random.default_rng(0)
    for number, method in enumerate(("metagan_protonet", "metagan_protonet", "maml", "maml")):
        accuracy = np.clip(generator.normal(0.9, 0.1, 400), 0, 1)
        make_run(tmp_path / str(number), accuracy, method=method, seed=number % 2)
    table = table_of(tmp_path)
    text = printed(table)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    row = table.rows[1]
    assert f"2, sd {100 * row.seed_sd:.2f}" in text
    assert f"{100 * row.by_seed.difference:+.2f} ± {100 * row.by_seed.half_width:.2f}" in text


def test_one_episode_has_no_interval(tmp_path):
    make_run(tmp_path / "0", [0.5])
    make_run(tmp_path / "1", [0.75], method="protonet")
    lines = markdown(table_of(tmp_path)).splitlines()
    assert lines[2].startswith("| maml | 50.00 | reference |  |")
    assert lines[3].startswith("| protonet | 75.00 | +25.00 |  |")


def test_write_replaces_and_leaves_nothing_else(tmp_path):
    run = make_run(tmp_path / "runs" / "0")
    for _ in range(2):
        write(table_of(run), tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert sorted(file.name for file in folder.iterdir()) == ["report.csv", "report.md", "report.tex"]
    assert (folder / "report.md").read_text(encoding="utf-8") == markdown(table_of(run))
    assert (folder / "report.csv").read_text(encoding="utf-8") == csv_text(table_of(run))


def test_an_output_that_cannot_be_written_is_a_user_error(tmp_path):
    run = make_run(tmp_path / "runs" / "0")
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match=r"report\.md: cannot be written"):
        write(table_of(run), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"
    (tmp_path / "report.md").mkdir()
    with pytest.raises(UserError, match=r"report\.md: cannot be written"):
        write(table_of(run), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "report.md", "runs"]


# command line


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fewshot.report", *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "COLUMNS": "100", "PYTHONUTF8": "1"},
        check=False,
    )


def test_command_prints_and_writes_only_when_told(tmp_path):
    runs, output = tmp_path / "runs", tmp_path / "output"
    make_run(runs / "0", LOW)
    make_run(runs / "1", HIGH, method="protonet")
    before = sorted(runs.rglob("*"))
    plain = command(runs)
    assert plain.returncode == 0, plain.stderr
    assert "+13.33 ± 28.68" in plain.stdout
    assert sorted(runs.rglob("*")) == before
    for _ in range(2):
        again = command(runs / "0", runs / "1", "--output", output)
        assert (again.returncode, again.stdout) == (0, plain.stdout)
    assert sorted(file.name for file in output.iterdir()) == [
        "accuracies.png",
        "figures",
        "report.csv",
        "report.html",
        "report.md",
        "report.tex",
    ]
    # Runs without metrics.csv and calibration.csv have no curves and no calibration.
    assert [file.name for file in (output / "figures").iterdir()] == ["episodes.png"]


def test_command_names_a_mistake_in_one_line(tmp_path):
    result = command(tmp_path / "nowhere")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == f"error: {tmp_path / 'nowhere'}: does not exist\n"


def test_report_needs_neither_torch_nor_hydra():
    unwanted = {"torch", "hydra", "omegaconf", "matplotlib.pyplot"}
    code = f"import sys, fewshot.report.__main__; print({unwanted} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert result.stdout.strip() == "set()"


# figures


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def count(image: np.ndarray, colour: str) -> int:
    """How many pixels have exactly this colour, such as ``#1a9641``."""
    return int((image == [int(colour[place : place + 2], 16) for place in (1, 3, 5)]).all(-1).sum())


GREEN, RED, BLUE, ORANGE, BAR = "#1a9641", "#d7191c", "#2166ac", "#d95f02", "#92c5de"


def write_metrics(file: Path, points: int, columns: tuple[str, ...] = ("train/accuracy", "val/accuracy")) -> Path:
    """Rows as Lightning logs them: training every step, validation in rows of its own without episodes."""
    generator = np.random.default_rng(0)
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["step", "episodes", "train/loss", *columns])
        writer.writeheader()
        for step in range(points):
            train = {name: generator.uniform(0.4, 0.6) for name in columns if name.startswith("train")}
            writer.writerow({"step": step, "episodes": 32 * step + 32, "train/loss": 1 / (1 + step)} | train)
            if "val/accuracy" in columns and step % 3 == 2:
                writer.writerow({"step": step, "val/accuracy": 0.5})
    return file


@pytest.mark.parametrize("points", [1, 3, 500])
def test_learning_curves_draw_every_curve(tmp_path, points):
    target = tmp_path / "figures" / "curves.png"
    learning_curves(write_metrics(tmp_path / "metrics.csv", points), target)
    image = pixels(target)
    assert image.shape[0] > 500
    assert image.shape[1] > 700
    top, bottom = np.array_split(image, 2)
    assert count(top, BLUE) > 20
    assert count(bottom, BLUE) > 20
    assert (count(bottom, ORANGE) > 20) == (points >= 3)
    assert count(top, ORANGE) == 0


def test_rows_without_episodes_are_placed_by_their_step(tmp_path):
    images = []
    for name, episodes in (("absent", ""), ("right", "1000"), ("other", "1500")):
        rows = [
            "step,episodes,train/accuracy,val/accuracy",
            "0,0,0.2,",
            "5,1000,0.4,",
            f"5,{episodes},,0.9",
            "6,2000,0.6,",
        ]
        (tmp_path / f"{name}.csv").write_text("\n".join(rows))
        learning_curves(tmp_path / f"{name}.csv", tmp_path / f"{name}.png")
        images.append(pixels(tmp_path / f"{name}.png"))
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_smoothing_leaves_a_constant_alone_up_to_both_ends(tmp_path):
    rows = ["step,train/loss", *(f"{step},{1.0}" for step in range(300))]
    (tmp_path / "metrics.csv").write_text("\n".join(rows))
    learning_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    blue = (pixels(tmp_path / "curves.png") == [0x21, 0x66, 0xAC]).all(-1).any(1)
    assert 2 <= blue.sum() <= 10  # the line's thickness, and that of its sample in the legend


def test_other_loss_terms_are_drawn(tmp_path):
    write_metrics(tmp_path / "plain.csv", 100, ())
    write_metrics(tmp_path / "gan.csv", 100, ("train/fake_loss",))
    images = []
    for name in ("plain", "gan"):
        learning_curves(tmp_path / f"{name}.csv", tmp_path / f"{name}.png")
        images.append(pixels(tmp_path / f"{name}.png"))
    assert [count(image, "#1b9e77") > 100 for image in images] == [False, True]


def test_metrics_without_curves_are_a_user_error(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,lr\n0,0.1\n")
    with pytest.raises(UserError, match=r"metrics\.csv: no train/loss"):
        learning_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    with pytest.raises(UserError, match=r"absent\.csv: cannot be read"):
        learning_curves(tmp_path / "absent.csv", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def episodes(ways: int, shots: int, queries: int, count: int = 2, tail: tuple[int, ...] = ()):
    support_y = np.stack(
        [np.random.default_rng(t).permutation(np.repeat(np.arange(ways), shots)) for t in range(count)]
    )
    query_y = np.stack(
        [np.random.default_rng(t).permutation(np.repeat(np.arange(ways), queries)) for t in range(count)]
    )
    blank = np.zeros((28, 28, *tail))
    return (
        np.stack([[blank] * support_y.shape[1]] * count),
        support_y,
        np.stack([[blank] * query_y.shape[1]] * count),
        query_y,
    )


def surely(labels, ways: int = 5) -> np.ndarray:
    """Probabilities ``(T, M, N)`` of predictions ``(T, M)`` that have no doubt."""
    return np.eye(ways)[labels]


def test_task_sheet_tells_right_from_wrong(tmp_path):
    support, support_y, query, query_y = episodes(5, 1, 2)
    task_sheet(support, support_y, query, query_y, surely(query_y), tmp_path / "right.png")
    task_sheet(support, support_y, query, query_y, surely((query_y + 1) % 5), tmp_path / "wrong.png")
    right, wrong = pixels(tmp_path / "right.png"), pixels(tmp_path / "wrong.png")
    assert count(right, GREEN) > 1000
    assert count(right, RED) == 0
    assert count(wrong, RED) > 1000
    assert count(wrong, GREEN) == 0


@pytest.mark.parametrize(("ways", "shots", "queries"), [(2, 1, 1), (20, 7, 6)])
def test_task_sheet_grows_with_the_task_up_to_its_caps(tmp_path, ways, shots, queries):
    arrays = episodes(ways, shots, queries, count=1)
    task_sheet(*arrays, surely(arrays[3], ways), tmp_path / "sheet.png")
    height, width, _ = pixels(tmp_path / "sheet.png").shape
    rows = min(shots, 5) + 1.28 * min(queries, 4)  # a query has its prediction below
    assert width == pytest.approx(75 * ways + 50, abs=40)  # 75 pixels a cell
    assert height == pytest.approx(75 * (rows + 0.5) + 70, abs=40)


def test_task_sheet_writes_each_prediction_with_its_probability_and_each_episode_with_its_number(tmp_path, monkeypatch):
    texts: list[str] = []
    keep = Axes.text
    monkeypatch.setattr(
        Axes, "text", lambda self, x, y, text, *a, **k: (texts.append(text), keep(self, x, y, text, *a, **k))[1]
    )
    support, support_y, query, _ = episodes(2, 1, 1)
    query_y = np.array([[0, 1], [0, 1]])
    probabilities = np.array([[[0.9, 0.1], [0.755, 0.245]], [[0.5, 0.5], [0.0, 1.0]]])
    titles: list[str] = []
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **k: titles.append(text))
    task_sheet(support, support_y, query, query_y, probabilities, tmp_path / "sheet.png", numbers=[3, 5])
    assert [text for text in texts if "%" in text] == ["0  90%", "0  76%", "0  50%", "1  100%"]
    assert titles == ["episode 3: 50%", "episode 5: 100%"]


@pytest.mark.parametrize(("queries", "told"), [(4, ""), (15, "; 4 of 15 queries a class are shown")])
def test_task_sheet_says_how_many_queries_it_leaves_out(tmp_path, monkeypatch, queries, told):
    texts: list[str] = []
    monkeypatch.setattr(Figure, "text", lambda self, x, y, text, **k: texts.append(" ".join(text.split())))
    arrays = episodes(5, 1, queries)
    task_sheet(*arrays, surely(arrays[3]), tmp_path / "sheet.png")
    assert texts == [f"below a query: predicted class and its probability{told}"]


def test_grey_is_drawn_as_dark_ink_and_colour_as_it_is(tmp_path):
    support, support_y, query, query_y = episodes(5, 1, 1)
    task_sheet(support, support_y, query, query_y, surely(query_y), tmp_path / "blank.png")
    task_sheet(np.ones_like(support), support_y, query, query_y, surely(query_y), tmp_path / "ink.png")
    blank, ink = (pixels(tmp_path / name) for name in ("blank.png", "ink.png"))
    assert count(ink, "#000000") - count(blank, "#000000") > 2 * 5 * 50 * 50
    support, support_y, query, query_y = episodes(5, 1, 1, tail=(3,))
    support[..., 0] = 1
    task_sheet(support, support_y, query, query_y, surely(query_y), tmp_path / "red.png")
    assert count(pixels(tmp_path / "red.png"), "#ff0000") > 2 * 5 * 50 * 50


def test_image_rows_draw_each_row_and_task(tmp_path):
    rows = {"real": np.ones((6, 28, 28)), "generated": np.full((4, 28, 28, 1), 0.2)}
    image_rows(rows, tmp_path / "one.png")
    image_rows([rows, rows, rows], tmp_path / "three.png")
    one, three = pixels(tmp_path / "one.png"), pixels(tmp_path / "three.png")
    # 57 x 57 pixels an image, less what its frame covers; 1 - 0.2 is the grey 204.
    assert count(one, "#000000") == pytest.approx(6 * 55 * 55, rel=0.05)
    assert count(one, "#cccccc") == pytest.approx(4 * 57 * 57 + 6 * 57 * 4, rel=0.1)
    assert three.shape[0] > 3 * one.shape[0] * 0.9
    assert count(three, "#000000") == pytest.approx(3 * count(one, "#000000"), rel=0.02)


def test_accuracy_bars_are_as_long_as_the_accuracy(tmp_path):
    make_run(tmp_path / "runs" / "0", [0.4] * 3)
    make_run(tmp_path / "runs" / "1", [0.8] * 3, method="protonet")
    make_failure(tmp_path / "runs" / "2", "out of memory")
    accuracies(table_of(tmp_path / "runs"), tmp_path / "plain.png")
    bar = (pixels(tmp_path / "plain.png") == [int(BAR[place : place + 2], 16) for place in (1, 3, 5)]).all(-1)
    lengths = [length for length in bar.sum(1) if length]
    assert max(lengths) == pytest.approx(2 * min(lengths), rel=0.03)
    accuracies(table_of(tmp_path / "runs"), tmp_path / "chance.png", chance=0.2)
    plain, chance = (count(pixels(tmp_path / f"{name}.png"), "#777777") for name in ("plain", "chance"))
    assert chance > plain + 40  # letters have a few such pixels too


def test_a_figure_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"rows\.png: cannot be written"):
        image_rows({"real": np.zeros((1, 4, 4))}, tmp_path / "file" / "rows.png")


def test_what_d_makes_of_fakes_is_a_third_panel(tmp_path):
    names = ("train/real_accuracy", "train/fake_accuracy", "train/fake_diversity")
    images = []
    for extra in ((), names):
        columns = ("train/accuracy", "val/accuracy", *extra)
        learning_curves(write_metrics(tmp_path / "metrics.csv", 20, columns), tmp_path / "curves.png")
        images.append(pixels(tmp_path / "curves.png"))
    without, image = images
    assert len(image) > 1.3 * len(without)
    bottom = np.array_split(image, 3)[2]
    for colour in ("#1b9e77", "#7570b3", "#e7298a"):
        assert count(bottom, colour) > 20
    assert not count(image[: len(image) // 2], "#7570b3")


def test_a_pretrained_network_may_have_seen_the_test_classes(tmp_path):
    pretrained = make_run(tmp_path / "1", data="cifar_fs", pretrained="resnet50", bn="frozen")
    scratch = make_run(tmp_path / "2", HIGH, data="cifar_fs", method="protonet")
    notes = " ".join(table_of(pretrained, scratch).footnotes)
    assert "resnet50 may have seen the test classes of cifar_fs" in notes
    assert "Pretrained" not in " ".join(table_of(scratch).footnotes)
    drawn = make_run(tmp_path / "3", data="omniglot", pretrained="resnet50", bn="frozen")
    assert "Pretrained" not in " ".join(table_of(drawn).footnotes)
