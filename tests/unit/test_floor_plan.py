"""Which folder may import which: each only from floors below its own."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src" / "fewshot"
# From the ground up. A file beside the folders that is not named here is a ground file: it imports no folder.
GROUND = "ground"
FLOORS = (
    {GROUND},
    {"data"},
    {"networks"},
    {"engines"},
    {"methods"},
    {"checkpoint", "passes"},
    {"fitted_learner"},
    {"figures", "checkpoint_io", "learner", "loggers"},
    {"callbacks", "pretrained_learner", "report"},
    {"command", "label_folder"},
    {"classify"},
    {"__init__"},  # the face of the package, which loads what is asked for
)
FLOOR = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}


def part_of(file: Path) -> str:
    part = file.relative_to(SOURCES).parts[0].removesuffix(".py")
    return part if part in FLOOR or (SOURCES / part).is_dir() else GROUND


def imported_modules(file: Path) -> Iterator[str]:
    """The modules of all import statements, those within functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def imported_parts(file: Path) -> Iterator[str]:
    for module in imported_modules(file):
        package, *rest = module.split(".")
        if package == "fewshot" and rest and rest[0] != "__version__":
            yield rest[0] if rest[0] in FLOOR or (SOURCES / rest[0]).is_dir() else GROUND


FILES = sorted(SOURCES.rglob("*.py"))


def test_every_folder_has_a_floor():
    folders = {file.relative_to(SOURCES).parts[0] for file in FILES if file.parent != SOURCES}
    assert folders <= set(FLOOR), f"name the floor of {folders - set(FLOOR)} in FLOORS"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCES)))
def test_a_file_imports_only_from_floors_below(file):
    own = part_of(file)
    above = {part for part in imported_parts(file) if part != own and FLOOR[part] >= FLOOR[own]}
    assert not above, f"{own} must not import {', '.join(sorted(above))}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCES)))
def test_only_commands_import_hydra(file):
    if part_of(file) != "command":
        assert not [module for module in imported_modules(file) if module.split(".")[0] == "hydra"]


def test_checkpoints_and_data_load_without_figures_and_statistics():
    code = "import fewshot.checkpoint, fewshot.data, sys; print(*sys.modules)"
    environment = {"PYTHONPATH": str(SOURCES.parent), "PATH": ""}
    finished = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    loaded = set(finished.stdout.split())
    assert {"fewshot.checkpoint", "fewshot.data.glyphs", "torch"} <= loaded
    assert not loaded & {"matplotlib", "scipy.stats", "fewshot.report", "fewshot.figures", "hydra", "pytorch_lightning"}


def test_the_report_loads_without_torch():
    code = "import fewshot.report.build, sys; print(*sys.modules)"
    environment = {"PYTHONPATH": str(SOURCES.parent), "PATH": ""}
    finished = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "torch" not in finished.stdout.split()
