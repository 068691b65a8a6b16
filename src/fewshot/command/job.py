"""Turn a command line into a job.

The settings of a job no longer need Hydra.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError

from fewshot import allow_list, checkpoint, distributed
from fewshot.command import run_folder
from fewshot.command.array_shape import fill_array_shape
from fewshot.command.check_settings import check_settings
from fewshot.command.paths import expand_folders, expand_paths
from fewshot.command.pretrained_data import forget_weights
from fewshot.command.settings import BUDGET, apply_typed_budget, keys_of, replace_typed
from fewshot.errors import FolderTaken, UserError
from fewshot.files import write_bytes
from fewshot.stored_settings import leaves

log = logging.getLogger(__name__)
# What the settings in a checkpoint must have for a run.
_PARTS = ("seed", "task", "data", "backbone", "engine", "trainer", "logger", "method", "callbacks", "choices")


@dataclass(frozen=True)
class Job:
    """Hold all that one run needs.

    Attributes:
        settings: the composed and resolved settings.
        stored: the same before interpolations were resolved, as YAML for the checkpoints.
        overrides: the command line that the run began with.
        out: its folder.
        resume: the checkpoint that it goes on from.
        commit: of the code.
    """

    settings: dict[str, Any]
    stored: str
    overrides: list[str]
    out: str
    resume: str | None
    commit: str | None

    @property
    def cfg(self) -> DictConfig:
        """Return a changeable copy of ``settings``."""
        return OmegaConf.create(self.settings)

    def write(self, file: Path) -> None:
        """Write the job to ``file``, for another process."""
        write_bytes(file, yaml.safe_dump(asdict(self), sort_keys=False).encode())

    @staticmethod
    def read(file: str | Path) -> "Job":
        """Read a job that ``write`` wrote."""
        return Job(**yaml.safe_load(Path(file).read_text(encoding="utf-8")))


def prepare(cfg: DictConfig, out: Path, commit: str | None) -> Job | None:
    """Return the job of a command line.

    None if ``out`` holds the result of this job already.

    Raises:
        UserError: the settings contradict a checkpoint or one another.
        FolderTaken: ``out`` holds another run.
    """
    _note_command_line(cfg)
    overrides = list(cfg.typed)
    _refuse_contradictions(cfg)
    resume = _resume_from(cfg)
    resumed = _find_checkpoint(resume, out, trusted_targets(cfg))
    stored = run_folder.read(out) if resume == "auto" else None
    if resumed and resume != "auto":
        cfg, stored = _continue_settings(cfg, resumed)
    if stored is not None and _is_finished(cfg, out, stored):
        return None
    if resumed:
        _refuse_fewer_steps(cfg, resumed)
        _refuse_lost_best(cfg, out, resumed)
    else:
        run_folder.write(out, cfg)  # before the checks: the report names the settings of a run that failed
    composed = _start_from_checkpoint(cfg, overrides) if cfg.checkpoint and resume in (None, "auto") else cfg
    job = _make_job(composed, out, resumed, commit)
    if resumed:
        run_folder.write(out, cfg)
    return job


def _note_command_line(cfg: DictConfig) -> None:
    """Note the overrides and choices of groups in ``cfg``.

    Typed paths are completed.
    """
    hydra_cfg = HydraConfig.get()
    OmegaConf.set_struct(cfg, False)
    cfg.typed = [override for override in hydra_cfg.overrides.task if keys_of([override]) != ["resume"]]
    cfg.choices = {name: choice for name, choice in hydra_cfg.runtime.choices.items() if not name.startswith("hydra")}
    expand_paths(cfg)


def trusted_targets(cfg: DictConfig | dict[str, Any]) -> set[str]:
    """Return the names that a checkpoint may build.

    These are the names that the user's own command and configs build, and the names in ``trust``.
    """
    settings: Any = OmegaConf.to_container(cfg) if isinstance(cfg, DictConfig) else cfg
    trust = settings.get("trust") or []
    named = trust if isinstance(trust, list) else [trust]
    return allow_list.targets(settings) | {str(name) for name in named}


def _is_sweep() -> bool:
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def _resume_from(cfg: DictConfig) -> str | None:
    """Return the setting ``resume``.

    A sweep resumes each of its runs (``auto``).
    """
    return cfg.resume or ("auto" if _is_sweep() else None)


def _refuse_contradictions(cfg: DictConfig) -> None:
    """Refuse settings that contradict each other.

    These settings concern the weights or the folder of the run.
    """
    typed = keys_of(cfg.typed)
    sweep = _is_sweep()
    named = run_folder.is_named(cfg, HydraConfig.get().overrides.hydra)
    if {"checkpoint", "weights"} <= set(typed) and cfg.checkpoint and cfg.weights:
        raise UserError("checkpoint=PATH brings its own weights: leave weights=PATH out")
    if distributed.started_by_launcher() and not named:
        raise UserError("several processes share one folder: give it a name=...")
    if cfg.resume == "auto" and not named and not sweep:
        raise UserError("resume=auto goes on with the run in its own folder: give it a name=...")
    if cfg.resume not in (None, "auto") and (sweep or "name" in typed):
        raise UserError(f"resume={cfg.resume} goes on in its own folder: leave {'-m' if sweep else 'name'} out")


def _find_checkpoint(resume: str | None, out: Path, trusted: Collection[str]) -> Path | None:
    """Return the checkpoint to resume from.

    None for a run that begins.

    Raises:
        FolderTaken: ``out`` holds a run, and nothing says to go on with it.
        UserError: a named run has no checkpoint.
    """
    if resume is None:
        _refuse_a_second_run(out)
        return None
    found = checkpoint.newest(out / "checkpoints", resume, trusted)
    if found is None and resume != "auto":
        raise UserError(f"resume={resume}: no checkpoint there")
    return found


def _continue_settings(cfg: DictConfig, resumed: Path) -> tuple[DictConfig, dict[str, Any]]:
    """Return a resumed run's settings and stored identity."""
    stored = OmegaConf.create(checkpoint.read(resumed, "resume", trusted_targets(cfg))["settings"])
    with _complete_settings(stored, "resume", resumed):
        merged = replace_typed(stored, cfg, cfg.choices, cfg.typed)
        new = set(keys_of(cfg.typed))
        replaced = new.union(BUDGET) if new & set(BUDGET) else new
        merged.typed = [old for old in stored.get("typed", []) if keys_of([old])[0] not in replaced] + list(cfg.typed)
        return merged, run_folder.identity(stored, stored.get("typed", []))


