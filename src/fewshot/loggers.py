"""Loggers that need more than a constructor call."""

import logging
import os
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger

log = logging.getLogger(__name__)


def wandb_logger(save_dir: str, project: str, offline: bool | None = None, **options: Any) -> WandbLogger:
    """A Weights & Biases logger that never asks a question.

    Args:
        save_dir: where the run's files go.
        project: its name there.
        offline: None goes online where a key is found (``WANDB_API_KEY`` or a netrc entry) and
            ``WANDB_MODE`` does not say otherwise; ``wandb sync`` sends an offline run later.
        options: further arguments of ``wandb.init``.
    """
    import wandb

    if offline is None:
        mode = os.environ.get("WANDB_MODE")
        offline = mode == "offline" if mode else not _has_key()
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    if offline:
        log.info("wandb is offline: 'wandb sync %s/wandb/offline-run-*' sends this run later", save_dir)
    settings = wandb.Settings(silent=True, console="off")
    return WandbLogger(save_dir=save_dir, project=project, offline=offline, settings=settings, **options)


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc

    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
