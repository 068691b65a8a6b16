"""Put typed settings over stored settings."""

from collections.abc import Mapping, Sequence

from omegaconf import DictConfig, OmegaConf

from fewshot.errors import UserError

# Groups that make the network: a checkpoint has settled them.
_NETWORK = ("method", "backbone")
BUDGET = ("trainer.max_steps", "trainer.max_time")


def keys_of(overrides: Sequence[str]) -> list[str]:
    """Return the keys of command-line overrides.

    The keys name groups and values; ``+`` and ``~`` are removed.
    """
    return [override.split("=", 1)[0].lstrip("+~") for override in overrides]


def apply_typed_budget(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Let a typed budget replace the recipe's.

    Typed time alone drops the recipe's steps, typed steps alone its time.
    """
    keys = keys_of(overrides)
    if "trainer.max_time" in keys and "trainer.max_steps" not in keys:
        cfg.trainer.max_steps = -1
    elif "trainer.max_steps" in keys and "trainer.max_time" not in keys:
        cfg.trainer.max_time = None


def replace_typed(
    stored: DictConfig, composed: DictConfig, choices: Mapping[str, str], overrides: Sequence[str]
) -> DictConfig:
    """Replace stored settings by typed settings.

    Args:
        stored: the settings in the checkpoint, with its choices under ``choices``.
        composed: the settings of the command line by itself, from which typed values are taken.
        choices: the config chosen in each group by the command line.
        overrides: the command line.

    Raises:
        UserError: a typed method or network contradicts the checkpoint.
    """
    merged = stored.copy()
    OmegaConf.set_struct(merged, False)
    for key in ("cache_dir", "trust"):  # a checkpoint decides neither where to write nor whom to trust
        if key in composed:
            merged[key] = composed._get_node(key)
    keys = keys_of(overrides)
    groups = [key for key in keys if key in choices]
    for key in groups:
        _replace_group(merged, key, stored, composed, choices)
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


def _replace_group(
    merged: DictConfig, key: str, stored: DictConfig, composed: DictConfig, choices: Mapping[str, str]
) -> None:
    if key.split("@")[0] in _NETWORK:
        if stored.choices.get(key) != choices[key]:
            raise UserError(
                f"{key}={choices[key]} contradicts the checkpoint, which holds {key}={stored.choices.get(key)}: "
                f"leave {key} out, or name another checkpoint"
            )
        return
    if key in composed:
        merged[key] = composed._get_node(key)
    merged.choices[key] = choices[key]
