"""A sample of the trials with damaged and hostile run folders."""

import signal
import sys
from random import Random

import pytest
from run_folder_trials import damaged_runs, problem_of

from fewshot.report import __main__ as command


@pytest.fixture
def deadline():
    def stop(*_):
        raise TimeoutError("the report takes more than a minute")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_run_never_costs_the_report(tmp_path, seed, capsys, caplog, monkeypatch, deadline):
    arguments = damaged_runs(tmp_path, Random(seed))
    monkeypatch.setattr(sys, "argv", arguments[1:])
    status = command.main()
    printed = capsys.readouterr()
    assert problem_of(status, printed.out + printed.err + caplog.text) is None
    for name in ("report.html", "report.csv", "report.md", "report.tex"):
        assert "SECRET" not in (tmp_path / "out" / name).read_text(encoding="utf-8")
