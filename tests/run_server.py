"""``run.py`` many times for the price of one import: forks a process that has imported what a run needs.

``RunServer().run(arguments, folder, environment)`` is ``subprocess.run`` of the command, seconds faster.
"""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
RUN = ROOT / "run.py"


class RunServer:
    """Holds the process that forks; ends with this object's ``close``."""

    def __init__(self) -> None:
        command = [sys.executable, __file__]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests")}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._server = subprocess.Popen(command, env=environment, text=True, **pipes)

    def run(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: int = 300
    ) -> subprocess.CompletedProcess:
        """``run.py ARGUMENTS`` in ``folder``: its exit status (that of a signal is negative) and what it printed."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with TemporaryDirectory() as temporary:
            files = [str(Path(temporary) / name) for name in ("stdout", "stderr")]
            order = [list(arguments), str(folder), dict(environment), files, timeout]
            print(json.dumps(order), file=self._server.stdin, flush=True)
            status = int(self._server.stdout.readline())
            out, err = (Path(file).read_text() for file in files)
        return subprocess.CompletedProcess(arguments, status, out, err)

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(30)


def serve() -> None:
    """One command a line, its exit status a line."""
    sys.path.insert(0, str(ROOT / "src"))
    import fewshot.command.spawn
    import fewshot.report.build  # noqa: F401

    for line in sys.stdin:
        arguments, folder, environment, files, timeout = json.loads(line)
        if not (child := os.fork()):
            import signal

            signal.alarm(timeout)
            sys.stdin.close()
            for number, file in enumerate(files, 1):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(folder)
            sys.argv = [str(RUN), *arguments]
            runpy.run_path(str(RUN), run_name="__main__")
            sys.exit()
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
