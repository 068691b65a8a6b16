"""Fork commands from a process that has imported everything: each command starts seconds earlier.

``RunServer().run(arguments, folder, environment)`` is ``subprocess.run`` of ``run.py``; ``start`` is ``Popen``.
The processes that a run starts for distributed training are forked from the same server.
"""

import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from threading import Timer
from types import FrameType

ROOT = Path(__file__).parents[1]
RUN = ROOT / "run.py"
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class ForkedProcess:
    """Look like ``subprocess.Popen`` to a test: a forked command and the reading end of its output.

    Attributes:
        pid: the process that runs the command; leader of a session of its own.
        stdout: what the command prints; None where a file takes it.
        returncode: exit status, negative for a signal; None before ``wait``.
    """

    def __init__(self, connection: socket.socket, output: int | None = None) -> None:
        self._connection = connection
        self._replies = connection.makefile("r")
        self.pid = int(self._replies.readline())
        self.stdout = None if output is None else os.fdopen(output, encoding="utf-8")
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status; raise ``subprocess.TimeoutExpired`` after ``timeout`` seconds."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = int(self._replies.readline())
            self._replies.close()
            self._connection.close()
        return self.returncode

    def communicate(self, timeout: float) -> tuple[str, None]:
        """Return the rest of the output; kill the session of the command after ``timeout`` seconds."""
        assert self.stdout is not None
        deadline = Timer(timeout, self.send_signal, [signal.SIGKILL])
        deadline.start()
        with self.stdout:
            text = self.stdout.read()
        self.wait(timeout)
        deadline.cancel()
        return text, None

    def send_signal(self, number: int) -> None:
        """Send a signal to the command; SIGKILL reaches all processes of its session."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                (os.killpg if number == signal.SIGKILL else os.kill)(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class RunServer:
    """Hold the process that forks, until ``close``."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="run-server-")
        self._address = str(Path(self._folder.name) / "socket")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self._address)
        listener.listen()
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests")}
        command = [sys.executable, __file__, "serve", str(listener.fileno()), self._address]
        files = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "pass_fds": [listener.fileno()]}
        self._server = subprocess.Popen(command, env=environment, **files)
        listener.close()

    def run(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: int = 300
    ) -> subprocess.CompletedProcess:
        """Return the exit status and output of ``run.py ARGUMENTS`` in ``folder``."""
        with TemporaryDirectory() as temporary:
            files = [Path(temporary) / name for name in ("stdout", "stderr")]
            with files[0].open("wb") as out, files[1].open("wb") as error:
                targets = {1: out.fileno(), 2: error.fileno()}
                process = ForkedProcess(self._ask([str(RUN), *arguments], folder, environment, targets))
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
            texts = [file.read_text(encoding="utf-8") for file in files]
        return subprocess.CompletedProcess(arguments, process.wait(30), *texts)

    def start(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], script: Path = RUN
    ) -> ForkedProcess:
        """Return the process of ``script ARGUMENTS`` in ``folder``; its stdout holds stderr, too."""
        reading, writing = os.pipe()
        connection = self._ask([str(script), *arguments], folder, environment, {1: writing, 2: writing})
        os.close(writing)
        return ForkedProcess(connection, reading)

    def _ask(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str], targets: Mapping[int, int]
    ) -> socket.socket:
        return ask(self._address, command, str(folder), environment, targets)

    def close(self) -> None:
        """End the server."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(30)
        self._folder.cleanup()


def ask(
    address: str, command: Sequence[str], folder: str, environment: Mapping[str, str], targets: Mapping[int, int]
) -> socket.socket:
    """Ask the server to fork ``command``, with our open files as its files ``targets``; return the connection."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    request = json.dumps([list(command), folder, dict(environment), list(targets)]).encode()
    socket.send_fds(connection, [len(request).to_bytes(4)], list(targets.values()))
    connection.sendall(request)
    return connection


def act_as_python(address: str, arguments: Sequence[str]) -> None:
    """Let the server run ``python ARGUMENTS``: pass signals on, end as the forked process does."""
    connection = ask(address, arguments, os.getcwd(), os.environ, {0: 0, 1: 1, 2: 2})
    replies = connection.makefile("r")
    child = int(replies.readline())

    def pass_on(number: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    status = int(replies.readline())
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def serve(listener: socket.socket, address: str) -> None:
    """Fork a process for each connection, until stdin is closed."""
    sys.path.insert(0, str(ROOT / "src"))
    from hydra.core.plugins import Plugins

    from fewshot.command import spawn

    Plugins.instance()  # imports launchers and sweepers
    stub = Path(address).with_name("python")
    stub.write_text(f'#!/bin/sh\nexec {quote(sys.executable)} -IS {quote(__file__)} act_as_python {address} "$@"\n')
    stub.chmod(0o700)
    elastic_launch = spawn.elastic_launch
    spawn.elastic_launch = lambda config, python: elastic_launch(config, str(stub))

    gc.freeze()  # else each process would visit, and so copy, all objects of the imports when it ends
    while sys.stdin.buffer not in select.select([listener, sys.stdin.buffer], [], [])[0]:
        connection, _ = listener.accept()
        if not os.fork():
            listener.close()
            return watch(connection)
        connection.close()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def watch(connection: socket.socket) -> None:
    """Fork the command that ``connection`` asks for; report its process and exit status; kill it if nobody listens."""
    length, files, _, _ = socket.recv_fds(connection, 4, 8)
    with connection.makefile("rb", buffering=0) as stream:
        request = b""
        while len(request) < int.from_bytes(length):
            request += stream.read(int.from_bytes(length) - len(request))
    command, folder, environment, targets = json.loads(request)
    if not (child := os.fork()):
        connection.close()
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for file, target in zip(files, targets, strict=True):
            os.dup2(file, target)
            os.close(file)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        return become(command)
    for file in files:
        os.close(file)
    connection.sendall(f"{child}\n".encode())
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if select.select([connection], [], [], 0.01)[0]:  # closed
            os.killpg(child, signal.SIGKILL)
            break
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(BrokenPipeError):
        connection.sendall(f"{status}\n".encode())
    os._exit(0)


def become(command: Sequence[str]) -> None:
    """Do what ``python COMMAND`` does."""
    option, *arguments = [argument for argument in command if argument != "-u"]
    if option == "-m":
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [option, *arguments]
        runpy.run_path(option, run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(socket.socket(fileno=int(sys.argv[2])), sys.argv[3])
    else:
        act_as_python(sys.argv[2], sys.argv[3:])
