"""Hydra's launchers for joblib and submitit, with what our runs need in the processes that they start."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, env_override
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

log = logging.getLogger(__name__)
MISSING = "error: {} needs further packages: pip install -r requirements-sweeps.txt"


class _Launcher(Launcher):
    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.main, self.config = hydra_context, task_function, config

    def _launch(self, launcher: Launcher, main: TaskFunction, jobs: Sequence[Sequence[str]], first: int) -> Any:
        launcher.setup(hydra_context=self.context, task_function=main, config=self.config)
        return launcher.launch(jobs, first)


def _unless_stopped(results: Sequence[JobReturn], received: Sequence[int] = ()) -> Sequence[JobReturn]:
    """``results``; the command ends here where a signal came, as it does without a launcher."""
    from fewshot.command.sweep_worker import STOPPED

    stopped = sum(result.return_value == STOPPED for result in results)
    if stopped or received:
        log.warning("%d of %d runs have not finished: start the sweep again to go on", stopped, len(results))
        sys.exit(128 + (received[0] if received else 15))
    return results


class JoblibLauncher(_Launcher):
    """``hydra/launcher=joblib``: with as many threads and GPUs for a worker as there are for each."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        try:
            import joblib
            from hydra_plugins.hydra_joblib_launcher import joblib_launcher
        except ImportError as error:
            raise CompactHydraException(MISSING.format("hydra/launcher=joblib")) from error
        self.plugin, self.cores = joblib_launcher.JoblibLauncher, joblib.cpu_count()
        if self.options["n_jobs"] == 0:
            raise CompactHydraException("error: hydra.launcher.n_jobs=0: must be a number of workers, or -1")
        typed = config.hydra.overrides.hydra
        if not any(override.startswith("hydra/job_logging=") for override in typed):
            typed.append("hydra/job_logging=numbered")

    @property
    def at_a_time(self) -> int:
        """Runs, where there are enough."""
        return self._workers(sys.maxsize)

    def _workers(self, jobs: int) -> int:
        from fewshot.command import devices

        return devices.workers(self.options["n_jobs"], jobs, len(devices.gpus()), self.cores)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        from fewshot.command import devices
        from fewshot.command.sweep_worker import Run, passing_signals_on

        count = self._workers(len(job_overrides))
        plugin = self.plugin(**self.options | {"n_jobs": count})
        if count == 1:  # joblib calls it in this process
            return self._launch(plugin, self.main, job_overrides, initial_job_idx)
        run = Run(self.main, devices.gpus(), os.getpid())
        with passing_signals_on() as received:
            try:
                results = self._launch(plugin, run, job_overrides, initial_job_idx)
            except TerminatedWorkerError as error:
                if not received:
                    raise CompactHydraException(
                        "error: a worker was killed, perhaps for want of memory: start the sweep again to go on, "
                        f"with hydra.launcher.n_jobs below {count}"
                    ) from error
                results = []
        return _unless_stopped(results, received)


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

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from fewshot.command import devices
        from fewshot.command.sweep_worker import Run

        source = str(Path(__file__).parents[2])
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))}
        if self.cluster == "local" and "OMP_NUM_THREADS" not in os.environ:
            cores = len(os.sched_getaffinity(0))
            environment["OMP_NUM_THREADS"] = str(devices.threads(len(job_overrides), cores))
        try:
            with env_override(environment):
                results = self._launch(self.plugin, Run(self.main), job_overrides, initial_job_idx)
        except RuntimeError as error:  # no cluster, an option that it refuses, a job without a result
            reason = next(line for line in str(error).splitlines() if line.strip())
            where = f"{self.config.hydra.sweep.dir}/.submitit"
            raise CompactHydraException(f"error: {reason} ({where} may say more)") from error
        except KeyboardInterrupt:
            log.warning("interrupted; jobs that were submitted go on")
            sys.exit(130)
        return _unless_stopped(results)


class SubmititSlurmLauncher(_SubmititLauncher):
    """``hydra/launcher=submitit_slurm``: each run a job of the cluster."""

    cluster = "slurm"


class SubmititLocalLauncher(_SubmititLauncher):
    """``hydra/launcher=submitit_local``: the same on this machine."""

    cluster = "local"
