"""The settings in a run's folder are read as a checkpoint's: the folder may come from a stranger."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from fewshot.command import run_folder

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def written(tmp_path: Path) -> str:
    """Write the settings of a run into ``tmp_path``; return the text."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=["seed=3", "data=folder", "data.root=/images"])
    text = OmegaConf.to_yaml(cfg)
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/config.yaml").write_text(text)
    (tmp_path / ".hydra/overrides.yaml").write_text("- seed=3\n")
    return text


def test_a_run_is_known_by_its_settings(tmp_path: Path, written: str) -> None:
    found = run_folder.read(tmp_path)
    assert found == run_folder.identity(OmegaConf.create(written), ["seed=3"])
    assert found is not None
    assert found["seed"] == 3


HOSTILE = {
    "environment": "x: ${oc.env:HOME}",
    "decode": "x: ${oc.decode:'1'}",
    "doubled": "x0: aa\n" + "\n".join(f"x{n}: ${{x{n - 1}}}${{x{n - 1}}}" for n in range(1, 60)),
    "aliases": "x0: &x0 [1]\n" + "\n".join(f"x{n}: &x{n} [*x{n - 1}, *x{n - 1}]" for n in range(1, 60)),
    "loop": "x: ${y}\ny: ${x}",
    "tag": "x: !!python/object/apply:os.system ['touch OWNED']",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_settings_are_of_no_run(tmp_path: Path, written: str, name: str) -> None:
    (tmp_path / ".hydra/config.yaml").write_text(f"{written}\n{HOSTILE[name]}\n")
    assert run_folder.read(tmp_path) is None


@pytest.mark.parametrize("text", ["[" * 100_000, "3", "", "a: [b", "data: 3", "- 1", "a" * 10**6, "\x00", "data: {}"])
@pytest.mark.parametrize("file", ["config.yaml", "overrides.yaml"])
def test_damaged_settings_are_of_no_run(tmp_path: Path, written: str, file: str, text: str) -> None:
    (tmp_path / ".hydra" / file).write_text(text)
    assert run_folder.read(tmp_path) is None
