"""Follow docs/contributing.md literally: write its code blocks into a copy of the tree, and run its checks there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pages import CONTRIBUTING, ROOT, blocks, table

COPIED = ("src", "conf", "tests", "run.py", "pyproject.toml", "README.md", "docs")
LISTS = ("test_the_site_names_every_method", "test_the_readme_lists_choices_that_exist")
FILES = [block for block in blocks(CONTRIBUTING) if block.title]
COMMANDS = [line for block in blocks(CONTRIBUTING, "bash") for line in block.text.splitlines()]
BUDGET = ("trainer.max_steps=1", "task.test_episodes=2", "task.val_episodes=2", "task.queries=1", "figures=false")


@pytest.fixture(scope="module")
def followed(tmp_path_factory) -> Path:
    """Return a copy of the tree in which a reader has written every block of the page."""
    copy = tmp_path_factory.mktemp("followed") / "fewshot"
    copy.mkdir()
    for name in COPIED:
        source = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(source, copy / name, ignore=ignored) if source.is_dir() else shutil.copy(source, copy / name)
    for block in FILES:
        file, _, part = block.title.partition(": ")
        if part:
            insert(copy / file, part, block.text)
        else:
            assert not (copy / file).exists(), f"{file} exists: choose a part that the project does not have"
            (copy / file).write_text(block.text, encoding="utf-8")
    return copy


def insert(file: Path, part: str, text: str) -> None:
    """Add an import above the other imports of the package, or a row at the end of ROWS."""
    lines = file.read_text(encoding="utf-8").splitlines()
    if part == "import":
        lines.insert(lines.index("import torch") + 1, text.strip())
    else:
        assert part == "row", part
        start = next(number for number, line in enumerate(lines) if re.match(r"ROWS\b.*= \[$", line))
        lines.insert(lines.index("]", start), f"    {text.strip()},")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.mark.thorough
def test_the_checks_are_green_at_the_first_run(followed):
    """All checks of the page in one process: the files of each command, and the names that each chooses."""
    files, names = [], []
    for command in (command for command in COMMANDS if "pytest" in command):
        python, module, pytest_, *chosen = shlex.split(command.removesuffix(' -m "not slow"'))
        *chosen, option, name = chosen
        assert (python, module, pytest_, option) == ("python", "-m", "pytest", "-k")
        files += chosen
        names.append(name)
    done = run(
        [
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            *dict.fromkeys(files),
            "-m",
            "not slow",
            "-k",
            " or ".join(names),
        ],
        followed,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert "skipped" not in done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 50


@pytest.mark.thorough
def test_no_list_has_to_be_changed(followed):
    """The lists of the README and of the site are right with the new parts, and without another edit."""
    lists = [f"tests/docs/test_pages.py::{name}" for name in LISTS]
    done = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", *lists], followed)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr


@pytest.mark.thorough
@pytest.mark.parametrize("command", [command for command in COMMANDS if "run.py" in command])
def test_the_runs_end_in_an_accuracy(command, followed):
    _, *arguments = shlex.split(command)
    done = run([*arguments, *BUDGET, f"name=run{COMMANDS.index(command)}"], followed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test accuracy" in done.stdout + done.stderr
    load = f"import fewshot; fewshot.load('outputs/run{COMMANDS.index(command)}/checkpoints/last.ckpt')"
    loaded = run(["-c", f"import sys; sys.path.insert(0, 'src'); {load}"], followed)
    assert loaded.returncode == 0, loaded.stderr
    figures = list(followed.glob(f"outputs/run{COMMANDS.index(command)}/figures/task_accuracies.png"))
    assert len(figures) == ("task_accuracies" in command)


def test_every_command_is_run():
    assert all("pytest" in command or "run.py" in command for command in COMMANDS)


def test_the_table_of_files_names_the_files_of_the_blocks():
    """At most three files a part: the number that the table promises."""
    named = {
        cell for row in table(CONTRIBUTING, "| to add |") for cell in re.findall(r"`([\w/]+/)x\.\w+`", " ".join(row))
    }
    written = {f"{Path(block.title.partition(':')[0]).parent}/" for block in FILES} - {"tests/"}
    assert written == named


@pytest.mark.thorough
def test_new_files_are_formatted_and_typed(followed):
    new = [block.title for block in FILES if block.title.startswith("src/")]
    for command in (["ruff", "check", *new], ["ruff", "format", "--check", *new], ["mypy", *new]):
        done = run(["-m", *command], followed)
        assert done.returncode == 0, done.stdout + done.stderr
