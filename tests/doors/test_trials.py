"""A sample of the random trials; ``python tests/trials.py`` does hundreds."""

import subprocess
import sys
from pathlib import Path

TRIALS = Path(__file__).parents[1] / "trials.py"


def test_a_sample_of_trials_ends_in_one_line_each() -> None:
    done = subprocess.run([sys.executable, str(TRIALS), "20", "3"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 trials, 0 wrong" in done.stdout


def test_a_wrong_end_is_noticed(tmp_path: Path) -> None:
    """Each way to go wrong is counted as such: the script cannot pass by looking away."""
    code = r"""
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import trials
from trial_kinds import Trial
trials.SECONDS = 2
def fail(): raise KeyError("x")
def hang(): time.sleep(60)
def eat(): return len(bytearray(10 * 2**30))
def refuse(): print("error: one line", file=sys.stderr); return 1
def two(): print("error: one\nerror: two", file=sys.stderr); return 1
def mute(): return 1
def accept(): return 0
def other(): print("3 is not 4"); return trials.WRONG
def paint(): print("\x1b[31m"); return 1
for command in (fail, hang, eat, refuse, two, mute, accept, other, paint):
    print(command.__name__, trials.attempt(Trial("", command), Path(sys.argv[2]))[0])
for trial in (Trial("", refuse, trials.ACCEPTED), Trial("", refuse, says=("two",)), Trial("", refuse, quiet=True),
              Trial("", lambda: print("x"), trials.ACCEPTED, quiet=True)):
    print(trials.attempt(trial, Path(sys.argv[2]))[0])
"""
    arguments = [sys.executable, "-c", code, str(TRIALS.parent), str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == [
        "fail traceback", "hang hang", "eat memory", "refuse refused", "two lines", "mute lines", "accept silent",
        "other result", "paint escape", "strict", "unsaid", "refused", "talk",
    ]  # fmt: skip
