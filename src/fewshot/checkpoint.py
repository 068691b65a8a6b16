"""Read checkpoints, even from an untrusted source.

Every fault is reported in one clear line.
"""

import logging
import math
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.allow_list import build, is_own, refuse_foreign_targets, targets
from fewshot.errors import UserError
from fewshot.networks import ClassHead
from fewshot.old_checkpoints import FORMAT, upgrade_settings, upgrade_weights
from fewshot.stored_settings import Resolver, parse

log = logging.getLogger(__name__)
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
MAX_PARTS = 10_000  # modules and parameters of a network that stored settings build


def newest(folder: Path, named: str = "auto", trusted: Collection[str] = ()) -> Path | None:
    """Return the newest readable checkpoint.

    The candidate ``named`` comes first if it is a file name; then come the files of ``folder``. Without any candidate
    the result is None.

    Raises:
        UserError: there are some, and none can be read.
    """
    files = [Path(named)] if named.endswith(".ckpt") else []
    files += [folder / name for name in (LAST, PREVIOUS) if (folder / name).is_file()]
    for count, file in enumerate(files, 1):
        try:
            read(file, "resume", trusted)
        except UserError as error:
            if count == len(files):
                raise
            log.warning("%s; going back to %s", error, files[count])
        else:
            return file
    return None


def read(path: str | Path, key: str = "checkpoint", trusted: Collection[str] = ()) -> dict[str, Any]:
    """Return the content of a checkpoint.

    The content is in today's format. No object of its settings is built.

    Args:
        path: the file.
        key: the setting that names the file; ``resume`` also needs what training goes on from.
        trusted: names outside this project that the stored settings may build.

    Returns:
        ``state_dict``, ``settings`` (a mapping, interpolations kept as text), and what Lightning wrote.

    Raises:
        UserError: the file is missing, damaged, of another program or a newer version, or builds anything foreign.
    """
    content = _load(Path(path), key)
    try:
        _upgrade(content)
        refuse_foreign_targets(content["settings"], trusted)
        if key == "resume":
            _refuse_bad_progress(content)
    except UserError as error:
        raise UserError(f"{key}={path}: {error}") from error
    return content


