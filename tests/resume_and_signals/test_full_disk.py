"""A disk that is full: one line, exit status 1, and no traceback, whatever could not be written."""

import logging
import os
from pathlib import Path

import kills
import pytest

from fewshot.command.run_log import RunLog


@pytest.fixture(scope="module")
def environment(run_server, tmp_path_factory) -> dict[str, str]:
    """A cache, which is on another disk, with the images in it."""
    cache = tmp_path_factory.getbasetemp().parent / "fewshot-cache"
    variables = os.environ | {"FEWSHOT_CACHE": str(cache)}
    folder = tmp_path_factory.mktemp("other")
    assert run_server.run([*kills.SMALL, "method=nearest"], folder, variables).returncode == 0
    return variables


@pytest.mark.parametrize("size", [0, 100, 3000, 30_000])
def test_a_disk_that_takes_no_more_ends_a_run_in_one_line(run_server, environment, tmp_path, size):
    """The lock, a line of the log, the settings, a checkpoint: each is the first that does not fit."""
    script = Path(__file__).parent / "full_disk.py"
    process = run_server.start([str(size), *kills.SMALL, "name=full"], tmp_path, environment, script)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 1, text
    assert "Traceback" not in text
    assert "Exception ignored" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert "File too large" in line
    assert not (tmp_path / "outputs/full/result.json").exists()


def test_a_log_that_cannot_be_written_is_said_once(capsys):
    handler = RunLog("/dev/full")
    logger = logging.Logger("full")
    logger.addHandler(handler)
    logger.info("one")
    logger.info("two")
    handler.close()
    assert capsys.readouterr().err == "/dev/full: cannot be written (No space left on device)\n"


def test_a_mistake_in_a_log_line_is_still_shown(tmp_path, capsys):
    logger = logging.Logger("mistaken")
    logger.addHandler(RunLog(tmp_path / "run.log"))
    logger.info("%d", "no number")
    assert "TypeError" in capsys.readouterr().err
