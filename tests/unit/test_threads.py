"""Waiting threads sleep soon, in every command, unless the user says otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fewshot.threads import BUSY_SPINS, QUIET_SPINS, VARIABLES, is_busy, waiting_variables

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "run": ("run.py", "--cfg", "job"),
    "classify": ("-m", "fewshot.classify", "checkpoint=nowhere.ckpt", "support=nowhere", "query=nowhere"),
}


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_of_the_user_leaves_all_alone(name):
    assert waiting_variables({name: "active"}) == {}


@pytest.mark.parametrize("busy", [False, True])
def test_nothing_but_the_spin_is_set(monkeypatch, busy):
    monkeypatch.setattr("fewshot.threads.is_busy", lambda: busy)
    spins = BUSY_SPINS if busy else QUIET_SPINS
    assert waiting_variables({"OMP_NUM_THREADS": "2"}) == {"GOMP_SPINCOUNT": str(spins)}


@pytest.mark.parametrize(
    ("text", "own", "cores", "busy"),
    [
        ("0.10 0.20 0.30 1/126 17913", 2, 2, False),  # this process alone
        ("0.10 0.20 0.30 2/126 17913", 2, 2, True),  # another one on two cores
        ("9.90 0.20 0.30 4/126 17913", 2, 8, False),  # three others, and three cores left
        ("0.10 0.20 0.30 8/126 17913", 2, 8, True),
        ("no such count", 2, 2, False),
    ],
)
def test_other_programs_are_counted(tmp_path, text, own, cores, busy):
    (tmp_path / "loadavg").write_text(text)
    assert is_busy(tmp_path / "loadavg", own, cores) is busy
    assert not is_busy(tmp_path / "absent", own, cores)


def openmp_settings(command: tuple[str, ...], tmp_path: Path, **variables: str) -> dict[str, str]:
    """Return what the OpenMP library of a command read when it loaded."""
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    shown = {"OMP_DISPLAY_ENV": "verbose", "PYTHONPATH": str(ROOT / "src"), "FEWSHOT_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=kept | shown | variables, text=True, capture_output=True, timeout=120
    )
    lines = (line.strip().partition(" = ") for line in done.stderr.splitlines())
    return {name.removeprefix("[host] "): value.strip("'") for name, equals, value in lines if equals}


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP")
@pytest.mark.parametrize("command", ["run", pytest.param("classify", marks=pytest.mark.thorough)])
def test_the_library_reads_the_spin(command, tmp_path):
    assert openmp_settings(COMMANDS[command], tmp_path)["GOMP_SPINCOUNT"] in (str(BUSY_SPINS), str(QUIET_SPINS))


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP")
def test_the_library_reads_what_the_user_has_set(tmp_path):
    read = openmp_settings(COMMANDS["run"], tmp_path, OMP_WAIT_POLICY="active")
    assert read["OMP_WAIT_POLICY"] == "ACTIVE"
    assert read["GOMP_SPINCOUNT"] not in (str(BUSY_SPINS), str(QUIET_SPINS))
