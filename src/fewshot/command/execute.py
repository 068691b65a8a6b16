"""Train, test and record a run."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger

from fewshot import checkpoint, distributed, memory
from fewshot.callbacks import (
    Collapse,
    Confusion,
    Dashboard,
    Embedding,
    Figures,
    InnerSteps,
    OpenSet,
    Progress,
    Scores,
    Stopping,
    StoredSettings,
    Throughput,
)
from fewshot.checkpoint_io import AtomicCheckpointIO, damaged_progress
from fewshot.command.job import Job, trusted_targets
from fewshot.command.pretrained_data import follow_network
from fewshot.command.run_folder import confirm_classes
from fewshot.data import EpisodeData, Task
from fewshot.loggers import conclude, continue_from
from fewshot.methods import Method
from fewshot.networks import find_pretrained
from fewshot.provenance import device_name, versions
from fewshot.result import Result, Validation, write_calibration, write_episodes, write_result

log = logging.getLogger(__name__)
UNLIMITED = 10**9  # steps


@dataclass
class Records:
    """Hold the callbacks to read after a run.

    Attributes:
        best: the checkpoint of the highest validation accuracy; None without validation.
        last: the checkpoint of the last step.
        stored_settings: the settings that go into checkpoints.
    """

    best: ModelCheckpoint | None
    last: ModelCheckpoint
    stored_settings: StoredSettings
    throughput: Throughput = field(default_factory=Throughput)
    scores: Scores = field(default_factory=Scores)

    @property
    def tested(self) -> ModelCheckpoint:
        """Return the checkpoint whose weights are tested."""
        return self.best or self.last

    @property
    def checkpoints(self) -> list[ModelCheckpoint]:
        return [self.best, self.last] if self.best else [self.last]


def execute(job: Job) -> None:
    """Train and test a job, and write its result.

    Each process of the job calls this function.
    """
    memory.keep_freed()
    memory.reset_peak()
    cfg = job.cfg
    out = Path(job.out)
    method = build_method(job, cfg)
    task = Task(**cfg.task)
    data = build_data(cfg, task, method)
    confirm_classes(out, data.splits, resumed=bool(job.resume))
    if distributed.rank() == 0:
        for stale in ("result.json", "error.txt"):
            (out / stale).unlink(missing_ok=True)
    records = build_records(job, cfg, task)
    trainer = build_trainer(job, cfg, task, records)
    if trainer.is_global_zero:
        log.info("%s on %s %s in %s", cfg.choices.method, cfg.data.name, task.name, out)
    validation = fit(job, cfg, trainer, method, data, records)
    trainer.test(method, datamodule=data, verbose=False)
    if cfg.train and not has_parameters(method):
        for checkpoint_callback in records.checkpoints:
            trainer.save_checkpoint(out / "checkpoints" / f"{checkpoint_callback.filename}.ckpt")
    if trainer.is_global_zero:
        record(job, cfg, trainer, method, records, validation)


def build_method(job: Job, cfg: DictConfig) -> Method:
    """Build the method with its initial weights.

    The seed of the run, or a checkpoint, decides the weights.
    """
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    method: Method = instantiate(cfg.method)
    method.bn = cfg.bn or method.bn
    method.choose_knownness(Task(**cfg.task).knownness)
    # A checkpoint's own settings may name the weights that it started from.
    start = next((key for key in ("checkpoint", "weights") if cfg[key]), None)
    if start and not job.resume:
        checkpoint.load_weights(method, checkpoint.read(cfg[start], start, trusted_targets(cfg)), cfg[start], start)
    return method


def build_data(cfg: DictConfig, task: Task, method: Method) -> EpisodeData:
    """Load the images of the run, or their features."""
    announce = distributed.rank() == 0
    dataset, mean, std = follow_network(instantiate(cfg.data.dataset), method, cfg, announce)
    data = EpisodeData(
        dataset,
        task,
        cfg.seed,
        cfg.trainer.max_steps if cfg.trainer.max_steps > 0 else UNLIMITED,
        cfg.data.rotations,
        mean,
        std,
        label_fraction=cfg.data.get("label_fraction", 1.0),
        eval_rotations=cfg.data.get("eval_rotations"),
        within=cfg.data.get("within", 0.0),
        eval_within=cfg.data.get("eval_within", 0.0),
        augment=cfg.data.get("augment"),
        trains=has_parameters(method) and cfg.train,
    )
    data.setup()
    return data


def build_records(job: Job, cfg: DictConfig, task: Task) -> Records:
    """Build the callbacks for checkpoints and scores."""
    folder = Path(job.out) / "checkpoints"
    stored_settings = StoredSettings(job.stored)
    if not task.val_episodes:
        interval = cfg.trainer.val_check_interval
        last = ModelCheckpoint(folder, "last", every_n_train_steps=interval, enable_version_counter=False)
        return Records(None, last, stored_settings)
    last = ModelCheckpoint(folder, "last", enable_version_counter=False)  # after each validation
    best = ModelCheckpoint(folder, "best", monitor="val/accuracy", mode="max", enable_version_counter=False)
    return Records(best, last, stored_settings)


def build_trainer(job: Job, cfg: DictConfig, task: Task, records: Records) -> pl.Trainer:
    """Build Lightning's trainer, with its callbacks and loggers."""
    callbacks = build_callbacks(job, cfg, records)
    loggers: list[Logger] = list(instantiate(cfg.logger).values())
    if not task.val_episodes:
        cfg.trainer.limit_val_batches = 0
    trainer: pl.Trainer = instantiate(
        cfg.trainer,
        callbacks=callbacks,
        logger=loggers,
        plugins=[AtomicCheckpointIO(trusted_targets(cfg))],
        default_root_dir=job.out,
    )
    if job.resume:
        continue_from(loggers, checkpoint.read(job.resume, "resume", trusted_targets(cfg))["global_step"])
    for logger in loggers:
        if not isinstance(logger, CSVLogger):  # .hydra/ has the settings on disk already
            logger.log_hyperparams(job.settings)
    return trainer


