"""The benchmarks: their arithmetic, what they refuse, what they leave, and that they run."""

import csv
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.contender import Contender
from benchmarks.report import Options, save
from benchmarks.rounds import Row, Unequal, alternate, geometric_mean, interval, refuse_unequal

from benchmarks import contender, report
from fewshot.errors import UserError

ROOT = Path(__file__).parents[2]
needs_learn2learn = pytest.mark.skipif(find_spec("learn2learn") is None, reason="learn2learn is optional")


def test_a_ratio_above_one_means_that_ours_is_better():
    times = Row("a", "b", "ms", ours=[1.0, 2.0, 4.0], peer=[3.0, 4.0, 4.0])
    assert (times.ratios, times.ratio) == ([3.0, 2.0, 1.0], 2.0)
    rates = Row("a", "b", "episodes/s", ours=[6.0, 8.0], peer=[3.0, 2.0], more_is_better=True)
    assert rates.ratios == [2.0, 4.0]
    alone = Row("a", "b", "ms", ours=[1.0])
    assert (alone.ratio, alone.bounds) == (None, None)


def test_the_interval_is_students_over_logarithms():
    # By hand: logs 0, ln 2, ln 4 have mean ln 2 and standard deviation ln 2; t(0.975, 2 degrees) = 4.302653.
    half = 4.302653 * np.log(2) / np.sqrt(3)
    assert interval([1.0, 2.0, 4.0]) == pytest.approx((2 * np.exp(-half), 2 * np.exp(half)), rel=1e-6)
    lower, upper = interval([1.5, 1.5, 1.5])
    assert lower == pytest.approx(1.5)
    assert upper == pytest.approx(1.5)


def test_geometric_mean():
    assert geometric_mean([0.5, 8.0]) == pytest.approx(2.0)


def test_unequal_results_are_refused():
    ours = {"gradient": np.array([3.0, 4.0]), "loss": np.array([1.0])}
    refuse_unequal(ours, {"gradient": np.array([3.0, 4.0 + 4e-8]), "loss": np.array([1.0])}, 1e-8, "cell")
    with pytest.raises(Unequal, match=r"cell: gradient is 2\.0e-08 apart"):
        refuse_unequal(ours, {"gradient": np.array([3.0, 4.0 + 1e-7]), "loss": np.array([1.0])}, 1e-8, "cell")
    with pytest.raises(Unequal, match="apart"):
        refuse_unequal(ours, {"gradient": np.array([3.0, np.nan]), "loss": np.array([1.0])}, 1e-8, "cell")
    with pytest.raises(Unequal, match="shape"):
        refuse_unequal(ours, {"gradient": np.array([3.0]), "loss": np.array([1.0])}, 1e-8, "cell")
    with pytest.raises(Unequal, match="one side has"):
        refuse_unequal(ours, {"loss": np.array([1.0])}, 1e-8, "cell")


def table(folder: Path, name: str = "results.csv") -> list[list[str]]:
    return list(csv.reader((folder / name).read_text().splitlines()))


@pytest.fixture
def without_learn2learn(monkeypatch):
    monkeypatch.setattr(report, "version", lambda name: "none")


@pytest.mark.usefixtures("without_learn2learn")
def test_a_benchmark_replaces_its_own_rows_only(tmp_path):
    options = Options(out=tmp_path)
    save([Row("one", "x", "ms", [2.0, 2.0], [4.0, 5.0]), Row("one_memory", "x", "MB", [1.0])],
         ("one", "one_memory"), options)  # fmt: skip
    save([Row("two", "y", "ms", [1.0])], ("two",), options)
    save([Row("one", "z", "ms", [1.0], [3.0])], ("one", "one_memory"), options)
    assert table(tmp_path) == [
        ["benchmark", "case", "ours", "peer", "unit", "ratio"],
        ["two", "y", "1", "", "ms", ""],
        ["one", "z", "1", "3", "ms", "3.000"],
    ]
    assert table(tmp_path, "bounds.csv")[1:] == []
    assert table(tmp_path, "rounds.csv")[1:] == [
        ["two", "y", "ours", "0", "1"], ["one", "z", "ours", "0", "1"], ["one", "z", "peer", "0", "3"],
    ]  # fmt: skip
    # One case alone leaves the others.
    save([Row("one", "new", "ms", [1.0])], ("one", "one_memory"), Options(out=tmp_path, cases="new"))
    assert [row[1] for row in table(tmp_path)[1:]] == ["y", "z", "new"]
    machine = (tmp_path / "machine.txt").read_text()
    assert [line.split(":")[0] for line in machine.splitlines()] == ["two", "one"]
    assert f"torch {torch.__version__}" in machine


