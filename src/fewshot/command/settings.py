"""The settings of a run: what was typed, over what its checkpoint says, over the defaults."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from fewshot.errors import UserError

# Groups that make the network: a checkpoint has settled them.
_NETWORK = ("method", "backbone")
BUDGET = ("trainer.max_steps", "trainer.max_time")


def typed_keys(overrides: Sequence[str]) -> list[str]:
    """The keys of command-line overrides: groups and values, without ``+`` and ``~``."""
    return [override.split("=", 1)[0].lstrip("+~") for override in overrides]


def with_typed_budget(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Let a typed budget replace the recipe's: ``trainer.max_time`` alone drops its steps, and the other way round."""
    keys = typed_keys(overrides)
    if "trainer.max_time" in keys and "trainer.max_steps" not in keys:
        cfg.trainer.max_steps = -1
    elif "trainer.max_steps" in keys and "trainer.max_time" not in keys:
        cfg.trainer.max_time = None


def refuse_words_for_numbers(node: DictConfig, where: str) -> None:
    """Check, before anything runs, that no text stands where the constructor named by ``_target_`` takes none.

    Raises:
        UserError: the key, its value and what it should be.
    """
    hints: dict[str, Any] = {}
    if target := node.get("_target_"):
        called = get_object(target)
        for owner in reversed(called.__mro__) if isinstance(called, type) else ():
            hints |= get_type_hints(vars(owner)["__init__"]) if "__init__" in vars(owner) else {}
        hints = hints or get_type_hints(called)
    for key, value in ((str(key), value) for key, value in node.items()):
        if OmegaConf.is_dict(value):
            refuse_words_for_numbers(value, f"{where}.{key}")
        elif isinstance(value, str) and key in hints and not _takes_text(hints[key]):
            raise UserError(f"{where}.{key}={value}: must be {getattr(hints[key], '__name__', hints[key])}")


def _takes_text(hint: Any) -> bool:
    return hint in (str, Any) or isinstance(hint, str) or any(_takes_text(part) for part in get_args(hint))


def over_checkpoint(
    stored: DictConfig, composed: DictConfig, choices: Mapping[str, str], overrides: Sequence[str]
) -> DictConfig:
    """``stored`` settings with what was typed put over them.

    Args:
        stored: the settings in the checkpoint, with its choices under ``choices``.
        composed: what the command line composes by itself, from which typed values are taken.
        choices: the config chosen in each group by the command line.
        overrides: the command line.

    Raises:
        UserError: a typed method or network contradicts the checkpoint.
    """
    merged = stored.copy()
    OmegaConf.set_struct(merged, False)
    keys = typed_keys(overrides)
    groups = [key for key in keys if key in choices]
    for key in groups:
        if key.split("@")[0] in _NETWORK:
            if stored.choices.get(key) != choices[key]:
                raise UserError(
                    f"{key}={choices[key]} contradicts the checkpoint, which holds {key}={stored.choices.get(key)}: "
                    f"leave {key} out, or name another checkpoint"
                )
            continue
        if key in composed:
            merged[key] = composed._get_node(key)
        merged.choices[key] = choices[key]
    if "task" in groups:
        # The rest of the node, train_*, was composed for another method.
        for name in stored.task:
            if name.startswith("train_") or name == "meta_batch":
                merged.task[name] = stored.task._get_node(name)
    if "trainer" in groups:  # other devices, the same budget
        for name in ("max_steps", "max_time", "val_check_interval", "log_every_n_steps"):
            merged.trainer[name] = stored.trainer[name]
    for key in (key for key in keys if key not in choices and not key.startswith("hydra.")):
        value = OmegaConf.select(composed, key)
        before = OmegaConf.select(stored, key)
        if key.split(".")[0] == "backbone" and before != value:
            raise UserError(f"{key}={value} contradicts the checkpoint, whose network has {key}={before}")
        OmegaConf.update(merged, key, value)
    return merged
