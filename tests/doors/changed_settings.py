"""Change the settings that a checkpoint stores."""

from collections.abc import Callable
from typing import Any

import yaml


def with_settings(**changes: object) -> Callable[[dict[str, Any]], None]:
    """Return a change that puts values under keys such as ``data__mean`` of the stored settings."""

    def change(content: dict[str, Any]) -> None:
        settings = yaml.safe_load(content["settings"])
        for keys, value in changes.items():
            *parents, last = keys.split("__")
            node = settings
            for key in parents:
                node = node.setdefault(key, {})
            node[last] = value
        content["settings"] = yaml.safe_dump(settings)

    return change
