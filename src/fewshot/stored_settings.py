"""Read a checkpoint's settings as plain data.

The size of the settings is bounded, and no object is built.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from fewshot.errors import UserError

Settings = dict[str, Any]
MAX_LENGTH = 200_000  # characters; the settings of a run have about 5,000
MAX_DEPTH = 20
MAX_NODES = 20_000  # also of what interpolations make of the settings
MAX_CHAIN = 20  # interpolations one after another
OUTPUT = "${hydra:runtime.output_dir}"
# What the project's own configs use. No other resolver, and no other variable of the environment.
_RESOLVERS = (
    r"now:[%\w :.-]+",
    r"hydra:runtime\.output_dir",
    r"oc\.env:FEWSHOT_(?:DATA|CACHE),[^${}\\]*",
)
_PATH = r"\.*[A-Za-z_][\w@]*(?:\.[\w@]+)*"
_REFERENCE = re.compile(rf"\$\{{({_PATH})\}}")
_ALLOWED = re.compile(rf"\$\{{(?:{_PATH}|{'|'.join(_RESOLVERS)})\}}")


def parse(text: Any) -> Settings:
    """Return the mapping in a YAML text.

    Interpolations are kept as text.

    Raises:
        UserError: the text is no mapping, is too large, or has an interpolation that is not allowed.
    """
    settings = _plain(text)
    if not isinstance(settings, dict):
        raise UserError("its settings are no mapping")
    _refuse_interpolations(settings)
    Resolver(settings).resolve(settings)
    return settings


def parse_list(text: str) -> list[str]:
    """Return the list of texts in a YAML text.

    Raises:
        UserError: the text is no list of texts, or is too large.
    """
    values = _plain(text)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise UserError("its settings are no list of texts")
    return values


def _plain(text: Any) -> Any:
    if not isinstance(text, str):
        raise UserError(f"its settings are {type(text).__name__}, not text")
    if len(text) > MAX_LENGTH:
        raise UserError(f"its settings have {len(text)} characters, more than {MAX_LENGTH}")
    try:
        _refuse_large(text)
        return yaml.load(text, get_yaml_loader())
    except UserError:
        raise
    except Exception as error:  # damaged text fails in many ways
        raise UserError(f"its settings are of another version, or damaged: no YAML ({_one_line(error)})") from error


def _refuse_large(text: str) -> None:
    """Refuse deep nesting, aliases and tags.

    The check comes before any object is made of the text.
    """
    depth = 0
    for count, event in enumerate(yaml.parse(text, yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
            raise UserError("its settings have YAML aliases or tags, which no run writes")
        if depth > MAX_DEPTH or count > MAX_NODES:
            raise UserError("its settings are nested or repeated more than those of any run")


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all values with their paths.

    A path is ``key.key``. The values are neither mappings nor lists.
    """
    if isinstance(node, Mapping | list):
        pairs = node.items() if isinstance(node, Mapping) else enumerate(node)
        for key, value in pairs:
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def _refuse_interpolations(settings: Settings) -> None:
    for path, value in leaves(settings):
        if not isinstance(value, str) or "${" not in value:
            continue
        if "${" in _ALLOWED.sub("", value) or "\\" in value:
            raise UserError(f"its settings have {path}: {value[:60]!r}, an interpolation that is not allowed")


class Resolver:
    """Replace references by their values.

    References look like ``${data.channels}`` or ``${..encoder.features}``. Resolvers such as ``${now:...}`` stay text.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made = 0

    def resolve(self, node: Any, path: tuple[str, ...] = (), chain: int = 0) -> Any:
        """Return a copy without references.

        ``node`` lies at ``path`` in the settings.

        Raises:
            UserError: a reference leads nowhere or to itself, or the copy is too large.
        """
        self._made += 1 + (len(node) // 100 if isinstance(node, str) else 0)
        if self._made > MAX_NODES or chain > MAX_CHAIN:
            raise UserError("its settings refer to themselves, or repeat one another without bound")
        if isinstance(node, dict):
            return {key: self.resolve(value, (*path, str(key)), chain) for key, value in node.items()}
        if isinstance(node, list):
            return [self.resolve(value, (*path, str(place)), chain) for place, value in enumerate(node)]
        if not isinstance(node, str) or "${" not in node:
            return node
        if whole := _REFERENCE.fullmatch(node):
            return self._follow(whole[1], path, chain)
        return _REFERENCE.sub(lambda match: str(self._follow(match[1], path, chain)), node)

    def _follow(self, reference: str, path: tuple[str, ...], chain: int) -> Any:
        name = reference.lstrip(".")
        dots = len(reference) - len(name)
        target = (*(path[:-dots] if dots else ()), *name.split("."))
        node: Any = self._settings
        for key in target:
            place = node if isinstance(node, dict) else {}
            if key not in place:
                raise UserError(f"its settings refer to {'.'.join(target)}, which they do not have")
            node = place[key]
            if isinstance(node, str) and _REFERENCE.fullmatch(node) and key != target[-1]:
                node = self.resolve(node, target, chain + 1)
        return self.resolve(node, target, chain + 1)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