@contextmanager
def _complete_settings(stored: DictConfig, key: str, path: str | Path) -> Iterator[None]:
    """Blame a checkpoint whose settings lack a part, or fail in this context.

    Raises:
        UserError: the settings are of another version, or damaged.
    """
    if missing := [part for part in _PARTS if part not in stored]:
        raise UserError(f"{key}={path}: its settings have no {missing[0]}")
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damaged settings fail in many ways
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{key}={path}: its settings are of another version ({reason})") from error


def _is_finished(cfg: DictConfig, out: Path, stored: dict[str, Any]) -> bool:
    """Return whether ``out`` holds the result.

    The result must be of the settings in ``cfg``.

    Raises:
        FolderTaken: ``out`` holds another run.
    """
    wanted = run_folder.identity(cfg, cfg.typed)
    if not _is_sweep() and "data.root" in keys_of(cfg.typed) and run_folder.knows_its_classes(out):
        stored, wanted = run_folder.without_root(stored), run_folder.without_root(wanted)  # the images may have moved
    _refuse_another_run(out, stored, wanted, with_trainer=_is_sweep())
    return stored == wanted and (out / "result.json").is_file()


def _refuse_a_second_run(out: Path) -> None:
    finished = (out / "result.json").is_file()
    if finished or any((out / "checkpoints").glob("*.ckpt")):
        raise FolderTaken(
            f"{out} holds {'a finished' if finished else 'an unfinished'} run: resume=auto goes on with it, "
            "another name=... begins a new one"
        )


