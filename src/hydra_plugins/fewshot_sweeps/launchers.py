"""Launch a sweep's runs in parallel.

The launchers use joblib or submitit.
"""

import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import (
    JobReturn,
    JobStatus,
    configure_log,
    env_override,
    filter_overrides,
    run_job,
    setup_globals,
)
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

log = logging.getLogger(__name__)
MISSING = "error: {} needs further packages: pip install -r requirements-sweeps.txt"
Overrides = Sequence[str]


class _Launcher(Launcher):
    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context = hydra_context
        self.main = task_function
        self.config = config

    def _launch_by(
        self, launcher: Launcher, main: TaskFunction, jobs: Sequence[Overrides], first: int
    ) -> Sequence[JobReturn]:
        launcher.setup(hydra_context=self.context, task_function=main, config=self.config)
        return launcher.launch(jobs, first)


def _exit_if_stopped(results: Sequence[JobReturn], received: Sequence[int] = ()) -> Sequence[JobReturn]:
    """End the command if runs were stopped.

    Else return ``results``. The exit status is the same as without a launcher.
    """
    from fewshot.command.sweep_worker import STOPPED

    stopped = sum(result.return_value == STOPPED for result in results)
    if stopped or received:
        log.warning("%d of %d runs have not finished: start the sweep again to go on", stopped, len(results))
        sys.exit(128 + (received[0] if received else 15))
    return results


class JoblibLauncher(_Launcher):
    """Launch runs in parallel on this machine: ``hydra/launcher=joblib``.

    Each worker has its share of threads and GPUs. A killed worker ends its own run only.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        try:
            import joblib
        except ImportError as error:
            raise CompactHydraException(MISSING.format("hydra/launcher=joblib")) from error
        self.cores = joblib.cpu_count()
        if self.options["n_jobs"] == 0:
            raise CompactHydraException("error: hydra.launcher.n_jobs=0: must be a number of workers, or -1")
        typed = config.hydra.overrides.hydra
        if not any(override.startswith("hydra/job_logging=") for override in typed):
            typed.append("hydra/job_logging=numbered")

    @property
    def at_a_time(self) -> int:
        """Return how many runs go on at once.

        The number assumes that there are enough runs.
        """
        return self._workers(sys.maxsize)

    def _workers(self, jobs: int) -> int:
        from fewshot.command import devices

        return devices.workers(self.options["n_jobs"], jobs, len(devices.gpus()), self.cores)

    def launch(self, job_overrides: Sequence[Overrides], initial_job_idx: int) -> Sequence[JobReturn]:
        from fewshot.command import devices
        from fewshot.command.sweep_worker import WorkerMain, forward_signals
        from fewshot.command.worker_pool import run_in_workers

        count = self._workers(len(job_overrides))
        if count == 1:  # a process of its own would gain nothing
            return self._launch_by(BasicLauncher(), self.main, job_overrides, initial_job_idx)
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        log.info("Launching %d jobs, %d at a time", len(job_overrides), count)
        main = WorkerMain(self.main, devices.gpus(), os.getpid())
        state = Singleton.get_state()
        jobs = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            log.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
            jobs.append(partial(_run_in_this_process, self.context, self.config, main, state, number, overrides))
        threads = os.environ.get("OMP_NUM_THREADS", str(devices.threads(count, self.cores)))

        def killed(place: int) -> JobReturn:
            return self._killed(initial_job_idx + place, job_overrides[place], stopped=bool(received))

        with forward_signals() as received:
            results = run_in_workers(jobs, count, {"OMP_NUM_THREADS": threads}, killed)
        return _exit_if_stopped(results, received)

    def _killed(self, number: int, overrides: Overrides, stopped: bool) -> JobReturn:
        """Report a run whose process was killed.

        The reason is also written into the run's folder. Return the result of the run.
        """
        from fewshot.command.sweep_worker import KILLED, STOPPED
        from fewshot.files import write_bytes

        cfg = _job_config(self.context, self.config, number, overrides)
        result = JobReturn(overrides=overrides, hydra_cfg=cfg, status=JobStatus.COMPLETED)
        result.return_value = STOPPED if stopped else KILLED
        if not stopped:
            out = Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir
            reason = "its process was killed, perhaps for want of memory: start the sweep again to go on with it"
            write_bytes(out / "error.txt", f"{reason}\n".encode())
            log.error("#%d error: %s: %s (%s)", number, " ".join(filter_overrides(overrides)), reason, out)
        return result


def _job_config(context: HydraContext, config: DictConfig, number: int, overrides: Overrides) -> DictConfig:
    """Compose the settings of a sweep's run.

    Hydra's own settings are included.
    """
    cfg = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(cfg):
        cfg.hydra.job.id = f"{cfg.hydra.job.name}_{number}"
        cfg.hydra.job.num = number
    return cfg


def _run_in_this_process(
    context: HydraContext, config: DictConfig, main: TaskFunction, state: Any, number: int, overrides: Overrides
) -> JobReturn:
    """Execute one run in a worker process.

    ``state`` holds the sweep's Hydra singletons.
    """
    setup_globals()
    Singleton.set_state(state)
    cfg = _job_config(context, config, number, overrides)
    HydraConfig.instance().set_config(cfg)
    return run_job(
        hydra_context=context,
        config=cfg,
        task_function=main,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


class _SubmititLauncher(_Launcher):
    cluster: str

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "TERM"  # our runs know what to do, so no requeueing of submitit's
        try:
            import submitit  # noqa: F401
            from hydra_plugins.hydra_submitit_launcher import submitit_launcher
        except ImportError as error:
            raise CompactHydraException(MISSING.format(f"hydra/launcher=submitit_{self.cluster}")) from error
        self.plugin = getattr(submitit_launcher, f"{self.cluster.capitalize()}Launcher")(**self.options)

    def launch(self, job_overrides: Sequence[Overrides], initial_job_idx: int) -> Sequence[JobReturn]:
        from fewshot.command import devices
        from fewshot.command.sweep_worker import WorkerMain

        source = str(Path(__file__).parents[2])
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))}
        if self.cluster == "local" and "OMP_NUM_THREADS" not in os.environ:
            cores = len(os.sched_getaffinity(0))
            environment["OMP_NUM_THREADS"] = str(devices.threads(len(job_overrides), cores))
        try:
            with env_override(environment):
                results = self._launch_by(self.plugin, WorkerMain(self.main), job_overrides, initial_job_idx)
        except RuntimeError as error:  # no cluster, an option that it refuses, a job without a result
            reason = next(line for line in str(error).splitlines() if line.strip())
            where = f"{self.config.hydra.sweep.dir}/.submitit"
            raise CompactHydraException(f"error: {reason} ({where} may say more)") from error
        except KeyboardInterrupt:
            log.warning("interrupted; jobs that were submitted go on")
            sys.exit(130)
        return _exit_if_stopped(results)


class SubmititSlurmLauncher(_SubmititLauncher):
    """Launch each run as a Slurm job.

    Select this launcher by ``hydra/launcher=submitit_slurm``.
    """

    cluster = "slurm"


class SubmititLocalLauncher(_SubmititLauncher):
    """Launch each run as a local process.

    Submitit starts the processes. Select this launcher by ``hydra/launcher=submitit_local``.
    """

    cluster = "local"
