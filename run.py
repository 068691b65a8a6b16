"""Compose, instantiate, fit, test, write down.

python run.py method=maml data=omniglot task=5w1s
python run.py -m method=protonet,maml,metagan seed=0,1,2
python run.py checkpoint=outputs/.../checkpoints/best.ckpt train=false
"""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "src"))  # works without an installation

import hydra
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from fewshot import checkpoint, memory
from fewshot.callbacks import Collapse, Figures, Progress, Recipe, Scores, Stopping, Throughput
from fewshot.command.ending import ending, run
from fewshot.command.settings import over_checkpoint, refuse_words_for_numbers, with_typed_budget
from fewshot.data import EpisodeData, Task
from fewshot.methods import Method
from fewshot.result import device_name, git_commit, versions, write_calibration, write_episodes, write_result

log = logging.getLogger(__name__)
UNLIMITED = 10**9


def execute(cfg: DictConfig, out: Path) -> None:
    """One run: everything between the composed settings and ``result.json`` in ``out``."""
    memory.reset_peak()
    for stale in ("result.json", "error.txt"):
        (out / stale).unlink(missing_ok=True)
    hydra_cfg = HydraConfig.get()
    choices = {group: choice for group, choice in hydra_cfg.runtime.choices.items() if not group.startswith("hydra")}
    OmegaConf.set_struct(cfg, False)
    cfg.choices = choices
    start = checkpoint.read(cfg.checkpoint) if cfg.checkpoint else None
    if start:
        cfg = over_checkpoint(OmegaConf.create(start["recipe"]), cfg, choices, hydra_cfg.overrides.task)
    with_typed_budget(cfg, hydra_cfg.overrides.task)
    for part in ("method", "trainer"):
        refuse_words_for_numbers(cfg[part], part)

    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    method: Method = instantiate(cfg.method)
    method.bn = cfg.bn or method.bn
    if start:
        checkpoint.load_weights(method, start, cfg.checkpoint)
    elif cfg.weights:  # a checkpoint's own settings may name what it started from
        checkpoint.load_weights(method, checkpoint.read(cfg.weights, "weights"), cfg.weights, "weights")
    task = Task(**cfg.task)
    steps = cfg.trainer.max_steps if cfg.trainer.max_steps > 0 else UNLIMITED
    dataset = instantiate(cfg.data.dataset)
    data = EpisodeData(
        dataset,
        task,
        cfg.seed,
        steps,
        cfg.data.rotations,
        cfg.data.mean,
        cfg.data.std,
        label_fraction=cfg.data.get("label_fraction", 1.0),
        eval_rotations=cfg.data.get("eval_rotations"),
    )
    data.setup()

    folder = out / "checkpoints"
    every = None if task.val_episodes else cfg.trainer.val_check_interval  # with validation, after each
    last = ModelCheckpoint(folder, "last", every_n_train_steps=every, enable_version_counter=False)
    best = ModelCheckpoint(folder, "best", monitor="val/accuracy", mode="max", enable_version_counter=False)
    chosen = best if task.val_episodes else last
    throughput, scores = Throughput(), Scores()
    callbacks = [*dict.fromkeys((chosen, last)), throughput, scores, Progress(), *instantiate(cfg.callbacks).values()]
    callbacks += [Recipe(OmegaConf.to_yaml(cfg)), Stopping(folder / "last.ckpt"), Collapse()]
    callbacks += [Figures(out / "figures")] if cfg.figures else []
    loggers = list(instantiate(cfg.logger).values())
    if not task.val_episodes:
        cfg.trainer.limit_val_batches = 0
    trainer: pl.Trainer = instantiate(
        cfg.trainer,
        callbacks=callbacks,
        logger=loggers,
        plugins=[checkpoint.AtomicCheckpointIO()],
        default_root_dir=str(out),
    )
    for logger in loggers:
        if not isinstance(logger, CSVLogger):  # .hydra/ has the settings on disk already
            logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))

    log.info("%s on %s %s in %s", choices["method"], cfg.data.name, task.name, out)
    trains = cfg.train and any(parameter.requires_grad for parameter in method.parameters())
    steps_taken, validation = 0, None
    if trains:
        trainer.fit(method, datamodule=data)
        steps_taken = trainer.global_step
        if task.val_episodes:
            checkpoint.load_weights(method, checkpoint.read(best.best_model_path), best.best_model_path)
            validation = float(best.best_model_score)  # type: ignore[arg-type]
        else:
            trainer.save_checkpoint(folder / "last.ckpt")
    elif task.val_episodes:
        validation = trainer.validate(method, datamodule=data, verbose=False)[0]["val/accuracy"]
    trainer.test(method, datamodule=data, verbose=False)

    test = scores.summary()
    write_episodes(out, scores.rows())
    write_calibration(out, scores.calibration())
    scored = f"checkpoints/{chosen.filename}.ckpt" if trains else cfg.checkpoint
    result = {
        "method": cfg.choices.method,
        "name": cfg.choices.method,
        "data": cfg.data.name,
        "split": cfg.data.get("split"),
        "label_fraction": cfg.data.get("label_fraction", 1.0),
        "task": OmegaConf.to_container(cfg.task, resolve=True),
        "seed": cfg.seed,
        "bn": method.bn_protocol,
        "bn_statistics_estimated": method.bn_estimated,
        "test": test,
        "val": {"accuracy": validation},
        "train": throughput.summary(steps_taken),
        "parameters": sum(parameter.numel() for parameter in method.parameters()),
        "peak_memory_mb": memory.peak_mb(trainer.strategy.root_device),
        "device": device_name(trainer.strategy.root_device),
        "versions": versions(),
        "git_commit": git_commit(Path(__file__).parent),
        "checkpoint": str(scored) if scored else None,
        "overrides": list(hydra_cfg.overrides.task),
        "path": str(out),
    }
    write_result(out, result)
    for logger in loggers:
        logger.log_metrics({f"test/{name}": value for name, value in test.items()}, step=steps_taken)
        logger.finalize("success")
    log.info(
        "test accuracy %.2f%% ± %.2f%% (95%% interval, %d episodes of %s %s, bn=%s); files in %s",
        *(
            100 * test["accuracy"],
            100 * test["ci95"],
            test["episodes"],
            cfg.data.name,
            task.name,
            method.bn_protocol,
            out,
        ),
    )


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    """One run of the command line, or of a sweep."""
    out = Path(HydraConfig.get().runtime.output_dir)
    with ending(out):
        execute(cfg, out)


if __name__ == "__main__":
    run(main)
