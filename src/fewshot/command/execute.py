"""Instantiate, fit, test, write down."""

import logging
from pathlib import Path

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from fewshot import checkpoint, distributed, memory
from fewshot.callbacks import (
    Collapse,
    Confusion,
    Dashboard,
    Embedding,
    Figures,
    InnerSteps,
    Progress,
    Recipe,
    Scores,
    Stopping,
    Throughput,
)
from fewshot.checkpoint_io import AtomicCheckpointIO
from fewshot.command.job import Job
from fewshot.data import EpisodeData, Task
from fewshot.loggers import conclude, continue_from
from fewshot.methods import Method
from fewshot.provenance import device_name, versions
from fewshot.result import Result, Validation, write_calibration, write_episodes, write_result

log = logging.getLogger(__name__)
UNLIMITED = 10**9


def execute(job: Job) -> None:
    """One run: everything between the settings and ``result.json``; in each of its processes."""
    memory.keep_freed()
    memory.reset_peak()
    cfg, out = job.cfg, Path(job.out)
    if distributed.rank() == 0:
        for stale in ("result.json", "error.txt"):
            (out / stale).unlink(missing_ok=True)

    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    method: Method = instantiate(cfg.method)
    method.bn = cfg.bn or method.bn
    # A checkpoint's own settings may name the weights that it started from.
    start = next((key for key in ("checkpoint", "weights") if cfg[key]), None)
    if start and not job.resume:
        checkpoint.load_weights(method, checkpoint.read(cfg[start], start), cfg[start], start)
    task = Task(**cfg.task)
    data = _data(cfg, task)

    folder = out / "checkpoints"
    every = None if task.val_episodes else cfg.trainer.val_check_interval  # with validation, after each
    last = ModelCheckpoint(folder, "last", every_n_train_steps=every, enable_version_counter=False)
    best = ModelCheckpoint(folder, "best", monitor="val/accuracy", mode="max", enable_version_counter=False)
    chosen = best if task.val_episodes else last
    throughput, scores = Throughput(), Scores()
    callbacks = [*dict.fromkeys((chosen, last)), throughput, scores, Progress(), *instantiate(cfg.callbacks).values()]
    callbacks += [Recipe(job.recipe), Stopping(folder / "last.ckpt"), Collapse(), Dashboard()]
    if cfg.figures:
        figures = out / "figures"
        # The last one sends what the others have drawn.
        callbacks += [Confusion(figures, scores), Embedding(figures), InnerSteps(figures), Figures(figures)]
    loggers = list(instantiate(cfg.logger).values())
    if not task.val_episodes:
        cfg.trainer.limit_val_batches = 0
    trainer: pl.Trainer = instantiate(
        cfg.trainer,
        callbacks=callbacks,
        logger=loggers,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=str(out),
    )
    if job.resume:
        continue_from(loggers, checkpoint.read(job.resume)["global_step"])
    for logger in loggers:
        if not isinstance(logger, CSVLogger):  # .hydra/ has the settings on disk already
            logger.log_hyperparams(job.settings)

    if trainer.is_global_zero:
        log.info("%s on %s %s in %s", cfg.choices.method, cfg.data.name, task.name, out)
    trains = cfg.train and any(parameter.requires_grad for parameter in method.parameters())
    steps_taken, validation = 0, None
    if trains:
        trainer.fit(method, datamodule=data, ckpt_path=job.resume)
        steps_taken = trainer.global_step
        if task.val_episodes:
            checkpoint.load_weights(method, checkpoint.read(best.best_model_path), best.best_model_path)
            validation = float(best.best_model_score)  # type: ignore[arg-type]
        else:
            trainer.save_checkpoint(folder / "last.ckpt")
    elif task.val_episodes:
        validation = trainer.validate(method, datamodule=data, verbose=False)[0]["val/accuracy"]
    trainer.test(method, datamodule=data, verbose=False)
    if not trainer.is_global_zero:
        return

    test = scores.summary()
    write_episodes(out, scores.rows())
    write_calibration(out, scores.calibration())
    scored = f"checkpoints/{chosen.filename}.ckpt" if trains else cfg.checkpoint
    result = Result(
        method=cfg.choices.method,
        name=cfg.choices.method,
        data=cfg.data.name,
        split=cfg.data.get("split"),
        label_fraction=cfg.data.get("label_fraction", 1.0),
        task=OmegaConf.to_container(cfg.task, resolve=True),  # type: ignore[arg-type]
        seed=cfg.seed,
        bn=method.bn_protocol,
        bn_statistics_estimated=method.bn_estimated,
        test=test,
        val=Validation(validation),
        train=throughput.summary(steps_taken),
        parameters=sum(parameter.numel() for parameter in method.parameters()),
        adapted_parameters=method.adapted_parameters,
        processes=trainer.world_size,
        peak_memory_mb=memory.peak_mb(trainer.strategy.root_device),
        device=device_name(trainer.strategy.root_device),
        versions=versions(),
        git_commit=job.commit,
        checkpoint=str(scored) if scored else None,
        overrides=tuple(job.typed),
        path=str(out),
    )
    write_result(out, result)
    conclude(loggers, result)
    log.info(
        "test accuracy %.2f%% ± %.2f%% (95%% interval, %d episodes of %s %s, bn=%s); files in %s",
        *(100 * test.accuracy, 100 * (test.ci95 or 0), test.episodes),
        *(cfg.data.name, task.name, method.bn_protocol, out),
    )


def _data(cfg: DictConfig, task: Task) -> EpisodeData:
    data = EpisodeData(
        instantiate(cfg.data.dataset),
        task,
        cfg.seed,
        cfg.trainer.max_steps if cfg.trainer.max_steps > 0 else UNLIMITED,
        cfg.data.rotations,
        cfg.data.mean,
        cfg.data.std,
        label_fraction=cfg.data.get("label_fraction", 1.0),
        eval_rotations=cfg.data.get("eval_rotations"),
        within=cfg.data.get("within", 0.0),
        eval_within=cfg.data.get("eval_within", 0.0),
        augment=cfg.data.get("augment"),
    )
    data.setup()
    return data
