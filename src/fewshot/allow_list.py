"""Build only the allowed objects of stored settings.

Allowed are public names of this project, Lightning's ``Trainer``, and optimisers and initialisers of PyTorch.
"""

import importlib
import inspect
import math
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Any

from fewshot.errors import UserError
from fewshot.stored_settings import OUTPUT, Resolver, Settings, leaves

# The packages whose classes and functions a run's settings name.
_OWN = ("methods", "networks", "engines", "schedule", "augment", "data", "loggers", "callbacks", "distributed")
_OTHERS = frozenset(
    [
        "pytorch_lightning.Trainer",
        *(f"torch.optim.{name}" for name in ("Adam", "AdamW", "SGD", "RMSprop", "NAdam", "RAdam", "Adagrad")),
        *(f"torch.nn.init.{name}_" for name in ("zeros", "normal", "trunc_normal", "uniform", "orthogonal")),
        *(f"torch.nn.init.{kind}_{law}_" for kind in ("xavier", "kaiming") for law in ("uniform", "normal")),
    ]
)
# What each part of the settings builds.
_NETWORKS = ("methods", "networks", "engines", "schedule", "augment", "torch")
_PACKAGES = {
    "data": ("data",),
    "logger": ("loggers",),
    "callbacks": ("callbacks",),
    "trainer": ("pytorch_lightning", "distributed"),
    "method": _NETWORKS,
    "backbone": _NETWORKS,
    "engine": _NETWORKS,
}
_SPECIAL = ("_target_", "_partial_")
_WRITES = ("save_dir", "folder", "dirpath", "default_root_dir", "cache_dir")  # settings that name places to write
MAX_IMAGE_SIZE = 2048
MAX_CHANNELS = 65_536  # features have as many channels
MAX_NUMBERS = 64 * MAX_IMAGE_SIZE**2  # of one image
MAX_NUMBER = 10**6  # in the settings of a method


def targets(settings: Mapping[str, Any]) -> set[str]:
    """Return all names after ``_target_``."""
    return {str(value) for path, value in leaves(settings) if path.rpartition(".")[2] == "_target_"}


def refuse_foreign_targets(settings: Settings, trusted: Collection[str] = ()) -> None:
    """Refuse stored settings that could do harm.

    Settings may not build foreign or misplaced objects, write outside the run's folder, or contain impossible values.

    Args:
        settings: as they were stored.
        trusted: further names that the user's own command or configs build.

    Raises:
        UserError: the first name or value that is refused.
    """
    _refuse_other_shapes(settings)
    for path, node in _mappings(settings):
        for key in node:
            if isinstance(key, str) and key.startswith("_") and key.endswith("_") and key not in _SPECIAL:
                raise UserError(f"its settings have {path}.{key}, which no run writes")
        target = node.get("_target_", "fewshot.schedule.constant")
        if not (is_own(target) or (isinstance(target, str) and target in trusted)):
            raise UserError(
                f"its settings build {_short(target)} ({path}), which is not of this project: nothing was built; "
                f"if you trust it, give trust=[{_short(target)}]"
            )
        if not isinstance(node.get("_partial_", False), bool):
            raise UserError(f"its settings have {path}._partial_={_short(node['_partial_'])}: must be true or false")
    _refuse_misplaced(settings, trusted)
    _refuse_other_places(settings, trusted)
    _refuse_impossible_images(settings)
    _refuse_impossible_numbers(settings)


