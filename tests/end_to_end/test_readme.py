"""Every command and snippet of README.md and docs/ runs, with a small budget; what cannot run here says why.

``docs/contributing.md`` is followed by ``tests/docs/test_contributing.py``, and the section on features, whose snippets
have names of files, by ``tests/docs/test_features_section.py``.
"""

import os
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from torch.distributed.run import get_args_parser

import fewshot.command.run_folder  # noqa: F401 - resolvers of conf/config.yaml
from mixed_images import mixed_folder
from pages import CONTRIBUTING, PAGES, ROOT, blocks, table, text_of

FOLLOWED = [page for page in PAGES if page != CONTRIBUTING]
RECIPES = ROOT / "docs" / "running.md"
PROGRAMS = ("python", "pip", "torchrun", "srun", "make")
LEFT_OUT = (
    "make",  # installs, and runs for minutes
    "python -m benchmarks",  # tests/benchmarks runs each, quickly
)

BUDGET = ("trainer.max_steps=1", "task.test_episodes=2", "task.val_episodes=2", "task.queries=1", "task.meta_batch=1",
          "figures=false")  # fmt: skip
SMALLER = {  # what a reader has and a test does not
    "data=folder": ("task.ways=2", "task.train_ways=3", "data.image_size=16"),
    "omniglot|notebook|blog|5w5s|ablation|semi|lake": ("data.dataset._target_=synthetic_data.Omniglot",),
    "experiment=pmf": ("data=glyphs", "backbone.image_size=32"),
    "adapt=lora": ("method.test_steps=1", "backbone.image_size=32"),
    "experiment=search_maml|hydra/sweeper=optuna": ("hydra.sweeper.n_trials=1",),
    "resume=": ("trainer.max_steps=2",),
}
FILLED_IN = {
    "seed=0,1,2": "seed=0", "data.root=DIR": "data.root=images", "outputs/DIR": "outputs/mine",
    "support=EXAMPLES": "support=images", "query=IMAGES": "query=images", "outputs multirun": "outputs",
    "PATH... --output DIR": "outputs --output report", "HOST": "localhost",
}  # fmt: skip


def is_command(text: str) -> bool:
    return text.split(" ")[0] in PROGRAMS


def commands() -> list[str]:
    """Return the commands of the pages: the lines of their blocks, and the commands in their text."""
    found = []
    for page in FOLLOWED:
        for block in blocks(page, "bash"):
            found += re.sub(r"\\\n\s*", "", block.text).splitlines()
        outside = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
        in_text = (" ".join(text.split()) for text in re.findall(r"`([^`]+)`", outside))
        found += [text for text in in_text if is_command(text) and " " in text]
    return list(dict.fromkeys(shlex.join(shlex.split(line, comments=True)) for line in found if line))


def recipes() -> dict[str, str]:
    """Return the command that the file of each experiment begins with."""
    files = {
        row[0].strip("`"): ROOT / "conf/experiment" / f"{row[0].strip('`')}.yaml"
        for row in table(RECIPES, "| experiment |")
    }
    return {name: file.read_text(encoding="utf-8").splitlines()[1].removeprefix("# ") for name, file in files.items()}


def of(program: str) -> list[str]:
    """Return the commands of a program, without the commands that are left out."""
    mine = (command for command in COMMANDS if f"{command} ".startswith(f"{program} "))
    return [command for command in mine if not command.startswith(LEFT_OUT)]


COMMANDS = commands()
MANY_GPUS = [command for command in COMMANDS if "trainer=ddp" in command]
ON_ARRAYS = [command for command in COMMANDS if "data=arrays" in command]
RUNS = [
    command
    for command in of("python run.py")
    if command not in (*MANY_GPUS, *ON_ARRAYS) and not command.endswith("=NAME")
]
TRAIN_MINE = next(command for command in RUNS if "name=mine" in command)


def filled_in(command: str) -> list[str]:
    """The arguments after the program and its script or module, with what a reader fills in."""
    for text, replacement in FILLED_IN.items():
        command = f"{command} ".replace(text, replacement).strip()
    assert not re.search(r"\b[A-Z]{4,}\b|\bDIR\b|=N\b", command), f"the test does not know what to fill in: {command}"
    return shlex.split(command)


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    cache = tmp_path_factory.getbasetemp().parent / "fewshot-cache"
    hidden = ("WANDB_API_KEY", "WANDB_MODE", "HYDRA_FULL_ERROR")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept | {"FEWSHOT_CACHE": str(cache), "OMP_NUM_THREADS": "1", "HOME": str(cache),
                   "PYTHONPATH": str(ROOT / "tests")}  # fmt: skip


