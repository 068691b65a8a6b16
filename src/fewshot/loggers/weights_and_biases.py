"""Log to Weights & Biases."""

import logging
import netrc
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from fewshot.errors import UserError
from fewshot.files import write_bytes
from fewshot.loggers.hparams import sortable
from fewshot.result import Result

log = logging.getLogger(__name__)


class Wandb(WandbLogger):
    """Log to W&B without questions or long waits.

    Everything is on disk as well; what a server does not take is sent later by ``wandb sync``. The rows of a step
    are one row, under the number of steps that were taken. A run that resumes keeps its id, and sends no row twice.

    Args:
        save_dir: the folder of the run.
        group: None is the folder of the sweep.
        tags: those that are None are left out.
        offline: None is online where a key is found and neither ``WANDB_MODE`` nor ``wandb offline`` says otherwise.
        log_model: send the best checkpoint as an artifact.
        timeout: seconds for the server to answer at the start, and to take the rest at the end.
        options: further arguments of ``wandb.init``.
    """

    def __init__(
        self,
        save_dir: str,
        group: str | None = None,
        tags: Iterable[str | None] = (),
        offline: bool | None = None,
        log_model: bool = False,
        timeout: float = 30.0,
        **options: Any,
    ) -> None:
        if find_spec("wandb") is None:
            raise UserError("logger=wandb: pip install wandb")
        parent = Path(save_dir).resolve().parent
        group = group or (parent.name if (parent / "multirun.yaml").is_file() else None)
        super().__init__(save_dir=save_dir, group=group, tags=[str(tag) for tag in tags if tag], **options)
        self.wants_offline = offline
        self.wants_model = log_model
        self.timeout = timeout
        self.steps: int | None = None  # of training that were taken
        self.episodes: int | None = None  # in these steps
        folder = Path(save_dir) / "wandb"
        self._run_id = folder / "run_id.txt"
        self._next_step = folder / "next_step.txt"
        self._first = 0  # the rows of earlier steps are there

    @rank_zero_only
    def continue_from(self, step: int) -> None:
        if self._run_id.is_file():
            log.info("wandb: going on from step %d; rows of later steps that it has are not sent again", step)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._run_id.parent.mkdir(parents=True, exist_ok=True)
            if self._run_id.is_file():
                self._id = self._run_id.read_text().strip()
                self._first = int(self._next_step.read_text() or 0) if self._next_step.is_file() else 0
            self._experiment = self._start(self._is_offline())
        return self._experiment

    def _is_offline(self) -> bool:
        import wandb

        settings = wandb.setup().settings
        if self.wants_offline is False and not _has_key(settings):
            raise UserError("logger.wandb.offline=false: no key found; 'wandb login', or set WANDB_API_KEY")
        if self.wants_offline is not None:
            return self.wants_offline
        return settings.mode in ("offline", "dryrun") or (settings.mode == "online" and not _has_key(settings))

    def _start(self, offline: bool) -> Any:
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=self.timeout,
            finish_timeout=self.timeout,
            finish_timeout_raises=True,
            x_transaction_log_flush_interval=1,  # seconds of which a killed process loses the rows
        )
        options = self._wandb_init | {"id": self._id, "settings": settings, "reinit": "finish_previous"}
        del options["anonymous"]  # of which wandb warns, even where it is None
        if offline:
            options["mode"] = "offline"
        before = set(self._run_id.parent.glob("run-*"))
        try:
            run = wandb.init(**options)
        except wandb.errors.CommError as error:
            for attempt in set(self._run_id.parent.glob("run-*")) - before:
                shutil.rmtree(attempt, ignore_errors=True)
            log.warning("wandb: going on offline, since the server cannot be used: %s", _line(error))
            return self._start(offline=True)
        except wandb.Error as error:
            raise UserError(f"logger=wandb: {_line(error)}") from error
        if offline:
            log.info("wandb is offline: 'wandb sync %s' sends this run later", run.settings.sync_dir)
        self._id = run.id
        write_bytes(self._run_id, run.id.encode())
        run.define_metric("episodes")
        for name, summary in (("train/*", None), ("val/*", None), ("val/accuracy", "max")):
            run.define_metric(name, step_metric="episodes", summary=summary)
        return run

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        super().log_hyperparams(sortable(dict(params)))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        run = self.experiment
        at = step or 0 if self.steps is None else self.steps
        if at < self._first:
            return
        episodes = {} if self.episodes is None else {"episodes": self.episodes}
        # A row is open until a later step begins, and lost with the process; a checkpoint follows a validation.
        at = max(at, run.step)
        ends = "val/accuracy" in metrics
        run.log(episodes | dict(metrics), step=at, commit=ends)
        self._next_step.write_text(str(at + ends))

    @rank_zero_only
    def log_table(self, key: str, columns: list[str], data: list[list[Any]], **_: Any) -> None:  # type: ignore[override]
        self._with_server(lambda: super(Wandb, self).log_table(key, columns, data))

    @rank_zero_only
    def conclude(self, scores: Mapping[str, float], result: Result) -> None:
        """Log the final scores and end the run.

        The summary is logged too, and the best checkpoint is sent if wanted.
        """
        if self.wants_model and result.train.steps:
            self._with_server(lambda: self._send_model(scores, result))
        self.log_metrics(scores, result.train.steps)
        run = self.experiment
        run.log({}, commit=True)  # else the last row would come after the summary, and replace parts of it
        summary = dict(scores) | {"parameters": result.parameters, "peak_memory_mb": result.peak_memory_mb}
        run.summary.update(summary | {key: getattr(result.train, key) for key in ("steps", "episodes", "seconds")})
        if result.val.accuracy is not None:
            run.summary["val/accuracy"] = result.val.accuracy  # a number in place of {"max": ...}
        run.config.update({key: getattr(result, key) for key in ("bn", "device", "git_commit")}, allow_val_change=True)
        self.finish()

    def _send_model(self, scores: Mapping[str, float], result: Result) -> None:
        import wandb

        assert result.path is not None
        assert result.checkpoint is not None
        run = self.experiment
        file = Path(result.path) / result.checkpoint
        artifact = wandb.Artifact(f"model-{run.id}", "model", metadata={**scores, "method": result.method})
        # Not copied: offline, the copy would lie outside of the run's folder.
        artifact.add_file(str(file), name=file.name, policy="immutable")
        run.log_artifact(artifact, aliases=["best"])

    def _with_server(self, send: Callable[[], None]) -> None:
        """Call ``send``; without a server go offline.

        Offline, ``send`` is called again.
        """
        import wandb

        before = os.environ.get("WANDB_DATA_DIR")
        os.environ.setdefault("WANDB_DATA_DIR", str(self._run_id.parent))  # they wait there, not in the home folder
        try:
            send()
        except wandb.errors.CommError as error:
            log.warning("wandb: going on offline, since the server cannot be used: %s", _line(error))
            config = dict(self.experiment.config)
            self.finish()
            self._experiment = self._start(offline=True)
            self._experiment.config.update(config)
            send()
        finally:
            if before is None:
                del os.environ["WANDB_DATA_DIR"]

    @rank_zero_only
    def finish(self, status: int = 0) -> None:
        """End the run with an exit status.

        The server gets at most ``timeout`` seconds.
        """
        if self._experiment is None:
            return
        try:
            self._experiment.finish(status)
        except TimeoutError:
            log.warning(
                "wandb: the server has not taken everything in %g s; it is on disk: "
                "'wandb sync --include-online %s' sends it",
                *(self.timeout, self._experiment.settings.sync_dir),
            )


def _has_key(settings: Any) -> bool:
    if settings.api_key or settings.identity_token_file:
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(urlsplit(settings.base_url).netloc) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
