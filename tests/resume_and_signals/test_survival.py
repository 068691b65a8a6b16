"""Kill, stop, resume and repeat runs."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import kills
import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def shared_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSHOT_CACHE", str(tmp_path_factory.getbasetemp().parent / "fewshot-cache"))
        yield


@pytest.fixture
def run(run_server, tmp_path):
    def call(*arguments: str, small: bool = True) -> subprocess.CompletedProcess:
        flags = [argument for argument in arguments if argument.startswith("-")]
        typed = [argument for argument in arguments if argument not in flags]
        return run_server.run([*flags, *(kills.SMALL if small else ()), *typed], tmp_path, os.environ)

    return call


@pytest.fixture(scope="module")
def finished(run_server, tmp_path_factory) -> Path:
    """Return the folder of a whole run."""
    out = tmp_path_factory.mktemp("plain") / "outputs" / "metagan"
    out.parent.mkdir()
    kills.reference(run_server, out, "method=metagan")
    return out


def said(done: subprocess.CompletedProcess) -> str:
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("error: ")]
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    return line


@pytest.mark.parametrize("after", ["step 3", "step 12"])
def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_been(finished, run_server, tmp_path, after):
    killed = tmp_path / "killed"
    process = kills.start(run_server, killed, "resume=auto", "method=metagan")
    for line in process.stdout:
        if line.startswith(after):
            process.kill()
    process.wait(60)
    kills.finish(kills.start(run_server, killed, "resume=auto", "method=metagan"))
    kills.assert_same(finished, killed)


@pytest.mark.parametrize("start", [kills.start, pytest.param(kills.start_python, marks=pytest.mark.thorough)])
def test_sigterm_leaves_a_checkpoint_and_143_also_in_several_processes(start, finished, run_server, tmp_path):
    killed = tmp_path / "killed"
    arguments = ("resume=auto", "method=metagan", "trainer=ddp_cpu")
    process = start(run_server, killed, *arguments)
    for line in process.stdout:
        if line.startswith("step 6"):
            process.terminate()
            break
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 143, text
    assert "stopped by SIGTERM" in text
    step = torch.load(killed / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert 6 <= step < 14
    text = kills.finish(start(run_server, killed, *arguments))
    assert f"going on from step {step}" in text
    assert (finished / "episodes.csv").read_text().splitlines()[0] == "episode,accuracy,fingerprint"
    one, two = (json.loads((out / "result.json").read_text()) for out in (finished, killed))
    assert two["processes"] == 2
    assert two["test"] == pytest.approx(one["test"], rel=1e-3)  # sums in another order, in single precision


def test_a_damaged_checkpoint_falls_back_to_the_one_before(finished, run_server, tmp_path):
    """Of a moved folder, too."""
    out = tmp_path / "moved"
    shutil.copytree(finished, out)
    (out / "result.json").unlink()
    last = out / "checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    text = kills.finish(kills.start(run_server, out, "resume=auto", "method=metagan"))
    assert "not a readable checkpoint" in text
    assert "previous.ckpt" in text
    assert "going on from step 12" in text
    kills.assert_same(finished, out)
    for name in ("last", "previous"):
        (out / f"checkpoints/{name}.ckpt").write_bytes(b"nothing")
    (out / "result.json").unlink()
    process = kills.start(run_server, out, "resume=auto", "method=metagan")
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "not a readable checkpoint" in text


def test_a_folder_has_one_run(finished, run):
    """Without ``resume`` it is left alone, with it it is finished, and another run is not taken for it."""
    before = {
        file: file.read_bytes()
        for file in finished.rglob("*")
        if file.is_file() and file.name not in ("run.log", ".lock")
    }
    there = f"hydra.run.dir={finished}"
    assert "holds a finished run: resume=auto" in said(run("method=metagan", there))
    assert "seed is 0 there and 1 here" in said(run("method=metagan", there, "resume=auto", "seed=1"))
    changed = said(run(f"resume={finished}", "method=metagan", "method.inner_fake=0.5", small=False))
    assert "method.inner_fake is 0.2 there and 0.5 here" in changed
    assert "leave name out" in said(run(f"resume={finished}", "name=other"))
    assert "no checkpoint there" in said(run("resume=nowhere"))
    assert "has taken 14 already" in said(run(f"resume={finished}", "trainer.max_steps=9", small=False))
    assert "resume=auto goes on with the run in its own folder: give it a name" in said(run("resume=auto"))
    assert "trainer.max_time=20: must be DD:HH:MM:SS" in said(run("trainer.max_time=20"))
    done = run(f"resume={finished}", small=False)
    assert "is finished: nothing to do" in done.stdout
    assert {file: file.read_bytes() for file in before} == before


def test_two_processes_do_not_write_to_one_folder(run, run_server, tmp_path):
    out = tmp_path / "outputs" / "one"
    out.parent.mkdir()
    process = kills.start(run_server, out, "trainer.max_steps=100000")
    for line in process.stdout:
        if line.startswith("step 3"):
            break
    assert f"process {process.pid} writes to it" in said(run("name=one"))
    assert not (out / "error.txt").exists()
    process.kill()
    process.communicate(timeout=60)


@pytest.mark.thorough
def test_a_longer_budget_goes_on_with_a_finished_run(finished, tmp_path, run):
    out = tmp_path / "longer"
    shutil.copytree(finished, out)
    done = run(f"resume={out}/checkpoints/last.ckpt", "trainer=ddp_cpu", "trainer.max_steps=20", small=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((out / "result.json").read_text())
    assert (told["train"]["steps"], told["processes"]) == (20, 2)
    curve = (out / "metrics.csv").read_text()
    assert ",17," in curve  # validation every 3 steps, as before
    assert told["method"] == "metagan"
    assert "trainer.max_steps=20" in told["overrides"]
    assert "trainer.max_steps=14" not in told["overrides"]


@pytest.mark.thorough
def test_a_sweep_of_jobs_in_two_processes_trains_each_once(run, tmp_path):
    """Started again it trains none; a run that is new to it gets a folder of its own, whatever its number."""
    sweep = ("-m", "trainer=ddp_cpu", "name=two")
    done = run(*sweep, "method=protonet,metagan")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "multirun" / "two"
    results = {file: file.stat().st_mtime_ns for file in folder.glob("*/result.json")}
    assert [json.loads(file.read_text())["method"] for file in sorted(results)] == ["protonet", "metagan"]
    assert (folder / "report.csv").read_text().count("\n") == 3
    done = run(*sweep, "method=nearest,metagan,protonet")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("is finished: nothing to do") == 2
    assert {file: file.stat().st_mtime_ns for file in results} == results
    others = [file for file in folder.glob("*/result.json") if file not in results]
    assert [json.loads(file.read_text())["method"] for file in others] == ["nearest"]


@pytest.mark.thorough
@pytest.mark.parametrize("number", range(max(20, len(kills.METHODS))))
def test_a_run_killed_at_a_random_moment_ends_as_if_nothing_had_been(number, run_server, tmp_path):
    kills.kill_at_random(run_server, tmp_path, number)
