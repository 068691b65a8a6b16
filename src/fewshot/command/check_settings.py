"""Refuse settings that no run can use.

The settings are checked before anything runs. Types come from the constructors' own hints; ranges of numbers, which
hints cannot state, from ``RANGES``.
"""

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from hydra.utils import get_object, instantiate

from fewshot.command.ranges import ANY, RANGES, Range
from fewshot.data import EpisodeData, Task
from fewshot.data.arrays import MAX_NUMBERS
from fewshot.errors import UserError

_ROOT: dict[str, Any] = {
    "seed": int, "train": bool, "checkpoint": str | None, "resume": str | None, "weights": str | None,
    "bn": str | None, "name": str | float, "figures": bool, "data_dir": str, "cache_dir": str,
    "task": dict, "data": dict, "method": dict, "backbone": dict, "engine": dict, "trainer": dict,
    "logger": dict, "callbacks": dict, "pretrained": dict | None, "trust": list | str | None,
}  # fmt: skip
_NOTES = ("choices", "typed", "tuned", "train_task", "experiment")  # that a run makes itself
PRECISIONS = ("32-true", "bf16-mixed")


# Where a constructor's hint takes more than a run can.
_TIGHTER: dict[str, Any] = {
    "trainer.val_check_interval": int,
    "trainer.log_every_n_steps": int,
    "trainer.devices": int | list[int] | Literal["auto"],
    "trainer.max_time": Any,  # checked apart
    "data.std": float,
}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings that the constructors cannot take.

    The settings of the run must be resolved.

    Raises:
        UserError: names the key, its value and the values that it may have.
    """
    known = set(_ROOT) | set(_NOTES)
    if unknown := sorted(set(map(str, settings)) - known):
        raise UserError(f"{unknown[0]}: there is no such setting (python run.py --cfg job shows all)")
    _check_values(settings, "", _ROOT)
    # What others refer to comes first, so that a key is named as it is typed.
    _check_values(settings["task"], "task", _hints_of(Task))
    _refuse_unknown(settings["task"], "task", Task)
    Task(**settings["task"])
    _check_data(settings["data"])
    for group in ("backbone", "pretrained", "engine", "trainer", "method"):
        _check_node(settings.get(group) or {}, group)
    for group in ("logger", "callbacks"):
        for name, node in (settings.get(group) or {}).items():
            if not isinstance(node, Mapping) or "_target_" not in node:
                raise UserError(f"{group}.{name}={_typed(node)}: must be the settings of a class, with its _target_")
            _check_node(node, f"{group}.{name}")
    _check_trainer(settings["trainer"], trains=settings["train"])


def _check_data(data: Mapping[str, Any]) -> None:
    dataset = data.get("dataset") or {}
    hints = _hints_of(EpisodeData) | (_hints_of(get_object(dataset["_target_"])) if "_target_" in dataset else {})
    # As typed first, data.shares: most of data.dataset are copies of these.
    for keys in (set(data) - {"dataset"}, {"dataset"}):
        part = {key: value for key, value in data.items() if key in keys}
        _check_values(part, "data", {"image_size": int, "channels": int, **hints})
    _check_node(dataset, "data.dataset")
    channels, size = data.get("channels", 1), data.get("image_size", 1)
    if channels * size**2 > MAX_NUMBERS:
        raise UserError(f"data.channels={channels}, data.image_size={size}: at most {MAX_NUMBERS:,} numbers an image")
    if data.get("std") == 0:
        raise UserError("data.std=0: must not be 0, since pixels are divided by it")


def _check_trainer(trainer: Mapping[str, Any], trains: bool) -> None:
    precision, devices = trainer.get("precision", "32-true"), trainer.get("devices", 1)
    if precision not in PRECISIONS:
        raise UserError(f"trainer.precision={precision}: choose one of {', '.join(PRECISIONS)}")
    numbers = devices if isinstance(devices, list) else []
    if devices in (0, []) or min(numbers, default=0) < 0 or len(set(numbers)) < len(numbers):
        raise UserError(f"trainer.devices={devices}: must be a number of at least 1, -1 for all, or a list such as [0]")
    steps, time = trainer.get("max_steps", -1), trainer.get("max_time")
    if time is not None and not re.fullmatch(r"\d+(:\d\d){3}", str(time)):
        raise UserError(f"trainer.max_time={_typed(time)}: must be DD:HH:MM:SS, such as 00:00:20:00")
    if time is not None and not time.strip("0:"):
        raise UserError(f"trainer.max_time={time}: must be above 0 (train=false trains nothing)")
    if steps == 0:
        raise UserError("trainer.max_steps=0: must be at least 1 (train=false trains nothing)")
    if steps == -1 and time is None and trains:
        raise UserError(
            "training would never end: give it a budget, trainer.max_steps=5000 or trainer.max_time=00:00:20:00"
        )


def _check_node(node: Mapping[str, Any], where: str) -> None:
    """Check the arguments of a constructor, at all depths.

    ``_target_`` names the constructor.
    """
    target = node.get("_target_")
    if not isinstance(target, str):
        return _check_values(node, where, {})
    called = get_object(target)
    _check_values(node, where, _hints_of(called))
    _refuse_unknown(node, where, called)
    if isinstance(called, type) and issubclass(called, torch.optim.Optimizer):
        _try_optimizer(node, where)
    return None


def _check_values(node: Mapping[str, Any], where: str, hints: Mapping[str, Any]) -> None:
    order = list(hints)
    for key in sorted(map(str, node), key=lambda key: order.index(key) if key in hints else len(order)):
        value = node[key]
        full = f"{where}.{key}" if where else key
        hint = _TIGHTER.get(full, hints.get(key, Any))
        if not _fits(value, hint):
            name, wrong, wanted = _misfit(full, value, hint)
            raise UserError(f"{name}={_typed(wrong)}: must be {_describe(wanted, RANGES.get(key))}")
        if where and isinstance(value, Mapping):
            _check_node(value, full)
        for number in _numbers(value) if key in RANGES or not isinstance(value, Mapping) else ():
            if number not in RANGES.get(key, ANY):
                raise UserError(f"{full}={_typed(value)}: must be {_describe(hint, RANGES.get(key))}")


def _try_optimizer(node: Mapping[str, Any], where: str) -> None:
    """Let the optimiser itself refuse its settings."""
    try:
        make = instantiate(dict(node))
        make([torch.nn.Parameter(torch.zeros(1))])
    except Exception as error:  # each optimiser has exceptions of its own
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"{where}: {reason}") from error


def _refuse_unknown(node: Mapping[str, Any], where: str, called: Callable[..., Any]) -> None:
    """Refuse arguments that the constructor does not have."""
    accepted: set[str] = set()
    for function in _constructors(called):
        parameters = inspect.signature(function).parameters.values()
        accepted |= {parameter.name for parameter in parameters}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    else:
        return
    for key in map(str, node):
        if key not in accepted and not key.startswith("_"):
            raise UserError(f"{where}.{key}: {getattr(called, '__name__', called)} has no such setting")


def _constructors(called: Callable[..., Any]) -> Iterable[Callable[..., Any]]:
    """Return the functions that take the arguments.

    Base classes come last.
    """
    if not isinstance(called, type):
        return [called]
    return [vars(owner)["__init__"] for owner in called.__mro__[:-1] if "__init__" in vars(owner)]


@cache
def _hints_of(called: Callable[..., Any]) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    for function in reversed(list(_constructors(called))):
        try:
            hints |= get_type_hints(function)
        except (NameError, TypeError):  # names that exist for a type checker only
            continue
    return hints


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value fits a type hint.

    ``value`` is a value of YAML.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any or isinstance(hint, TypeVar | str):
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return any(value == part and type(value) is type(part) for part in parts)
    if hint in (None, type(None)):
        return value is None
    if value is None:
        return False
    if hint in (int, bool):
        return type(value) is hint
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint in (str, Path):
        return isinstance(value, str)
    if isinstance(value, Mapping):  # of another constructor, or of numbers by name
        kind = origin if isinstance(origin, type) else hint
        if isinstance(kind, type) and issubclass(kind, Sequence):
            return False
        numbers = isinstance(kind, type) and issubclass(kind, Mapping) and len(parts) == 2
        return "_target_" in value or not numbers or all(_fits(item, parts[1]) for item in value.values())
    if isinstance(value, list):
        return _list_fits(value, origin or hint, parts)
    return False


def _misfit(name: str, value: Any, hint: Any) -> tuple[str, Any, Any]:
    """Return the setting that is wrong, its value and its hint.

    In numbers by name the number is wrong, not all of these.
    """
    for part in get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,):
        kind, parts = get_origin(part), get_args(part)
        if isinstance(value, Mapping) and isinstance(kind, type) and issubclass(kind, Mapping) and len(parts) == 2:
            for key, item in value.items():
                if not _fits(item, parts[1]):
                    return f"{name}.{key}", item, parts[1]
    return name, value, hint


def _list_fits(value: list[Any], kind: Any, parts: tuple[Any, ...]) -> bool:
    if not (isinstance(kind, type) and issubclass(kind, Sequence | Iterable)) or issubclass(kind, str | Mapping):
        return False
    if kind is tuple and parts and parts[-1] is not Ellipsis:
        return len(value) == len(parts) and all(map(_fits, value, parts))
    return all(_fits(item, parts[0]) for item in value) if parts else True


def _numbers(value: Any) -> Iterable[float]:
    """Return all numbers in a value."""
    if isinstance(value, Mapping | list):
        items = value.values() if isinstance(value, Mapping) else value
        return [number for item in items for number in _numbers(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def _typed(value: Any) -> str:
    """Return a value as one types it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value).replace("'", "") if isinstance(value, list | Mapping) else str(value)


def _describe(hint: Any, limits: Range | None) -> str:
    """Return what a value must be, in words."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return ", or ".join(dict.fromkeys(word for part in parts if (word := _word(part, limits or ANY))))


def _word(hint: Any, limits: Range) -> str:
    if hint in (None, type(None)):
        return "null"
    if hint is int:
        return f"a whole number{limits}"
    if hint is float or hint is Any:
        return f"a number{limits}"
    if hint is bool:
        return "true or false"
    if hint in (str, Path):
        return "a text"
    if get_origin(hint) is Literal:
        return ", ".join(str(part) for part in get_args(hint))
    kind = get_origin(hint) or hint
    if kind is torch.Tensor:
        return ""
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "a mapping {KEY: VALUE}"
    if isinstance(kind, type) and issubclass(kind, Sequence | tuple):
        inner = typing.get_args(hint)
        count = f"{len(inner)} " if kind is tuple and inner and Ellipsis not in inner else ""
        return f"a list of {count}numbers{limits}" if inner and inner[0] is not str else "a list of texts"
    return f"the settings of a {getattr(kind, '__name__', kind)}"
