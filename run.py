"""Train and test one run, or a sweep.

python run.py method=maml data=omniglot task=5w1s
python run.py -m method=protonet,maml,metagan seed=0,1,2
python run.py checkpoint=outputs/.../checkpoints/best.ckpt train=false
python run.py resume=outputs/...
"""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "src"))  # works without an installation

from fewshot.startup import prepare_process

prepare_process()  # before torch loads

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from fewshot import distributed
from fewshot.command.exit_status import report_errors, run_command
from fewshot.command.job import prepare
from fewshot.command.run_folder import locked
from fewshot.command.spawn import run_job
from fewshot.provenance import git_commit
from fewshot.result import validation_accuracy

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Train and test one run.

    Return its validation accuracy, for a search.
    """
    out = Path(HydraConfig.get().runtime.output_dir)
    if distributed.rank():  # torchrun or SLURM started several: only the first prints
        logging.getLogger().setLevel(logging.ERROR)
    with report_errors(out, sweep=HydraConfig.get().mode == RunMode.MULTIRUN), locked(out):
        if job := prepare(cfg, out, git_commit(Path(__file__).parent)):
            run_job(job)
        else:
            log.info("%s is finished: nothing to do", out)
        return validation_accuracy(out) if distributed.rank() == 0 else None
    return None


if __name__ == "__main__":
    run_command(main)
