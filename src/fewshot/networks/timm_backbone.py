"""Build any network of timm by its name.

Wightman, "PyTorch Image Models", github.com/huggingface/pytorch-image-models.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from importlib import import_module
from inspect import isclass, signature
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from fewshot.data.image_conversion import RESAMPLING, Decoding
from fewshot.errors import UserError
from fewshot.networks.pretrained import PretrainedBackbone, count_features

HUB = "hub"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
# Parts of a classifier, which a file may have and features do not need.
HEADS = ("head.", "fc.", "classifier.", "last_linear.", "head_dist.", "heads.")


def timm_backbone(
    name: str | None,
    weights: str | None = HUB,
    frozen: bool = True,
    image_size: int | None = None,
    crop: float | None = None,
) -> PretrainedBackbone:
    """Build a network of timm, with its preprocessing.

    Args:
        name: as ``timm.list_models`` lists it, with or without the tag of its weights.
        weights: ``hub``, downloaded by timm; a ``.safetensors``, ``.pth`` or ``.bin`` file; None for random weights.
        frozen: see ``PretrainedBackbone``.
        image_size: side of the images; None for the network's own.
        crop: the part of the shorter side that is kept; None for the network's own, 1 for all.

    Raises:
        UserError: timm is not installed, has no such network, or the weights are not of this network.
    """
    timm = import_timm()
    if not name:
        raise UserError("backbone.name=null: name a network of timm, such as backbone.name=resnet50.a1_in1k")
    _refuse_unknown(timm, name)
    options: dict[str, Any] = {"num_classes": 0}
    if image_size is not None and _takes_image_size(timm, name):
        options["img_size"] = image_size
    network = _create(timm, name, weights == HUB, options)
    if weights not in (None, HUB):
        assert weights is not None
        load_file(network, weights, name)
    return wrap_timm(network, name, frozen, image_size, crop)


def wrap_timm(
    network: nn.Module, name: str, frozen: bool, image_size: int | None = None, crop: float | None = None
) -> PretrainedBackbone:
    """Return a timm network as a backbone.

    The network has no classifier. Its own configuration gives the preprocessing.

    Raises:
        UserError: the network takes no colour images, or prepares these in an unknown way.
    """
    from timm.data.config import resolve_data_config

    data = resolve_data_config({}, model=network)
    channels, height, width = data["input_size"]
    resampling = "bicubic" if data["interpolation"] == "random" else data["interpolation"]
    fit = {"center": "centre_crop", "squash": "squash"}.get(data["crop_mode"])
    if channels != 3 or height != width or fit is None or resampling not in RESAMPLING:
        raise UserError(
            f"backbone.name={name}: takes images {channels} x {height} x {width}, cropped by {data['crop_mode']!r} and "
            f"resized by {resampling!r}, which is not known here: choose another network"
        )
    size = image_size or height
    decoding = Decoding(3, size, fit, scale=max(size, int(size / (crop or data["crop_pct"]))), resampling=resampling)
    network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    features = count_features(network, size)
    return PretrainedBackbone(network, features, decoding, tuple(data["mean"]), tuple(data["std"]), name, frozen)


def import_timm() -> Any:
    """Import timm.

    Raises:
        UserError: timm is not installed, or its packages do not fit each other.
    """
    try:
        return import_module("timm")
    except ImportError as error:
        raise UserError(
            f"networks of timm need further packages ({error}): pip install -r requirements-pretrained.txt"
        ) from error


def _takes_image_size(timm: Any, name: str) -> bool:
    """Tell whether the network itself must know the image size."""
    module = import_module(timm.model_entrypoint(name.partition(".")[0]).__module__)
    kinds = [value for value in vars(module).values() if isclass(value) and value.__module__ == module.__name__]
    return any("img_size" in signature(kind).parameters for kind in kinds if issubclass(kind, nn.Module))


def _refuse_unknown(timm: Any, name: str) -> None:
    base = name.partition(".")[0]
    if not timm.is_model(base):
        near = get_close_matches(base, timm.list_models(), 5, 0.5)
        raise UserError(
            f"backbone.name={name}: timm has no such network; "
            + (f"the nearest names are {', '.join(near)}" if near else "timm.list_models() lists all")
        )


def _create(timm: Any, name: str, pretrained: bool, options: Mapping[str, Any]) -> nn.Module:
    try:
        with no_retries() if pretrained else nullcontext():
            network: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:  # of the network, of the hub, or an unknown tag: one of many types
        reason = " ".join(str(error).split())
        if not pretrained or "nvalid pretrained tag" in reason:
            raise UserError(f"backbone.name={name}: {reason}") from error
        raise UserError(
            f"backbone.name={name}: its weights cannot be downloaded ({reason[:80].rpartition(' ')[0]} ...): elsewhere "
            f"take model.safetensors from huggingface.co/timm/{name}, and set backbone.weights=FILE"
        ) from error
    return network


@contextmanager
def no_retries() -> Iterator[None]:
    """Let a machine without a network use what was downloaded before, or fail at once."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _hub_is_there()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _hub_is_there() -> bool:
    """Tell whether the hub's name can be resolved."""
    host = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname or "huggingface.co"
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return bool(os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"))
    return True


def load_file(network: nn.Module, weights: str | Path, name: str) -> None:
    """Load the weights of a file, all of them.

    The file is read as data: nothing in it is run.

    Raises:
        UserError: the file is missing or damaged, or holds another network; the first keys that differ are named.
    """
    from timm.models import clean_state_dict

    path = Path(weights).expanduser()
    if not path.is_file() or path.suffix not in SUFFIXES:
        wanted = f"a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file, hub or null"
        raise UserError(f"backbone.weights={weights}: {'not' if path.is_file() else 'no such file; must be'} {wanted}")
    try:
        content = _read(path)
        for key in ("state_dict", "model"):
            content = content[key] if isinstance(content.get(key), dict) else content
        state = clean_state_dict(content)
        own = network.state_dict()
        if set(own) - set(state):  # of the authors' own names, which timm knows how to change
            module = import_module(type(network).__module__)
            rename = getattr(module, "checkpoint_filter_fn", None)
            state = rename(state, network) if rename else state
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"backbone.weights={weights}: not a readable file of weights ({type(error).__name__})"
        ) from error
    refuse_other_weights(own, state, f"backbone.weights={weights}", name)
    network.load_state_dict({key: state[key] for key in own})


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file as load_safetensors

        return dict(load_safetensors(path))
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise UserError(f"backbone.weights={path}: holds no mapping from names to weights")
    return content


def refuse_other_weights(own: Mapping[str, Tensor], state: Mapping[str, Any], source: str, name: str) -> None:
    """Refuse weights whose names or shapes differ.

    Weights of a classifier may be in the file and not in the network.

    Raises:
        UserError: names the first keys that differ.
    """
    missing = [key for key in own if key not in state]
    extra = [key for key in state if key not in own and not key.startswith(HEADS)]
    shapes = [
        f"{key} {tuple(getattr(state[key], 'shape', ()))} in place of {tuple(value.shape)}"
        for key, value in own.items()
        if key in state and getattr(state[key], "shape", None) != value.shape
    ]
    parts = [("lacks", missing), ("has also", extra), ("has", shapes)]
    found = [
        f"{verb} {', '.join(keys[:3])}{f' and {len(keys) - 3} more' * (len(keys) > 3)}" for verb, keys in parts if keys
    ]
    if found:
        raise UserError(f"{source}: the weights of another network than {name}: it {'; '.join(found)}")
