"""Compare two processes of one run with one process."""

import os
import socket
from pathlib import Path

import pytest
import torch

from fewshot.engines import LoopEngine
from methods_table import METHODS, TRAINED, build, cancelled
from run_server import RunServer

WORKER = Path(__file__).parent / "worker.py"


def launch(server: RunServer, processes: int, *arguments: str) -> dict:
    """Return the results of ``worker.py ARGUMENTS`` in one or more processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    workers = []
    for rank in range(processes):
        own = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": processes,
               "LOCAL_WORLD_SIZE": processes, "TORCHELASTIC_RUN_ID": "test"} if processes > 1 else {}  # fmt: skip
        environment = shared | {name: str(value) for name, value in own.items()}
        workers.append(server.start(arguments, Path(arguments[-1]), environment, WORKER))
    for worker in workers:
        text, _ = worker.communicate(timeout=240)
        assert worker.returncode == 0, text
    return torch.load(Path(arguments[-1]) / "out.pt", weights_only=True)


QUICK = [
    ("protonet", "vmap"),
    ("maml", "vmap"),
    ("metagan", "vmap"),
    ("metagan_protonet", "vmap"),
    ("baseline", "vmap"),
    ("fomaml", "loop"),
]
ALL = [(name, engine) for name in TRAINED if METHODS[name].long for engine in ("vmap", "loop")]
assert set(QUICK) <= set(ALL)


@pytest.mark.parametrize(
    ("name", "engine"),
    [*QUICK, *(pytest.param(*pair, marks=pytest.mark.thorough) for pair in ALL if pair not in QUICK)],
)
def test_two_processes_are_one(name, engine, run_server, tmp_path):
    """Compare weights, scores of all test episodes, logged means and figures; two processes share 5 tasks."""
    found = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        found.append(launch(run_server, processes, name, engine, str(folder)))
    alone, shared = found
    names = [[(number, fingerprint) for number, _, fingerprint, *_ in part["rows"]] for part in found]
    assert names[0] == names[1]
    scores = [torch.tensor([(accuracy, *others) for _, accuracy, _, *others in part["rows"]]) for part in found]
    assert scores[0].shape == (9, 3)  # accuracy, AUROC and false alarms
    torch.testing.assert_close(*scores, rtol=0, atol=1e-12)
    assert alone["weights"].keys() == shared["weights"].keys()
    noise = cancelled(build(name, LoopEngine()))  # their gradients are rounding errors, and Adam divides by their size
    for key, value in alone["weights"].items():
        atol = 1e-6 if key in noise else 1e-8
        torch.testing.assert_close(
            shared["weights"][key], value, rtol=1e-8, atol=atol, msg=lambda m, k=key: f"{k}: {m}"
        )
    assert alone["told"].keys() == shared["told"].keys()
    for key, value in alone["told"].items():
        assert shared["told"][key] == pytest.approx(value, rel=1e-6), key
    one, two = ((tmp_path / processes / "confusion.csv").read_text() for processes in "12")
    assert one == two
    open_sets = [part["summary"].pop("open_set") for part in found]
    assert open_sets[0].pop("knownness") == open_sets[1].pop("knownness")
    assert open_sets[1] == pytest.approx(open_sets[0], rel=1e-6)
    assert shared["summary"] == pytest.approx(alone["summary"], rel=1e-6)
