"""A checkpoint as a learner."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import OmegaConf

from fewshot import checkpoint
from fewshot.errors import UserError
from fewshot.learner import Learner

DRAWINGS = ("omniglot", "glyphs")  # ink is bright there, and dark in files of drawings


def load(path: str | Path, bn: str | None = None) -> Learner:
    """The method of a checkpoint, with its weights and the preparation of its images.

    Args:
        path: a checkpoint of a run.
        bn: ``transductive``, ``support`` or ``running``; None for what the run was scored under.

    Raises:
        UserError: the file is missing or damaged, or of another version; the message names the first differences.
    """
    content = checkpoint.read(path)
    try:
        cfg = OmegaConf.create(content["recipe"])
        method = instantiate(cfg.method)
        data = cfg.data
        learner = Learner(
            method,
            data.channels,
            data.image_size,
            data.mean,
            data.std,
            data.get("fit", "resize"),
            data.get("invert", data.name in DRAWINGS),
            needs_unlabeled=cfg.task.get("unlabeled", 0) > 0,
        )
    except UserError:
        raise
    except Exception as error:  # whatever a constructor of today says to settings of another day
        reason = " ".join(str(error).split())
        raise UserError(f"checkpoint={path}: its settings are of another version ({reason})") from error
    checkpoint.load_weights(method, content, path)
    method.bn = bn or cfg.bn or method.bn
    return learner
