"""Try impossible numbers in every setting of every recipe; nothing is trained."""

import sys
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

from settings_of import choosing, names, places, resolved_settings
from trial_kinds import EITHER, REFUSED, Trial, kind

# No number of any recipe may be one of these.
IMPOSSIBLE = (float("nan"), float("inf"), float("-inf"), "abc", "", "1e", True, {}, {"a": 1}, ["x"], [None], -(10**30))
# A few settings may be one of these.
DOUBTFUL = (None, -1, 0, 1.5, -0.5, 10**30, [], [0, 0], [1.5])
TYPED = ("nan", "inf", "-inf", "abc", "", "true", "{}", "[x]", "[null]", "-1000000000000", "'1'")


def recipes() -> list[tuple[str, ...]]:
    """Return the overrides that choose each recipe."""
    groups = ("method", "backbone", "experiment", "engine", "trainer")
    chosen = [(f"{group}={name}",) for group in groups for name in names(group)]
    return [*chosen, *map(choosing, names("data")), ("logger=[csv,tensorboard,wandb]",)]


def build(settings: dict[str, Any]) -> int:
    """Check settings and build the parts of a run from them; return the exit status."""
    from hydra.utils import instantiate

    from fewshot.command.check_settings import check_settings
    from fewshot.command.exit_status import explain

    try:
        check_settings(settings)
        instantiate(settings["method"])
        instantiate(settings["data"]["dataset"])
        instantiate(settings["trainer"] | {"logger": False})
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 1
    return 0


@kind
def number(random: Random, workshop: Path) -> Trial:
    """Put a wrong value in the place of a number."""
    recipe = random.choice(recipes())
    settings = deepcopy(resolved_settings(*recipe))
    path = random.choice(list(places(settings)))
    impossible = random.random() < 0.7
    value = random.choice(IMPOSSIBLE if impossible else DOUBTFUL)
    node: Any = settings
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    what = f"{' '.join(recipe)} {'.'.join(map(str, path))}={value}"
    return Trial(what, lambda: build(settings), REFUSED if impossible else EITHER)


@kind
def typed(random: Random, workshop: Path) -> Trial:
    """Type a wrong value on the command line."""
    settings = resolved_settings()
    groups = ("seed", "task", "trainer", "method", "backbone", "engine", "data")
    keys = [
        ".".join(path) for path in places({group: settings[group] for group in groups}) if "backbone" not in path[1:]
    ]
    override = f"{random.choice(keys)}={random.choice(TYPED)}"

    def command() -> int | None:
        from trials import run_py

        run_py(override, "name=typed", "figures=false")
        return 0

    return Trial(override, command)
