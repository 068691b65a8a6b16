"""Bring checkpoints of older versions to today's format.

Format 1 (no number in the file) has its settings under ``recipe``, older module names, and the host of MetaGAN
under ``classifier``.
"""

import re
from typing import Any

FORMAT = 2
# Modules that have another name since format 2.
_MOVED = {
    "fewshot.inner": "fewshot.engines",
    "fewshot.parallel": "fewshot.distributed",
    "fewshot.losses": "fewshot.methods.gan_losses",
    "fewshot.methods.batchnorm": "fewshot.methods.bn_protocol",
    "fewshot.methods.fine_tuned": "fewshot.methods.fixed_ways",
    "fewshot.methods.refinement": "fewshot.methods.soft_kmeans",
    "fewshot.methods.trajectory": "fewshot.methods.inner_trajectory",
    "fewshot.networks.blog": "fewshot.networks.keras_metagan",
    "fewshot.networks.learn2learn": "fewshot.networks.l2l_omniglot",
    "fewshot.networks.norm": "fewshot.networks.norm_layers",
    "fewshot.networks.normalise": "fewshot.networks.batch_norm_function",
    "fewshot.data.folder": "fewshot.data.image_folder",
    "fewshot.data.store": "fewshot.data.image_store",
}
_NAMES = {"fewshot.loggers.wandb_logger": "fewshot.loggers.Wandb"}
_HOST = re.compile(r"(^|\+|~|@|\$\{)method\.classifier\b")
_DRAWINGS = ("omniglot", "glyphs")  # ink is bright there; files of drawings to label have dark ink
_METAGAN = "fewshot.methods.MetaGAN"
_STRONG = "fewshot.augment.strong"


def upgrade_settings(settings: Any) -> Any:
    """Return settings with today's names.

    ``settings`` may also be overrides of a command line. Today's names stay the same.
    """
    upgraded = _renamed(settings)
    method = upgraded.get("method") if isinstance(upgraded, dict) else None
    if isinstance(method, dict) and method.get("_target_") == _METAGAN and "classifier" in method:
        upgraded["method"] = {("host" if key == "classifier" else key): value for key, value in method.items()}
    data = upgraded.get("data") if isinstance(upgraded, dict) else None
    if isinstance(data, dict) and data.get("name") in _DRAWINGS:
        data.setdefault("invert", True)
    return upgraded


def _renamed(node: Any) -> Any:
    if isinstance(node, dict):
        target = _target(node.get("_target_"))
        if target == _STRONG and isinstance(node.get("scale"), list):
            node = node | {"scale": _largest_change(node["scale"])}
        engine = isinstance(target, str) and target.startswith("fewshot.engines.")
        return {
            (_host(key) if isinstance(key, str) else key): _target(value) if key == "_target_" else _renamed(value)
            for key, value in node.items()
            if not (engine and key == "compile" and value is False)  # a setting that was always false
        }
    if isinstance(node, list):
        return [_renamed(value) for value in node]
    return _host(node) if isinstance(node, str) else node


def _largest_change(sizes: list[Any]) -> Any:
    """Return today's ``scale`` for a range of sizes.

    Sizes from 0.8 to 1.2 become 0.2. A range that is not symmetric about 1 stays the same.
    """
    plain = len(sizes) == 2 and all(isinstance(size, float | int) for size in sizes)
    return round(sizes[1] - 1, 9) if plain and abs(sizes[0] + sizes[1] - 2) < 1e-9 else sizes


def _host(text: str) -> str:
    return _HOST.sub(r"\1method.host", text)


def _target(target: Any) -> Any:
    if not isinstance(target, str):
        return target
    target = _NAMES.get(target, target)
    module, _, name = target.rpartition(".")
    for old, new in _MOVED.items():
        if f"{module}.".startswith(f"{old}."):
            return f"{new}{module.removeprefix(old)}.{name}"
    return target


def upgrade_weights(weights: dict[str, Any], method: Any) -> dict[str, Any]:
    """Return weights with today's keys.

    ``method`` holds the upgraded settings of the method.
    """
    metagan = isinstance(method, dict) and method.get("_target_") == _METAGAN
    return {_key(key, metagan): value for key, value in weights.items()}


def _key(key: str, metagan: bool) -> str:
    parts = key.split(".")
    if metagan and parts[0] == "classifier":
        parts[0] = "host"
    place = 1 if metagan and parts[0] == "host" else 0
    if len(parts) > place and parts[place] == "learner":
        parts[place] = "classifier"
    return ".".join(parts)