def test_a_case_that_does_not_exist_is_one_line(tmp_path):
    with pytest.raises(UserError, match="--cases 3w: meta_step has no such case"):
        save([], ("meta_step",), Options(out=tmp_path, cases="3w"))


class Counter:
    """A contender that notes when it is asked."""

    def __init__(self, file: str, name: str) -> None:
        self.file, self.name = Path(file), name
        self.tensor = None

    def step(self) -> None:
        with self.file.open("a") as file:
            file.write(self.name)

    def allocate(self, megabytes: int) -> None:
        self.tensor = torch.ones(megabytes * 1_000_000, dtype=torch.uint8)
        self.tensor = None

    def complain(self) -> None:
        raise UserError("no such thing")


def test_sides_take_turns_each_in_a_process_of_its_own(tmp_path):
    file = tmp_path / "order"
    ours, peer = (Contender(Counter, str(file), name, ours=name == "o") for name in "op")
    with ours, peer:
        times = alternate(ours, peer, 3, 3)
        assert [len(values) for values in times] == [3, 3]
        assert file.read_text() == "opopop"
        if Path("/proc/self/clear_refs").exists():
            ours.ask("allocate", 100)
            assert 95 < ours.peak_mb() < 200
            assert peer.peak_mb() < 50
        with pytest.raises(UserError, match="no such thing"):
            ours.ask("complain")


def test_rounds_stop_when_they_have_taken_long_enough():
    class Slow:
        def seconds(self) -> float:
            return 1.0

    slow = Slow()
    assert len(alternate(slow, slow, 5, 7, enough_seconds=0, measure=Slow.seconds)[0]) == 5  # type: ignore[arg-type]
    assert len(alternate(slow, slow, 5, 7, enough_seconds=60, measure=Slow.seconds)[0]) == 7  # type: ignore[arg-type]


@needs_learn2learn
def test_both_sides_start_from_the_same_weights():
    from benchmarks.meta_step_contenders import Inner, Ours, Peer

    inner = Inner(ways=5, seed=3)
    ours, peer = Ours(inner, width=8).weights(), Peer(inner, width=8).weights()
    assert ours.keys() == peer.keys()
    assert all(torch.equal(ours[name], peer[name]) for name in ours)


@needs_learn2learn
@pytest.mark.parametrize("turned", ["omniglot", "glyphs"])
def test_episodes_of_both_sides_are_of_one_kind(split, turned):
    from benchmarks.data import TaskSet, sampler
    from benchmarks.episodes import facts

    ours, peer = sampler(split, turned, 5, 2, 3)(torch.arange(4)), TaskSet(split, turned, 5, 2, 3)
    batch = zip(ours.support_x, ours.support_y, ours.query_x, ours.query_y, strict=True)
    tasks = [peer.sample() for _ in range(4)]
    expected = [25, 1, 8, 8, 25, 5, 5, 5, *[2] * 5, *[3] * 5]  # shape, images, classes of labels, of each
    assert facts(split, batch)["facts"].tolist() == [expected] * 4
    assert facts(split, tasks)["facts"].tolist() == [expected] * 4
    assert any(not image_is_upright(x, split) for x, *_ in tasks) == (turned == "omniglot")


def image_is_upright(images: torch.Tensor, split) -> bool:
    known = {image.numpy().tobytes() for image in split.images}
    return all(image.numpy().tobytes() in known for image in (images * 255).round().byte())


@needs_learn2learn
@pytest.mark.thorough
def test_meta_step_runs_from_end_to_end(tmp_path):
    command = [sys.executable, "-m", "benchmarks.meta_step", "--quick", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    rows = {(row[0], row[1]): row for row in table(tmp_path)[1:]}
    for benchmark in ("meta_step", "meta_step_memory"):
        _, _, ours, peer, unit, ratio = rows[benchmark, "5w1s-q1-1step-second"]
        assert float(ratio) == pytest.approx(float(peer) / float(ours), rel=0.2)  # of medians, or a median of ratios
        assert unit == {"meta_step": "ms", "meta_step_memory": "MB"}[benchmark]
    assert rows["meta_step", "geometric-mean-all"][5] == rows["meta_step", "5w1s-q1-1step-second"][5]
    assert "learn2learn 0.2.0" in (tmp_path / "machine.txt").read_text()


def test_without_learn2learn_the_command_says_how_to_install_it(tmp_path):
    code = (
        "import sys; sys.modules['learn2learn'] = None; sys.argv = ['x', '--quick', '--out', sys.argv[1]]\n"
        "from benchmarks import meta_step, report\n"
        "report.run_benchmarks(meta_step.main)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: learn2learn cannot be imported")
    assert "requirements-learn2learn.txt" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_the_device_is_the_gpu_if_there_is_one():
    assert contender.device().type == ("cuda" if torch.cuda.is_available() else "cpu")
