"""Waiting threads sleep soon, in every command, unless the user says otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fewshot.threads import SPIN_COUNT, VARIABLES, waiting_variables

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "run": ("run.py", "--cfg", "job"),
    "classify": ("-m", "fewshot.classify", "checkpoint=nowhere.ckpt", "support=nowhere", "query=nowhere"),
}


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_of_the_user_leaves_all_alone(name):
    assert waiting_variables({name: "active"}) == {}


def test_nothing_but_the_spin_is_set():
    assert waiting_variables({"OMP_NUM_THREADS": "2"}) == {"GOMP_SPINCOUNT": str(SPIN_COUNT)}


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
@pytest.mark.parametrize("command", COMMANDS)
def test_the_library_reads_the_spin(command, tmp_path):
    assert openmp_settings(COMMANDS[command], tmp_path)["GOMP_SPINCOUNT"] == str(SPIN_COUNT)


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP")
def test_the_library_reads_what_the_user_has_set(tmp_path):
    read = openmp_settings(COMMANDS["run"], tmp_path, OMP_WAIT_POLICY="active")
    assert read["OMP_WAIT_POLICY"] == "ACTIVE"
    assert read["GOMP_SPINCOUNT"] != str(SPIN_COUNT)