def build_callbacks(job: Job, cfg: DictConfig, records: Records) -> list[pl.Callback]:
    """Build the callbacks, in Lightning's order of calls."""
    out = Path(job.out)
    scores = records.scores
    callbacks = [
        *records.checkpoints,
        records.throughput,
        scores,
        Progress(),
        *instantiate(cfg.callbacks).values(),
        records.stored_settings,
        Stopping(out / "checkpoints" / "last.ckpt"),
        Collapse(),
        Dashboard(),
    ]
    if cfg.figures:
        figures = out / "figures"
        # The last one sends what the others have drawn.
        callbacks += [Confusion(figures, scores), Embedding(figures), InnerSteps(figures)]
        callbacks += [OpenSet(figures, scores), Figures(figures)]
    return callbacks


def has_parameters(method: Method) -> bool:
    """Return whether a method has parameters to train."""
    return any(parameter.requires_grad for parameter in method.parameters())


def fit(
    job: Job, cfg: DictConfig, trainer: pl.Trainer, method: Method, data: EpisodeData, records: Records
) -> float | None:
    """Train the method and load the weights to test.

    A method without parameters is not trained.

    Returns:
        the validation accuracy of these weights, a fraction; None without validation.
    """
    if not (cfg.train and has_parameters(method)):
        if cfg.train and trainer.is_global_zero:
            log.warning(
                "%s with these settings has no parameter to train: it is tested as it is, and the budget "
                "(trainer.max_steps, trainer.max_time) is not used",
                cfg.choices.method,
            )
        if not data.task.val_episodes:
            return None
        return float(trainer.validate(method, datamodule=data, verbose=False)[0]["val/accuracy"])
    with damaged_progress(job.resume, lambda: records.stored_settings.training):
        trainer.fit(method, datamodule=data, ckpt_path=job.resume)
    if records.best is None:
        trainer.save_checkpoint(Path(job.out) / "checkpoints" / "last.ckpt")
        return None
    file = records.best.best_model_path
    checkpoint.load_weights(method, checkpoint.read(file, trusted=trusted_targets(cfg)), file)
    return float(records.best.best_model_score)  # type: ignore[arg-type]


def record(
    job: Job, cfg: DictConfig, trainer: pl.Trainer, method: Method, records: Records, validation: float | None
) -> None:
    """Write the test's scores, and close the loggers.

    The result is written last.
    """
    out = Path(job.out)
    test = records.scores.summary()
    write_episodes(out, records.scores.columns())
    write_calibration(out, records.scores.calibration())
    tested = f"checkpoints/{records.tested.filename}.ckpt" if cfg.train else cfg.checkpoint
    backbone = find_pretrained(method.network)
    result = Result(
        method=cfg.choices.method,
        name=cfg.choices.method,
        data=cfg.data.name,
        split=cfg.data.get("split"),
        label_fraction=cfg.data.get("label_fraction", 1.0),
        task=dict(cfg.task) | {"name": Task(**cfg.task).name},
        seed=cfg.seed,
        bn=method.bn_protocol,
        bn_statistics_estimated=method.bn_estimated,
        test=test,
        val=Validation(validation),
        train=records.throughput.summary(trainer.global_step),
        pretrained=backbone.name if backbone else None,
        parameters=sum(parameter.numel() for parameter in method.parameters()),
        adapted_parameters=method.adapted_parameters,
        processes=trainer.world_size,
        peak_memory_mb=memory.peak_mb(trainer.strategy.root_device),
        device=device_name(trainer.strategy.root_device),
        versions=versions(),
        git_commit=job.commit,
        checkpoint=str(tested) if tested else None,
        overrides=tuple(job.overrides),
        path=str(out),
    )
    write_result(out, result)
    conclude(trainer.loggers, result)
    log.info(
        "test accuracy %.2f%% ± %.2f%% (95%% interval, %d episodes of %s %s, bn=%s); files in %s",
        *(100 * test.accuracy, 100 * (test.ci95 or 0), test.episodes),
        *(cfg.data.name, Task(**cfg.task).name, method.bn_protocol, out),
    )
