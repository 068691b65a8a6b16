"""The benchmark of a busy machine: its neighbours and the variables of its sides."""

import os
import time
from pathlib import Path

import pytest
from benchmarks.busy import busy_processes, environment, slowdown


def test_a_side_has_the_given_variables_and_no_others_of_their_kind(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    before = dict(os.environ)
    with environment({"GOMP_SPINCOUNT": "7"}):
        assert os.environ["GOMP_SPINCOUNT"] == "7"
        assert "OMP_WAIT_POLICY" not in os.environ
    assert dict(os.environ) == before


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux names the children of a thread")
def test_neighbours_are_busy_within_and_gone_afterwards():
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = set(children.read_text().split())
    with busy_processes(2):
        started = set(children.read_text().split()) - before
        assert len(started) == 2
        time.sleep(0.5)
        stat = Path(f"/proc/{min(started)}/stat").read_text().rpartition(")")[2].split()
        assert int(stat[11]) > 0  # ticks of the processor
    assert set(children.read_text().split()) == before


def test_slowdown_is_a_ratio_of_medians():
    assert slowdown([1.0, 2.0, 30.0], [3.0, 5.0, 4.0]) == "2.0 times"
