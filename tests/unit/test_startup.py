"""Ctrl-C while libraries load."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Sends itself the signal when torch is imported.
CODE = """
import builtins, os, runpy, signal, sys
real = builtins.__import__
def imported(name, *arguments, **options):
    if name == "torch":
        os.kill(os.getpid(), signal.SIGINT)
    return real(name, *arguments, **options)
builtins.__import__ = imported
sys.path.insert(0, {source!r})
sys.argv = {argv!r}
runpy.run_path({file!r}, run_name="__main__")
"""


@pytest.mark.parametrize("file", ["run.py", "src/fewshot/classify.py"])
def test_ctrl_c_while_libraries_load_is_one_line(file):
    argv = [file, "checkpoint=a", "support=b", "query=c"] if "classify" in file else [file]
    code = CODE.format(source=str(ROOT / "src"), argv=argv, file=str(ROOT / file))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode in (130, -signal.SIGINT)
    assert done.stderr == "interrupted\n"


def test_an_error_is_one_line_whatever_a_name_holds():
    from fewshot.command.exit_status import explain
    from fewshot.errors import UserError

    name = "\x1b[31ma\nerror: b"
    shown = r"\x1b[31ma\nerror: b"
    assert explain(UserError(f"{name} is no folder")) == f"{shown} is no folder"
    assert explain(FileNotFoundError(2, "No such file", name)) == f"{shown}: No such file"
