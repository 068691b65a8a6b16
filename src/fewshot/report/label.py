"""Name runs by method and differing settings."""

from collections import Counter
from collections.abc import Sequence

from fewshot.files import printable
from fewshot.report.read_runs import Failure, Run

# Facts that a result states itself, so that a default and an override of the same value look the same.
_STATED = ("data", "split", "task", "seed", "bn")
_LONGEST = 60  # characters of a name or of a setting's value
_LONGEST_LABEL = 300


def by_setting(runs: Sequence[Run]) -> list[list[Run]]:
    """Group runs that differ only in seed.

    Runs of one seed stay apart.
    """
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        settings = {key: value for key, value in _settings(run).items() if key != "seed"}
        groups.setdefault((run.label, *sorted(settings.items())), []).append(run)
    return [
        part
        for same in groups.values()
        for part in (
            [sorted(same, key=lambda run: run.seed)]
            if len({run.seed for run in same}) == len(same)
            else [[run] for run in same]
        )
    ]


def labels(settings_of_runs: Sequence[Sequence[Run]], failures: Sequence[Failure] = ()) -> list[str]:
    """Label each setting and each failure.

    An example is ``maml 5w1s inner_lr=0.1``. Equal settings are told apart by their folders. A failure without
    overrides is known by its folder only.
    """
    runs: list[Run | Failure] = [*(seeds[0] for seeds in settings_of_runs), *failures]
    names = [_name(run) for run in runs]
    settings = [_settings(run) for run in runs]
    for seeds, setting in zip(settings_of_runs, settings, strict=False):
        if len(seeds) > 1:
            del setting["seed"]
    known = [setting for run, setting in zip(runs, settings, strict=True) if isinstance(run, Run) or run.overrides]
    shown = [key for key in dict.fromkeys(key for setting in known for key in setting) if _varies(key, known)]
    # The display name stands for the method, unless two methods go by one name.
    methods = {(name, setting.get("method")) for name, setting in zip(names, settings, strict=True)}
    if "method" in shown and len(methods) == len(set(names)):
        shown.remove("method")
    short = _short_keys(shown)
    texts = [
        printable(
            " ".join([name, *(_text(key, short[key], setting[key]) for key in shown if key in setting)]), _LONGEST_LABEL
        )
        for name, setting in zip(names, settings, strict=True)
    ]
    return _unique(texts, runs)


def _name(run: Run | Failure) -> str:
    return shortened(run.label if isinstance(run, Run) else _overridden(run).get("method", run.path.name))


def shortened(text: str) -> str:
    """Shorten a text to 60 printable characters."""
    return printable(text, _LONGEST)


def _settings(run: Run | Failure) -> dict[str, str]:
    """Return stated facts in order, then other overrides."""
    overrides = _overridden(run)
    if isinstance(run, Run):
        stated = {"data": run.data, "task": run.task, "seed": str(run.seed), "bn": run.bn}
        stated |= {"split": run.split} if run.split else {}
        overrides.setdefault("method", run.method)
    else:
        stated = {_end(key): value for key, value in overrides.items() if _end(key) in _STATED}
    others = {key: value for key, value in overrides.items() if _end(key) not in stated and key != "name"}
    return {key: stated[key] for key in _STATED if key in stated} | others


def _overridden(run: Run | Failure) -> dict[str, str]:
    parts = (override.lstrip("+~").partition("=") for override in run.overrides)
    return {key: value for key, _, value in parts}


def _varies(key: str, settings: list[dict[str, str]]) -> bool:
    values = {setting.get(key) for setting in settings}
    if key in _STATED:  # absent only where a failed run does not say
        values.discard(None)
    return len(values) > 1


def _short_keys(keys: list[str]) -> dict[str, str]:
    """Shorten ``method.inner_lr`` to ``inner_lr`` where unique."""
    ends = Counter(map(_end, keys))
    return {key: _end(key) if ends[_end(key)] == 1 else key for key in keys}


def _end(key: str) -> str:
    return key.rpartition(".")[2]


def _text(key: str, short: str, value: str) -> str:
    return shortened(value) if key in ("data", "task") else f"{shortened(short)}={shortened(value)}"


def _unique(texts: list[str], runs: Sequence[Run | Failure]) -> list[str]:
    counts = Counter(texts)
    folders = Counter((text, run.path.name) for text, run in zip(texts, runs, strict=True))
    return [
        text
        if counts[text] == 1
        else f"{text} ({printable(run.path.name if folders[text, run.path.name] == 1 else str(run.path))})"
        for text, run in zip(texts, runs, strict=True)
    ]
