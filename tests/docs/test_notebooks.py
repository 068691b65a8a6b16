"""Run the cells of every notebook in one process, with the budgets of the first cell made small."""

import json
from pathlib import Path

import matplotlib
import pytest

from pages import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = {
    "label_your_own_images": {"STEPS": 30},
    "maml_prototypes_metagan": {"STEPS": 2, "TEST_EPISODES": 4},
}


def cells(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def code(notebook: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in cells(notebook) if cell["cell_type"] == "code"]


@pytest.fixture
def known(request, tmp_path, tmp_path_factory, monkeypatch) -> dict:
    """Return the names that a notebook has after its last cell, run in an empty folder."""
    notebook = ROOT / "notebooks" / f"{request.param}.ipynb"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    matplotlib.use("Agg")
    first, *rest = code(notebook)
    names: dict = {}
    exec(compile(first, notebook.name, "exec"), names)
    cache = {"CACHE": str(tmp_path_factory.getbasetemp().parent / "fewshot-cache")} if "CACHE" in names else {}
    small = SMALL[notebook.stem] | cache
    assert small.keys() <= names.keys()
    names |= small
    for cell in rest:
        exec(compile(cell, notebook.name, "exec"), names)
    import matplotlib.pyplot as plt

    plt.close("all")
    return names


@pytest.mark.thorough
@pytest.mark.parametrize("known", ["label_your_own_images"], indirect=True)
def test_images_of_new_classes_are_labelled(known):
    assert set(known["labels"]) <= set(known["predict"].classes)
    assert known["accuracy"] > 0.5  # 0.1 by chance
    assert {path.name for path in Path.cwd().iterdir()} == {"own_images"}


@pytest.mark.parametrize("known", ["maml_prototypes_metagan"], indirect=True)
def test_three_methods_are_trained_and_tested(known):
    assert list(known["results"]) == ["prototypes", "MAML", "MetaGAN"]
    assert all(result.episodes == 4 for result in known["results"].values())
    assert list(known["pictures"])
    assert not list(Path.cwd().iterdir())


def test_the_short_cell_is_short():
    """The title promises 20 lines: statements that say something, without imports."""
    import ast

    body = ast.parse(code(ROOT / "notebooks" / "maml_prototypes_metagan.ipynb")[1]).body
    lines = [node for part in body for node in ast.walk(part) if isinstance(node, ast.stmt)]
    assert len([node for node in lines if not isinstance(node, ast.Import | ast.ImportFrom)]) <= 20


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_no_output_is_stored(notebook):
    assert notebook.stem in SMALL
    for cell in cells(notebook):
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)
