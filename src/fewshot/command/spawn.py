"""Run a job in one or several processes.

Each job of a sweep starts its own processes, so that no process runs the whole sweep.
"""

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from fewshot import distributed
from fewshot.callbacks import Stopped
from fewshot.command.execute import execute
from fewshot.command.job import Job
from fewshot.errors import UserError


def run_job(job: Job) -> None:
    """Run a job in its number of processes.

    ``trainer.devices`` gives the number. torchrun and SLURM have started the processes already.

    Raises:
        UserError: there are fewer tasks or episodes than processes, or several nodes and only one was started.
    """
    trainer = job.cfg.trainer
    count = _devices(trainer)
    nodes = trainer.get("num_nodes", 1)
    for key in ("meta_batch", "test_episodes", "val_episodes")[not job.cfg.train :]:
        if 0 < job.cfg.task[key] < count * nodes:
            raise UserError(f"task.{key}={job.cfg.task[key]}: fewer than the {count * nodes} processes of the trainer")
    if count * nodes == 1 or distributed.started_by_launcher():
        execute(job)
    elif nodes > 1:
        raise UserError(f"trainer.num_nodes={nodes}: start run.py on each node by torchrun or srun, see the README")
    else:
        _start(job, count)


def _devices(trainer: Any) -> int:
    """Return the number of processes on this machine."""
    devices = trainer.get("devices", 1)
    if isinstance(devices, int) and devices > 0:
        return devices
    if devices in (-1, "-1", "auto"):
        return torch.cuda.device_count() or 1 if trainer.accelerator in ("auto", "gpu", "cuda") else 1
    return len(devices)


def _start(job: Job, count: int) -> None:
    for part in ("agent.server", "multiprocessing"):  # we say ourselves how a run ends
        logging.getLogger(f"torch.distributed.elastic.{part}.api").setLevel(logging.CRITICAL)
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # run.py works without an installation
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // count)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=f"{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.yaml"
        job.write(file)
        try:
            elastic_launch(config, sys.executable)("-m", "fewshot.command.ddp_worker", str(file))
        except ChildFailedError as error:
            raise _reason(job, error) from None
        except SignalException as signal:
            raise Stopped(signal.sigval, Path(job.out) / "checkpoints" / "last.ckpt") from None


def _reason(job: Job, error: ChildFailedError) -> Exception:
    """Return the first failed process's error."""
    file = Path(job.out) / "error.txt"
    if file.is_file():
        return UserError(file.read_text(encoding="utf-8").strip())
    rank, failure = error.get_first_failure()
    return UserError(f"process {rank} ended with status {failure.exitcode}; run.log may say more")
