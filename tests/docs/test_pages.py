"""Pages agree with the tree: links, lists of choices, the table of methods, recorded numbers, pinned versions."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from itertools import chain
from types import ModuleType

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from packaging.requirements import Requirement

import fewshot.command.run_folder  # noqa: F401 - resolvers of conf/config.yaml
from fewshot.methods.fixed_ways import FixedWays
from fewshot.networks.norm_layers import batch_norms
from pages import PAGES, ROOT, links, table, text_of

README, METHODS = ROOT / "README.md", ROOT / "docs" / "methods.md"
RECORDS = sorted((ROOT / "experiments").glob("*/README.md"))
GROUPS = ("method", "data", "task", "backbone", "engine", "train_task", "logger", "trainer")


def choices(group: str) -> set[str]:
    return {file.stem for file in (ROOT / "conf" / group).glob("*.yaml")}


def quoted(cell: str) -> set[str]:
    """Return the names in a cell that stand in backticks."""
    return set(re.findall(r"`(\w+)`", cell))


@pytest.mark.parametrize("page", [*PAGES, *RECORDS], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    assert [target for target in links(page) if not (page.parent / target).exists()] == []


def test_every_page_is_reached_from_the_readme():
    named = {ROOT / target for target in links(README)}
    assert [page for page in PAGES if page not in named and page not in (README, ROOT / "docs" / "index.md")] == []


@pytest.mark.parametrize("group", GROUPS)
def test_the_readme_lists_choices_that_exist(group):
    """A new choice needs no line here: ``python run.py --help`` lists all."""
    cells = dict(row[:2] for row in table(README, "| group |"))
    named = quoted(cells[f"`{group}`"])
    assert named
    assert named <= choices(group)


def test_the_list_of_recipes_is_whole():
    listed = {row[0].strip("`") for row in table(ROOT / "docs" / "running.md", "| experiment |")}
    assert listed == choices("experiment") - {"search_maml"}  # a search: under Sweeps


def test_the_site_names_every_method():
    """A method without a row in docs/methods.md is in the table that the site adds."""
    page = text_of(METHODS)
    rows = re.findall(r"^\| `(\w+)` \|", page.split("## Sources")[0], re.MULTILINE)
    added = re.findall(r"^\| `(\w+)` \|", site_hooks().other_methods(page), re.MULTILINE)
    assert sorted([*rows, *added]) == sorted(choices("method"))
    missing = site_hooks().other_methods(page.replace("| `protonet` |", "| - |"))
    assert "\n| `protonet` |" in missing


def site_hooks() -> ModuleType:
    """Return the module that adds pages to the site."""
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("row", table(METHODS, "| method |"), ids=lambda row: row[0].strip("`"))
def test_kind_and_ways_are_those_of_the_method(row):
    name, _, _, kind, ways, _ = row
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        method = instantiate(compose("config", overrides=[f"method={name.strip('`')}"]).method)
    transductive = method.bn == "transductive" and bool(batch_norms(method.network))
    assert kind == ("transductive" if transductive else "inductive")
    host = getattr(method, "host", method)
    assert ways == ("fixed" if isinstance(host, FixedWays) and not hasattr(host, "head") else "any")


def test_numbers_of_the_table_of_methods_are_in_the_records():
    """Find each accuracy in the record that its letter names."""
    sources = {row[0]: (METHODS.parent / links_in(row[-1])[0]) for row in table(METHODS, "| | data and task |")}
    checked = 0
    for *_, cell in table(METHODS, "| method |"):
        for numbers, letter in re.findall(r"([^\[;]*)\[(\w)\]", cell):
            for number in re.findall(r"\d+\.\d+(?: ± \d+\.\d+)?", numbers):
                assert number in text_of(sources[letter]), (number, letter)
                checked += 1
    assert checked >= 15


def links_in(cell: str) -> list[str]:
    return re.findall(r"\]\(([^)]+)\)", cell)


@pytest.mark.parametrize("page", [page for page in PAGES if "±" in text_of(page)], ids=lambda page: page.stem)
def test_intervals_stand_in_a_record(page):
    """Find every ``mean ± half-width`` of a page in a record of experiments/ or benchmarks/."""
    recorded = "\n".join(text_of(record) for record in [*RECORDS, ROOT / "benchmarks" / "README.md"])
    assert [found for found in re.findall(r"\d+\.\d+ ± \d+\.\d+", text_of(page)) if found not in recorded] == []


def pins(file: str) -> dict[str, str]:
    """Return package and version of the lines of a requirements file that pin one."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return dict(line.split()[0].split("==") for line in lines if "==" in line and not line.startswith("#"))


def test_pinned_versions_are_within_the_bounds_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = {}
    for file in (
        "requirements.txt",
        "requirements-sweeps.txt",
        "requirements-pretrained.txt",
        "requirements-transformers.txt",
        "requirements-docs.txt",
        "requirements-dev.txt",
    ):
        pinned |= pins(file)
    extras = project["optional-dependencies"]
    bounds = [Requirement(text) for text in chain(project["dependencies"], *extras.values())]
    for bound in bounds:
        if bound.name in pinned:
            assert bound.specifier.contains(pinned[bound.name]), bound
    missing = {bound.name for bound in bounds} - set(pinned) - {"fewshot", "pyyaml"}
    assert missing == set()


def test_one_version_of_ruff_formats_everywhere():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    version = pins("requirements-dev.txt")["ruff"]
    assert pins("requirements-docs.txt")["ruff"] == version
    assert [hook["additional_dependencies"] for hook in hooks] == [[f"ruff=={version}"]] * 2


def test_the_workflow_tries_every_python_that_the_package_allows():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["ci"]
    assert job["steps"][-1]["run"] == "bash .ci/run"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    least, below = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"]).groups()
    assert job["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in range(int(least), int(below))]


@pytest.mark.parametrize("name", ["fewshot-classify", "fewshot-report"])
def test_commands_of_the_package_print_their_usage(name, monkeypatch, capsys):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    main = EntryPoint(name, project["scripts"][name], "console_scripts").load()
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    try:
        status = main()
    except SystemExit as ended:
        status = ended.code
    assert status == 0
    assert "usage: " in capsys.readouterr().out


def test_a_plain_installation_needs_no_dashboards():
    """Import everything that a run needs in a process where wandb, tensorboard, joblib and optuna are missing."""
    hidden = "import sys; sys.modules |= dict.fromkeys(('wandb', 'tensorboard', 'joblib', 'submitit', 'optuna'))"
    imports = "import fewshot.command.execute, fewshot.report.build, fewshot.classify, fewshot.loggers"
    done = subprocess.run(
        [sys.executable, "-c", f"{hidden}; {imports}"], capture_output=True, text=True, cwd=ROOT / "src"
    )
    assert (done.returncode, done.stderr) == (0, "")