def _load(path: Path, key: str) -> dict[str, Any]:
    if path.is_dir():
        raise UserError(f"{key}={path} is a folder: name a file, such as {path}/checkpoints/best.ckpt")
    if not path.exists():
        # An experiment may name weights that another one writes.
        hint = "; run what writes it first, or give weights=null" if key == "weights" else ""
        raise UserError(f"{key}={path}: no such file{hint}")
    if not path.is_file():
        raise UserError(f"{key}={path}: not a file, but a pipe or a device")
    try:
        _refuse_compressed(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways, none of which says more
        raise UserError(f"{key}={path}: not a readable checkpoint ({type(error).__name__})") from error
    if not isinstance(content, dict) or "state_dict" not in content or not {"settings", "recipe"} & set(content):
        raise UserError(f"{key}={path}: not a checkpoint of this project (it holds no settings)")
    return content


def _refuse_compressed(path: Path) -> None:
    """Refuse a compressed archive.

    Torch never writes an archive that unpacks to more than its own size.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > path.stat().st_size:
            raise ValueError("a compressed archive")


def _upgrade(content: dict[str, Any]) -> None:
    """Bring ``content`` to today's format."""
    number = content.get("format", 1)
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise UserError(f"not a checkpoint of this project (its format is {str(number)[:40]!r})")
    if number > FORMAT:
        raise UserError(f"written by a newer version (format {number}; this one reads up to {FORMAT}): update this one")
    settings = parse(content.pop("recipe" if number == 1 else "settings", None))
    _refuse_bad_weights(content["state_dict"])
    if number == 1:
        settings = upgrade_settings(settings)
        content["state_dict"] = upgrade_weights(content["state_dict"], settings.get("method"))
    content["settings"] = settings
    content["format"] = FORMAT


def _refuse_bad_weights(weights: Any) -> None:
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise UserError("its weights are no mapping from names to tensors")
    for name, value in weights.items():
        _refuse_bad_tensor(name, value)


def _refuse_bad_tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise UserError(f"its weight {name[:80]} is {type(value).__name__}, no tensor")
    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    if not plain or value.is_complex() or value.is_nested:
        raise UserError(f"its weight {name[:80]} is no dense tensor of real numbers")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():  # expanded: may be of any size
        raise UserError(f"its weight {name[:80]} claims more numbers than the file holds")
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise UserError(f"its weight {name[:80]} is not finite: the run diverged, or the file is damaged")


def _refuse_bad_progress(content: dict[str, Any]) -> None:
    """Refuse a checkpoint that cannot be resumed.

    Resuming needs a step, optimisers, callbacks, and counts of steps.
    """
    step = content.get("global_step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise UserError("not a checkpoint to go on from (it holds no number of steps); weights=PATH starts from it")
    for part, kind in (("callbacks", dict), ("optimizer_states", list), ("loops", dict), ("lr_schedulers", list)):
        if not isinstance(content.get(part), kind):
            raise UserError(f"not a checkpoint to go on from (its {part} are missing or damaged)")
    if not all(isinstance(state, dict) for state in content["callbacks"].values()):
        raise UserError("not a checkpoint to go on from (the states of its callbacks are damaged)")
    for path, value in _leaves(content["loops"]):
        if isinstance(value, int | float) and not 0 <= value < 2**50:
            raise UserError(f"not a checkpoint to go on from (loops.{path} is {value})")
    for path, value in _leaves(content["optimizer_states"]):
        if isinstance(value, Tensor):
            _refuse_bad_tensor(f"of optimizer_states.{path}", value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"not a checkpoint to go on from (optimizer_states.{path} is {value})")


def _leaves(content: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    if depth > 20:
        raise UserError("it is nested more than the checkpoint of any run")
    if isinstance(content, dict | list | tuple):
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in pairs:
            yield from _leaves(value, f"{path}.{key}" if path else str(key), depth + 1)
    else:
        yield path, content


def build_method(content: dict[str, Any], path: str | Path, trusted: Collection[str] = ()) -> nn.Module:
    """Build a checkpoint's method with its weights.

    The method is built without memory first and compared with the weights: settings may ask for any size.

    Raises:
        UserError: the settings are of another version, or the weights of another network.
    """
    settings = content["settings"]
    node = _without_weights(Resolver(settings).resolve(settings.get("method"), ("method",)))
    refuse_other_network(_shapes(node, path, trusted=trusted), content, path)
    method: nn.Module = build(node, trusted)
    load_weights(method, content, path)
    return method


def _without_weights(node: Any) -> Any:
    """Return settings of networks that read no weights.

    The checkpoint brings the weights of a pretrained network: no file or hub that its settings name is read.
    """
    if not isinstance(node, dict):
        return node
    network = str(node.get("_target_")).startswith("fewshot.networks.")
    return {key: None if network and key == "weights" else _without_weights(value) for key, value in node.items()}


def refuse_other_settings(method: dict[str, Any], content: dict[str, Any], path: str | Path, key: str) -> None:
    """Refuse settings of another network than the weights.

    The comparison takes no memory for the network. Settings that build parts of other projects are left to the run
    itself.

    Raises:
        UserError: the settings are of another version, or the weights of another network.
    """
    if all(is_own(target) for target in targets(method)):
        refuse_other_network(_shapes(method, path, key), content, path, key)


def _shapes(method: Any, path: str | Path, key: str = "checkpoint", trusted: Collection[str] = ()) -> nn.Module:
    """Build a method without memory for its weights."""
    try:
        with _FewParts(), torch.device("meta"):
            shapes = build(method, trusted)
    except UserError as error:
        raise UserError(f"{key}={path}: {error}") from error
    except Exception as error:  # whatever a constructor of today says to settings of another day
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{key}={path}: its settings are of another version ({reason})") from error
    if not isinstance(shapes, nn.Module) or not hasattr(shapes, "fit_task"):
        raise UserError(f"{key}={path}: its settings name no method")
    return shapes


class _FewParts:
    """Limit the number of modules and parameters.

    Stored settings may ask for a million layers.
    """

    def __enter__(self) -> None:
        self._made = 0
        self._hooks = [
            nn.modules.module.register_module_module_registration_hook(self._count),
            nn.modules.module.register_module_parameter_registration_hook(self._count),
        ]

    def _count(self, module: nn.Module, name: str, part: object) -> None:
        self._made += 1
        if self._made > MAX_PARTS:
            raise UserError("its settings ask for more layers than any network here has")

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


def load_weights(module: nn.Module, content: dict[str, Any], path: str | Path, key: str = "checkpoint") -> None:
    """Copy the weights of a checkpoint into ``module``.

    Raises:
        UserError: the network is another; the message names the first differences.
    """
    refuse_other_network(module, content, path, key)
    module.load_state_dict(content["state_dict"])


def refuse_other_network(module: nn.Module, content: dict[str, Any], path: str | Path, key: str = "checkpoint") -> None:
    """Refuse weights that do not fit ``module``.

    Names and shapes are compared, after the heads got the stored number of classes.

    Raises:
        UserError: the network is another; the message names the first differences.
    """
    stored = content["state_dict"]
    for name, layer in module.named_modules():
        weight = stored.get(f"{name}.weight")
        if isinstance(layer, ClassHead) and weight is not None and weight.ndim == 2:
            layer.resize(len(weight))
    wanted = module.state_dict()
    differences = [f"{name} is missing" for name in wanted if name not in stored]
    differences += [f"{name[:80]} is not in the network" for name in stored if name not in wanted]
    differences += [
        f"{name} is {tuple(stored[name].shape)} there and {tuple(wanted[name].shape)} here"
        for name in wanted
        if name in stored and stored[name].shape != wanted[name].shape
    ]
    if differences:
        more = f" and {len(differences) - 2} more" if len(differences) > 2 else ""
        raise UserError(f"{key}={path} is of another network or number of classes: {'; '.join(differences[:2])}{more}")