@pytest.fixture(scope="module")
def run(run_server, environment):
    def call(command: str, folder: Path) -> str:
        """What ``python run.py ...`` prints in ``folder``."""
        typed = filled_in(command)[2:]
        more = [text for part, texts in SMALLER.items() if re.search(part, command) for text in texts]
        done = run_server.run([*typed, *BUDGET, *more], folder, environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


@pytest.fixture(scope="module")
def mine(run, tmp_path_factory) -> Path:
    """A folder where a reader has trained on images of their own."""
    folder = tmp_path_factory.mktemp("mine")
    for split in ("train", "val", "test"):
        mixed_folder(folder / "mixed" / split, classes=4, seed=len(split))
    mixed_folder(folder / "images", classes=12)
    shutil.rmtree(folder / "images" / "alone")
    assert "test accuracy" in run(TRAIN_MINE, folder)
    return folder


@pytest.fixture
def place(mine, tmp_path) -> Path:
    """A copy of it."""
    return shutil.copytree(mine, tmp_path / "place", symlinks=True)


def test_every_command_is_known():
    """Refuse a command of a page that has no test here."""
    tested = {*RUNS, *of("python -m"), *of("pip"), *MANY_GPUS, *ON_ARRAYS, "python run.py experiment=NAME"}
    assert [command for command in COMMANDS if command not in tested and not command.startswith(LEFT_OUT)] == []
    assert all(f"experiment={name}" in command for name, command in recipes().items())


def timed(command: str) -> object:
    """Leave the features of a large network to ``make test-all``."""
    return pytest.param(command, marks=pytest.mark.thorough) if "efficientnet_lite0" in command else command


@pytest.mark.parametrize("command", [timed(command) for command in RUNS if command != TRAIN_MINE])
def test_commands_train(command, run, place):
    assert ("== Configuration groups ==" if command.endswith("--help") else "accuracy") in run(command, place)


@pytest.mark.parametrize("command", of("python -m"))
def test_modules_run(command, place, monkeypatch):
    _, _, module, *arguments = filled_in(command)
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(SystemExit) as ended, pytest.warns(RuntimeWarning, match="sys.modules"):
        runpy.run_module(module, run_name="__main__")
    assert ended.value.code == 0


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name, command in recipes().items() if command not in RUNS])
def test_recipes_run_by_the_command_that_their_file_begins_with(name, run, tmp_path):
    """Those that start from the weights of another recipe run after it."""
    text = (ROOT / "conf/experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    if weights := re.search(r"^weights: outputs/(\w+)/", text, re.MULTILINE):
        run(f"python run.py experiment={weights[1]}", tmp_path)
    assert "accuracy" in run(recipes()[name], tmp_path)


@pytest.mark.parametrize("page", [page for page in FOLLOWED if blocks(page, "python")], ids=lambda page: page.stem)
def test_snippets_run(page, place, monkeypatch):
    files = sorted((place / "images").glob("class[45]/*.*"))
    known = {"files": files, "labels": [file.parent.name for file in files], "other_files": files[::-1]}
    monkeypatch.chdir(place)
    for block in blocks(page, "python"):
        if not block.title:
            exec(block.text, known)
    assert set(known["predict"](files)) <= {"class4", "class5"}


def test_every_block_is_run():
    """Refuse a block of a language that no test runs."""
    assert {block.language for page in FOLLOWED for block in blocks(page)} <= {"bash", "python", "text"}
    assert all(is_command(command) for command in COMMANDS)


@pytest.mark.parametrize("command", MANY_GPUS)
def test_many_gpus_get_the_settings_that_they_need(command):
    """Not run, as it takes up to two machines with four GPUs each: its options are read, and its settings composed."""
    words = filled_in(command)
    script = next(place for place, word in enumerate(words) if word.endswith("run.py"))
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=words[script + 1 :])
    nodes, processes = 1, -1  # all of the machine
    if words[0] == "torchrun":
        options = get_args_parser().parse_args(words[1 : script + 1])
        nodes, processes = int(options.nnodes), int(options.nproc_per_node)
    elif words[0] == "srun":
        given = dict(word.removeprefix("--").split("=") for word in words[1 : script - 1])
        nodes, processes = int(given["nodes"]), int(given["ntasks-per-node"])
    assert (cfg.trainer.accelerator, cfg.trainer.num_nodes, cfg.trainer.devices) == ("gpu", nodes, processes)
    assert cfg.task.meta_batch >= nodes * max(2, processes)


@pytest.mark.parametrize("command", of("pip"))
def test_installations_name_files_that_are_there(command):
    """Not run, as it would change what the tests run in."""
    words = shlex.split(command)
    assert (ROOT / words[words.index("-r") + 1]).is_file()
