"""Train and test as one of several processes, or alone: ``worker.py METHOD ENGINE FOLDER``."""

import os
import sys
from dataclasses import asdict
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import TorchElasticEnvironment

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "src"))

from fewshot.callbacks import Confusion, Embedding, Figures, InnerSteps, Scores
from fewshot.data import EpisodeData, Task
from fewshot.distributed import TaskParallel
from fewshot.engines import LoopEngine, VmapEngine
from methods_table import build, training_task
from synthetic_data import synthetic_split

# 5 tasks for 2 processes and 9 test episodes: nothing divides evenly.
TASK = Task(5, 2, 3, 5, 2, 3, meta_batch=5, test_episodes=9, val_episodes=3, train_unlabeled=2, unlabeled=2, unknown=2)


class MadeUp:
    def load(self):
        return {
            name: synthetic_split(name=f"made/{name}", seed=seed) for seed, name in enumerate(("train", "val", "test"))
        }


def main(name: str, engine: str, folder: str) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    method = build(name, VmapEngine(2) if engine == "vmap" else LoopEngine())
    if int(os.environ.get("RANK", 0)):
        for parameter in method.parameters():  # must not matter: the first process decides
            torch.nn.init.zeros_(parameter)
    scores = Scores()
    figures = [Confusion(folder, scores), Embedding(folder), InnerSteps(folder), Figures(folder)]
    strategy = TaskParallel(cluster_environment=TorchElasticEnvironment(), process_group_backend="gloo")
    trainer = pl.Trainer(
        max_steps=5, val_check_interval=5, check_val_every_n_epoch=None, accelerator="cpu", devices=processes,
        strategy=strategy if processes > 1 else "auto", logger=False, enable_progress_bar=False,
        callbacks=[scores, *figures],
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=folder, num_sanity_val_steps=0,
        use_distributed_sampler=False, inference_mode=False, log_every_n_steps=1, precision="64-true",
    )  # fmt: skip
    data = EpisodeData(MadeUp(), training_task(name, TASK), seed=0, steps=100, eval_batch=2)
    trainer.fit(method, datamodule=data)
    told = {name: float(value) for name, value in trainer.callback_metrics.items()}
    trainer.test(method, datamodule=data, verbose=False)
    rows, summary = list(zip(*scores.columns().values(), strict=True)), asdict(scores.summary())
    if trainer.is_global_zero:
        torch.save({"weights": method.state_dict(), "rows": rows, "told": told, "summary": summary}, f"{folder}/out.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
