"""What the project's own configs compose passes every check of stored settings."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from fewshot.allow_list import build, refuse_foreign_targets
from fewshot.stored_settings import Resolver, parse
from settings_of import choosing

CONF = Path(__file__).parents[2] / "conf"
CHOICES = [
    (group, file.stem)
    for group in ("method", "backbone", "data", "engine", "logger", "trainer", "experiment", "task")
    for file in sorted((CONF / group).glob("*.yaml"))
]


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_config_can_be_stored_and_read(group: str, name: str) -> None:
    typed = choosing(name) if group == "data" else [f"{group}={name}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=list(typed))
    OmegaConf.set_struct(cfg, False)
    cfg.choices = {"method": "protonet", "data": "glyphs", "task": "5w1s"}  # as a run notes them
    text = OmegaConf.to_yaml(cfg)
    settings = parse(text)
    refuse_foreign_targets(settings)
    assert settings == OmegaConf.to_container(cfg)
    ours = Resolver(settings).resolve(settings["method"], ("method",))
    assert ours == OmegaConf.to_container(cfg.method, resolve=True)
    if group == "method":
        build(ours)
