"""Compose settings as a command does, in this process and without a run."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

import fewshot.command.run_folder  # noqa: F401 - resolvers of conf/config.yaml
from fewshot.command.settings import apply_typed_budget

CONF = Path(__file__).parents[1] / "conf"


def names(group: str) -> list[str]:
    """Return the choices of a group."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def choosing(data: str) -> tuple[str, ...]:
    """Return the overrides that choose a data set, with what the user or a file must give."""
    root = f"data.root={data}"
    given = {
        "folder": (root,),
        "arrays": (root, "data.channels=4", "data.image_size=1", "data.pixels=false", "backbone=mlp"),
    }
    return (f"data={data}", *given.get(data, ()))


@cache
def resolved_settings(*overrides: str) -> dict[str, Any]:
    """Return the resolved settings of a command line, as a job holds them; they are shared, so never change them."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=list(overrides), return_hydra_config=True)
    choices = dict(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = "out"
        HydraConfig.instance().set_config(cfg)
        del cfg["hydra"]
        cfg.choices = {name: choice for name, choice in choices.items() if not name.startswith("hydra")}
        cfg.typed = list(overrides)
        apply_typed_budget(cfg, overrides)
        OmegaConf.resolve(cfg)
    settings: Any = OmegaConf.to_container(cfg)
    return settings


def places(node: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each number below ``node``."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from places(value, (*where, key))
    elif isinstance(node, int | float) and not isinstance(node, bool):
        yield where
