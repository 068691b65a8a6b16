"""Let the data follow a pretrained network.

Its preprocessing is a part of it, so the settings of the data have nothing to say about normalisation. Where the
network is frozen and nothing changes the images, its features are computed once.
"""

import logging
from dataclasses import replace
from typing import Any

import torch
from omegaconf import DictConfig

from fewshot.command.settings import keys_of
from fewshot.data.features import Features, OfFiles
from fewshot.methods import Method
from fewshot.networks import PretrainedBackbone, find_pretrained

log = logging.getLogger(__name__)
TYPED = ("data.mean", "data.std", "data.channels")


def forget_weights(cfg: DictConfig) -> None:
    """Let a checkpoint bring the weights of a pretrained network.

    No file or hub that the stored settings name is read.
    """
    if "weights" in (cfg.get("backbone") or {}):
        cfg.backbone.weights = None


def follow_network(dataset: Any, method: Method, cfg: DictConfig, announce: bool) -> tuple[Any, float, float]:
    """Return the data set, mean and std for a method's network.

    The arguments come back unchanged if the network is not a pretrained one.

    Args:
        dataset: as ``cfg.data`` describes it.
        method: with its weights.
        cfg: the settings of the run; ``cfg.typed`` are the user's own.
        announce: log how the data differ from the settings.
    """
    backbone = find_pretrained(method.network)
    if backbone is None or cfg.data.get("is_features"):
        return dataset, cfg.data.mean, cfg.data.std
    if announce:
        _announce_ignored(cfg, backbone)
    reason = _why_not_once(method, cfg)
    if reason is None:
        backbone.to(_device(cfg))
        return Features(dataset, backbone, cfg.cache_dir), 0.0, 1.0
    if announce:
        log.info("features of %s are computed anew in each task: %s", backbone.name, reason)
    if isinstance(dataset, OfFiles):
        dataset.decoding = _decoding(dataset, backbone, cfg)
    return dataset, 0.0, 1.0


def _announce_ignored(cfg: DictConfig, backbone: PretrainedBackbone) -> None:
    ignored = [override for override in cfg.typed if keys_of([override])[0] in TYPED]
    if any(override == "data.channels=1" for override in ignored):
        log.warning("data.channels=1: %s takes colours, so grey images are converted", backbone.name)
        ignored.remove("data.channels=1")
    if ignored:
        log.warning("%s: not used, since %s brings its own preprocessing", " ".join(ignored), backbone.name)


def _why_not_once(method: Method, cfg: DictConfig) -> str | None:
    """Return why features cannot be computed once.

    None if they can.
    """
    if method.feature_extractor is None:
        return f"{cfg.choices.method} trains or adapts the network, or makes images"
    if not cfg.data.get("features", True):
        return "data.features=false"
    changes = ("augment", "rotations", "eval_rotations")
    return next((f"data.{key} changes the images" for key in changes if cfg.data.get(key)), None)


def _decoding(dataset: OfFiles, backbone: PretrainedBackbone, cfg: DictConfig) -> Any:
    """Return how files become images that go through the network.

    Small images keep their size on disk, and the network enlarges these.
    """
    own = dataset.decoding
    if cfg.data.get("native_size") or "data.image_size" in keys_of(cfg.typed):
        return replace(own, channels=3)
    return replace(backbone.decoding, invert=own.invert, full_scale=own.full_scale)


def _device(cfg: DictConfig) -> str:
    """Return the device that computes the features."""
    wanted = cfg.trainer.get("accelerator", "auto")
    return "cuda" if wanted in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"