def _refuse_another_run(out: Path, stored: dict[str, Any], wanted: dict[str, Any], with_trainer: bool) -> None:
    ignored = {} if with_trainer else {"trainer": None}  # a longer budget goes on with the same run
    if changed := run_folder.differences(stored | ignored, wanted | ignored):
        changed.sort(key=lambda line: not line.startswith("method"))  # it brings other settings with it
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise FolderTaken(f"{out} holds another run: {'; '.join(changed[:3])}{more}")


def _refuse_fewer_steps(cfg: DictConfig, resumed: Path) -> None:
    steps = run_folder.identity(cfg, cfg.typed)["trainer"]["max_steps"]
    taken = checkpoint.read(resumed, "resume", trusted_targets(cfg))["global_step"]
    if isinstance(steps, int) and 0 < steps < taken:
        raise FolderTaken(f"trainer.max_steps={steps}: {resumed} has taken {taken} already")
    log.info("going on from step %d (%s)", taken, resumed)


def _refuse_lost_best(cfg: DictConfig, out: Path, resumed: Path) -> None:
    """Refuse to resume without readable best weights."""
    states = checkpoint.read(resumed, "resume", trusted_targets(cfg))["callbacks"].values()
    if not any(state.get("monitor") and state.get("best_model_path") for state in states):
        return
    try:
        checkpoint.read(out / "checkpoints" / "best.ckpt", "best weights", trusted_targets(cfg))
    except UserError as error:
        raise UserError(
            f"{error}: the run would have nothing to score at its end; put the file back, or begin a new run from the "
            f"last weights with checkpoint={resumed} name=..."
        ) from error


def _start_from_checkpoint(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Return a checkpoint's settings, changed by typed values.

    ``cfg`` names the checkpoint.
    """
    stored = OmegaConf.create(checkpoint.read(cfg.checkpoint, trusted=trusted_targets(cfg))["settings"])
    with _complete_settings(stored, "checkpoint", cfg.checkpoint):
        merged = replace_typed(stored, cfg, cfg.choices, overrides)
    merged.typed = list(overrides)
    return merged


def _make_job(cfg: DictConfig, out: Path, resumed: Path | None, commit: str | None) -> Job:
    """Resolve the settings and check them."""
    cfg = cfg.copy()
    apply_typed_budget(cfg, cfg.typed)
    fill_array_shape(cfg)
    stored = OmegaConf.to_yaml(cfg)
    if resumed or cfg.checkpoint:
        forget_weights(cfg)
    expand_folders(cfg)
    _resolve(cfg)
    settings: Any = OmegaConf.to_container(cfg)
    check_settings(settings)
    _refuse_other_weights(settings, resumed)
    return Job(settings, stored, list(cfg.typed), str(out), str(resumed) if resumed else None, commit)


def _resolve(cfg: DictConfig) -> None:
    """Replace references by their values.

    Raises:
        UserError: a setting refers to one that the chosen groups do not have.
    """
    try:
        OmegaConf.resolve(cfg)
    except InterpolationKeyError as error:
        wanted = str(error).partition("'")[2].partition("'")[0]
        group = wanted.partition(".")[0]
        settings: Any = OmegaConf.to_container(cfg, resolve=False)
        key = next((path for path, value in leaves(settings) if value == f"${{{wanted}}}"), "a setting")
        raise UserError(
            f"{key} follows {wanted}, which {group}={cfg.choices.get(group)} does not have: "
            f"type {key}=VALUE, or choose another {group}"
        ) from error


def _refuse_other_weights(settings: dict[str, Any], resumed: Path | None) -> None:
    """Refuse the weights of another network.

    The check comes before memory is taken for the network of ``settings``.
    """
    trusted = trusted_targets(settings)
    if source := resumed or settings.get("checkpoint"):
        key = "resume" if resumed else "checkpoint"
        content = checkpoint.read(source, key, trusted)
        checkpoint.refuse_other_settings(settings["method"], content, source, key)
    elif settings.get("weights"):
        checkpoint.read(settings["weights"], "weights", trusted)
