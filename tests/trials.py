"""Try damaged, hostile and impossible input at random, and count what does not end in one line.

python tests/trials.py [NUMBER [SEED [KIND]]]      # 600 trials of all kinds; KIND is the beginning of a kind's name

Each trial runs in a process of its own with limits of time and memory. A trial is right when the command refuses
with one line and exit status 1, or succeeds, whichever is right for the input, and says what its kind expects. The
modules of ``trial_kinds`` take turns, and so do the kinds of a module. Exit status 1 of this script: some trial was
wrong.
"""

import importlib
import os
import pkgutil
import re
import resource
import runpy
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
for folder in ("src", "tests", "."):
    sys.path.insert(0, str(ROOT / folder))

import trial_kinds  # noqa: E402
from trial_kinds import ACCEPTED, KINDS, WRONG, Trial  # noqa: E402

SECONDS = 60
MEMORY = 3 * 2**30  # bytes, beside what the libraries take
SMALL = (
    "trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1", "task.test_episodes=2",
    "task.val_episodes=2", "task.meta_batch=1", "task.queries=1", "task.train_queries=1", "figures=false",
    "backbone.width=4", "data=gaussians", "backbone=mlp", "backbone.widths=[4]", "task.train_ways=5",
)  # fmt: skip


def run_py(*arguments: str) -> None:
    """Call ``run.py`` with ``arguments``, in this process."""
    sys.argv = [str(ROOT / "run.py"), *arguments]
    runpy.run_path(str(ROOT / "run.py"), run_name="__main__")


def load_kinds() -> None:
    """Import every module of ``trial_kinds``, each of which registers its kinds."""
    for module in pkgutil.iter_modules(trial_kinds.__path__):
        importlib.import_module(f"trial_kinds.{module.name}")


@contextmanager
def workshop() -> Iterator[Path]:
    """Yield a folder with a small finished run in ``run``."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "try").mkdir()
        small = [setting for setting in SMALL if not setting.startswith("backbone.width=")]
        trial = Trial("a run", lambda: run_py(*small, "name=run", f"hydra.run.dir={folder}/run"), ACCEPTED)
        outcome, text = attempt(trial, folder)
        assert outcome == "accepted", text
        yield folder


def attempt(trial: Trial, folder: Path) -> tuple[str, str]:
    """Run a trial in a process of its own; its outcome, and what it printed.

    Outcomes are ``refused`` and ``accepted``, and the wrong ones ``silent`` (accepted what must be refused),
    ``strict`` (refused what is right), ``result`` (another result than expected), ``unsaid`` (a line is missing),
    ``talk`` (lines that nothing calls for), ``escape`` (an escape sequence reaches the terminal), ``traceback``,
    ``hang``, ``memory``, ``lines`` (an error that is not one line) and ``signal``.
    """
    printed = folder / "printed.txt"
    started = time.monotonic()
    child = os.fork()
    if not child:
        _in_child(trial, folder, printed)
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() - started > SECONDS:
            os.killpg(child, signal.SIGKILL)
            os.wait4(child, 0)
            return "hang", printed.read_text(errors="replace")
        time.sleep(0.005)
    text = printed.read_text(errors="replace")
    return _outcome(trial, os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024, text), text


def _in_child(trial: Trial, folder: Path, printed: Path) -> None:
    os.setsid()  # with all that it starts, so that a hang can be ended whole
    with printed.open("w") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    os.chdir(folder / "try" if (folder / "try").is_dir() else folder)
    os.environ.setdefault("FEWSHOT_CACHE", str(folder / "cache"))
    code: object = 1
    try:
        code = trial.command()
    except SystemExit as stop:
        code = stop.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1 if code else 0)


def _outcome(trial: Trial, status: int, memory: int, text: str) -> str:
    if "Traceback (most recent call last)" in text or "MemoryError" in text:
        return "memory" if "MemoryError" in text else "traceback"
    if memory > MEMORY:
        return "memory"
    if status < 0:
        return "signal"
    if "\x1b" in text or "\x07" in text:
        return "escape"
    if status == WRONG:
        return "result"
    errors = [line for line in text.splitlines() if line.startswith(("error: ", "Error: "))]
    if status != 0 and (status != 1 or len(errors) != 1):
        return "lines"
    outcome = "refused" if status else "accepted"
    if outcome not in trial.right:
        return "strict" if status else "silent"
    if any(not re.search(pattern, text) for pattern in trial.says):
        return "unsaid"
    if trial.quiet and len(text.splitlines()) != len(errors):
        return "talk"
    return outcome


RIGHT = ("refused", "accepted")


def run_trials(number: int, seed: int, beginning: str = "") -> list[tuple[str, str, str, str]]:
    """Run ``number`` trials, kinds in turn; return kind, outcome, what and text of the wrong ones, after printing."""
    load_kinds()
    doors: dict[str, list[str]] = {}
    for name in sorted(KINDS):
        if name.startswith(beginning):
            doors.setdefault(name.partition(".")[0], []).append(name)
    assert doors, f"no kind begins with {beginning!r}"
    counts: Counter[tuple[str, str]] = Counter()
    wrong = []
    with workshop() as folder:
        for place in range(number):
            kinds = list(doors.values())[place % len(doors)]
            name = kinds[place // len(doors) % len(kinds)]
            trial = KINDS[name](Random(f"{seed}/{place}"), folder)
            outcome, text = attempt(trial, folder)
            counts[name, outcome] += 1
            if outcome not in RIGHT:
                wrong.append((name, outcome, trial.what, text))
                print(f"{name} {place}: {outcome}: {trial.what}\n{text[-1500:]}", flush=True)
    for name in [name for kinds in doors.values() for name in kinds]:
        print(name, *(f"{outcome} {count}" for (of, outcome), count in sorted(counts.items()) if of == name), sep="  ")
    return wrong


def main(arguments: Sequence[str]) -> int:
    """Run the script; its exit status."""
    number = int(arguments[0]) if arguments else 600
    seed = int(arguments[1]) if len(arguments) > 1 else 0
    wrong = run_trials(number, seed, arguments[2] if len(arguments) > 2 else "")
    print(f"{number} trials, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
