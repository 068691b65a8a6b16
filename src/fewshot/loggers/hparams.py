"""Arrange settings for dashboards."""

from collections.abc import Mapping
from typing import Any


def sortable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten the settings that sort and group runs.

    All settings but the choices also stand under ``settings``.
    """
    chosen = {group: choice for group, choice in settings.get("choices", {}).items() if choice is not None}
    task = {key: settings["task"][key] for key in ("ways", "shots", "queries", "meta_batch") if "task" in settings}
    others = {key: settings[key] for key in ("seed", "bn", "checkpoint", "weights") if key in settings}
    return chosen | task | others | {"settings": {key: node for key, node in settings.items() if key != "choices"}}