def _mappings(node: Any, path: str = "") -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield all mappings with their paths, outermost first.

    A path is ``key.key``.
    """
    if isinstance(node, Mapping):
        yield path, node
    if isinstance(node, Mapping | list):
        pairs = node.items() if isinstance(node, Mapping) else enumerate(node)
        for key, value in pairs:
            yield from _mappings(value, f"{path}.{key}" if path else str(key))


def _refuse_misplaced(settings: Settings, trusted: Collection[str]) -> None:
    """Refuse objects in the wrong part of settings.

    Each part builds its own kind: the data set may not be a logger.
    """
    resolver = Resolver(settings)
    for part, packages in _PACKAGES.items():
        for path, node in _mappings(resolver.resolve(settings.get(part), (part,)), part):
            target = node.get("_target_")
            if target is None or (target in trusted and not is_own(target)):
                continue
            first, second, *_ = f"{target}.".split(".")
            if (second if first == "fewshot" else first) not in packages:
                raise UserError(f"its settings build {_short(target)} ({path}), which has no place there")


def _refuse_other_places(settings: Settings, trusted: Collection[str]) -> None:
    resolved = Resolver(settings).resolve({key: settings.get(key) for key in ("callbacks", "logger", "data")})
    for path, value in leaves(resolved):
        *parents, key = path.split(".")
        if not isinstance(value, str):
            continue
        stored = _at(settings, [*parents, key])
        if key == "cache_dir":
            inside = stored == "${cache_dir}"
        elif key in _WRITES and parents[0] != "data":
            inside = value.startswith(OUTPUT) and ".." not in value
        else:
            inside = parents[0] == "data" or not (".." in value or value.startswith(("/", "~", "\\")))
        if not inside and not _trusted_at(settings, parents, trusted):
            raise UserError(f"its settings write to {_short(value)} ({path}), outside of the run's folder")


def _at(settings: Any, keys: list[str]) -> Any:
    for key in keys:
        settings = settings[int(key)] if isinstance(settings, list) else settings.get(key)
        if not isinstance(settings, dict | list):
            break
    return settings


def _trusted_at(settings: Settings, keys: list[str], trusted: Collection[str]) -> bool:
    node = _at(settings, keys)
    target = node.get("_target_") if isinstance(node, dict) else None
    return isinstance(target, str) and target in trusted and not is_own(target)


def _refuse_other_shapes(settings: Settings) -> None:
    """Refuse parts of settings of the wrong type.

    Runs write each part as a mapping, and ``typed`` as a list of texts.
    """
    for part in ("task", "data", "backbone", "engine", "trainer", "logger", "method", "callbacks", "choices"):
        if not isinstance(settings.get(part, {}), dict):
            raise UserError(f"its settings have {part}={_short(settings[part])}: must be a mapping")
    typed = settings.get("typed", [])
    if not isinstance(typed, list) or not all(isinstance(override, str) for override in typed):
        raise UserError("its settings have no list of texts under typed")


def _refuse_impossible_images(settings: Settings) -> None:
    data = Resolver(settings).resolve(settings.get("data"), ("data",))
    if not isinstance(data, dict):
        raise UserError("its settings have no data")
    for key, least, most in (("channels", 1, MAX_CHANNELS), ("image_size", 1, MAX_IMAGE_SIZE)):
        value = data.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            wanted = f"a whole number from {least} to {most}"
            raise UserError(f"its settings have data.{key}={_short(value)}: must be {wanted}")
    if (numbers := data["channels"] * data["image_size"] ** 2) > MAX_NUMBERS:
        raise UserError(f"its settings have images of {numbers} numbers: at most {MAX_NUMBERS} are allowed")
    if not isinstance(data.get("pixels", True), bool):
        raise UserError(f"its settings have data.pixels={_short(data['pixels'])}: must be true or false")
    for key in ("mean", "std"):
        value = data.get(key)
        number = float("nan") if isinstance(value, bool) or not isinstance(value, int | float) else value
        if not math.isfinite(number) or (key == "std" and number == 0):
            wanted = "a finite number other than 0" if key == "std" else "a finite number"
            raise UserError(f"its settings have data.{key}={_short(value)}: must be {wanted}")


def _refuse_impossible_numbers(settings: Settings) -> None:
    """Refuse method settings with numbers that are too large.

    A constructor may make as many layers as a number says.
    """
    for path, value in leaves(Resolver(settings).resolve(settings.get("method"), ("method",)), "method"):
        if isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:
            raise UserError(f"its settings have {path}={_short(value)}: must be a number of at most {MAX_NUMBER}")


def build(node: Any, trusted: Collection[str] = ()) -> Any:
    """Build the objects that resolved settings describe.

    A mapping with ``_target_`` becomes the object that its target makes.

    Raises:
        UserError: a target is neither on the allow list nor trusted.
    """
    if isinstance(node, list):
        return [build(value, trusted) for value in node]
    if not isinstance(node, Mapping):
        return node
    arguments = {key: build(value, trusted) for key, value in node.items() if key not in _SPECIAL}
    if "_target_" not in node:
        return arguments
    target = node["_target_"]
    if not (is_own(target) or (isinstance(target, str) and target in trusted)):
        raise UserError(f"{_short(target)} is not of this project")
    function = _locate(target)
    return partial(function, **arguments) if node.get("_partial_") else function(**arguments)


def is_own(target: Any) -> bool:
    """Return whether ``target`` is on the allow list.

    Names of this project must be public.
    """
    if not isinstance(target, str):
        return False
    if target in _OTHERS:
        return True
    project, *parts = target.split(".")
    if project != "fewshot" or len(parts) not in (2, 3) or parts[0] not in _OWN:
        return False
    if not all(part.isidentifier() and not part.startswith("_") for part in parts):
        return False
    try:
        found = _locate(target)
    except (ImportError, AttributeError):
        return False
    return (inspect.isclass(found) or inspect.isfunction(found)) and _is_part(found, parts[0])


def _is_part(found: Any, package: str) -> bool:
    """Return whether settings may name this object.

    The object must be defined in ``package`` and be of the kind that settings use from there.
    """
    home = getattr(found, "__module__", "")
    if home != f"fewshot.{package}" and not home.startswith(f"fewshot.{package}."):
        return False
    if package == "data":
        return inspect.isclass(found) and hasattr(found, "load")
    if package in ("loggers", "callbacks", "distributed", "engines"):
        return inspect.isclass(found)
    return True


def _locate(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _short(value: Any) -> str:
    return repr(value)[:80].strip("'")
