"""From the command line to a job: settings that need Hydra no more."""

import logging
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from fewshot import checkpoint, distributed
from fewshot.command import run_folder
from fewshot.command.settings import BUDGET, over_checkpoint, refuse_words_for_numbers, typed_keys, with_typed_budget
from fewshot.errors import FolderTaken, UserError
from fewshot.files import write_bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        settings: the composed and resolved settings.
        recipe: the same before interpolations were resolved, as YAML; it travels in the checkpoints.
        typed: the command line that the run began with.
        out: its folder.
        resume: the checkpoint that it goes on from.
        commit: of the code.
    """

    settings: dict[str, Any]
    recipe: str
    typed: list[str]
    out: str
    resume: str | None
    commit: str | None

    @property
    def cfg(self) -> DictConfig:
        """``settings``, to be changed at will."""
        return OmegaConf.create(self.settings)

    def write(self, file: Path) -> None:
        """For another process."""
        write_bytes(file, yaml.safe_dump(asdict(self), sort_keys=False).encode())

    @staticmethod
    def read(file: str | Path) -> "Job":
        """What ``write`` wrote."""
        return Job(**yaml.safe_load(Path(file).read_text(encoding="utf-8")))


def prepare(cfg: DictConfig, out: Path, commit: str | None) -> Job | None:
    """The job that ``cfg`` asks for; None where ``out`` holds its result already.

    Raises:
        UserError: the settings contradict a checkpoint.
        FolderTaken: ``out`` holds another run.
    """
    hydra_cfg = HydraConfig.get()
    typed = [override for override in hydra_cfg.overrides.task if typed_keys([override]) != ["resume"]]
    choices = {group: choice for group, choice in hydra_cfg.runtime.choices.items() if not group.startswith("hydra")}
    sweep = hydra_cfg.mode == RunMode.MULTIRUN
    OmegaConf.set_struct(cfg, False)
    cfg.choices, cfg.typed = choices, typed
    if {"checkpoint", "weights"} <= set(typed_keys(typed)) and cfg.checkpoint and cfg.weights:
        raise UserError("checkpoint=PATH brings its own weights: leave weights=PATH out")
    named = "hydra.run.dir" in typed_keys(hydra_cfg.overrides.hydra) or "${now" not in str(cfg._get_node("name"))
    if distributed.started_by_launcher() and not named:
        raise UserError("several processes share one folder: give it a name=...")
    resume = cfg.resume or ("auto" if sweep else None)
    if resume == "auto" and not named and not sweep:
        raise UserError("resume=auto goes on with the run in its own folder: give it a name=...")
    there = last = None
    if resume is None:
        _refuse_a_second_run(out)
    elif resume == "auto":
        there, last = run_folder.read(out), checkpoint.newest(out / "checkpoints")
    elif sweep or "name" in typed_keys(typed):
        raise UserError(f"resume={resume} goes on in its own folder: leave {'-m' if sweep else 'name'} out")
    else:
        last = checkpoint.newest(out / "checkpoints", resume)
        if last is None:
            raise UserError(f"resume={resume}: no checkpoint there")
        stored = OmegaConf.create(checkpoint.read(last, "resume")["recipe"])
        there = run_folder.identity(stored, stored.get("typed", []))
        cfg = _over(stored, cfg, typed)
    settings = run_folder.identity(cfg, cfg.typed)
    if there is not None:
        _refuse_another_run(out, there, settings, with_trainer=sweep)
        if there == settings and (out / "result.json").is_file():
            return None
    if last:
        step = checkpoint.read(last)["global_step"]
        if 0 < settings["trainer"]["max_steps"] < step:
            raise FolderTaken(f"trainer.max_steps={settings['trainer']['max_steps']}: {last} has taken {step} already")
        log.info("going on from step %d (%s)", step, last)
    run_folder.write(out, cfg, cfg.typed)
    if cfg.checkpoint and resume in (None, "auto"):
        stored = OmegaConf.create(checkpoint.read(cfg.checkpoint)["recipe"])
        cfg = over_checkpoint(stored, cfg, choices, typed)
        cfg.typed = typed
    with_typed_budget(cfg, cfg.typed)
    if cfg.trainer.max_time is not None and not re.fullmatch(r"\d+(:\d\d){3}", str(cfg.trainer.max_time)):
        raise UserError(f"trainer.max_time={cfg.trainer.max_time}: must be DD:HH:MM:SS, such as 00:00:20:00")
    for part in ("method", "trainer"):
        refuse_words_for_numbers(cfg[part], part)
    recipe = OmegaConf.to_yaml(cfg)
    OmegaConf.resolve(cfg)
    return Job(
        settings=OmegaConf.to_container(cfg),  # type: ignore[arg-type]
        recipe=recipe,
        typed=list(cfg.typed),
        out=str(out),
        resume=str(last) if last else None,
        commit=commit,
    )


def _refuse_a_second_run(out: Path) -> None:
    finished = (out / "result.json").is_file()
    if finished or any((out / "checkpoints").glob("*.ckpt")):
        raise FolderTaken(
            f"{out} holds {'a finished' if finished else 'an unfinished'} run: resume=auto goes on with it, "
            "another name=... begins a new one"
        )


def _refuse_another_run(out: Path, there: dict[str, Any], here: dict[str, Any], with_trainer: bool) -> None:
    apart = {} if with_trainer else {"trainer": None}  # a longer budget goes on with the same run
    if changed := run_folder.differences(there | apart, here | apart):
        changed.sort(key=lambda line: not line.startswith("method"))  # it brings other settings with it
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise FolderTaken(f"{out} holds another run: {'; '.join(changed[:3])}{more}")


def _over(stored: DictConfig, cfg: DictConfig, typed: list[str]) -> DictConfig:
    """The settings of a run that goes on, with its new budget where one is typed."""
    merged, new = over_checkpoint(stored, cfg, cfg.choices, typed), set(typed_keys(typed))
    replaced = new.union(BUDGET) if new & set(BUDGET) else new
    merged.typed = [old for old in stored.get("typed", []) if typed_keys([old])[0] not in replaced] + typed
    return merged
