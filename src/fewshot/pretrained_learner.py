"""Label images by a pretrained network, without a run of training."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from fewshot.engines import LoopEngine
from fewshot.errors import UserError
from fewshot.files import printable
from fewshot.learner import Learner
from fewshot.methods import Baseline, Method, ProtoNet, Ridge, SimpleShot
from fewshot.networks import PretrainedBackbone, efficientnet_lite0, timm_backbone
from fewshot.networks.timm_backbone import import_timm

NAMED = {"efficientnet_lite0": efficientnet_lite0}
# Ridge regression is half a point better where all classes have as many images, and ten points worse where some have 2
# and others 12: experiments/pretrained.
DEFAULT = "simpleshot"


def pretrained(name: str, method: str = DEFAULT, weights: str | None = None, **settings: Any) -> Learner:
    """Build a learner around a pretrained network.

    Nothing is trained: ``pretrained("efficientnet_lite0").fit(images, labels)`` is ready to label.

    Args:
        name: ``efficientnet_lite0``, whose weights come with a package, or any network of timm.
        method: ``simpleshot`` (class means of power-transformed, centred features), ``ridge``, ``logistic`` or
            ``protonet`` (class means of raw features).
        weights: a file of weights of a network of timm; None for the network's own.
        settings: further ones of the network, such as ``image_size`` and ``crop``.

    Raises:
        UserError: there is no such network or method, or the weights are missing or of another network.
    """
    if method not in METHODS:
        raise UserError(f"method={printable(method)}: choose one of {', '.join(METHODS)}")
    backbone = _network(name, weights, settings)
    decoding = backbone.decoding
    return Learner(
        METHODS[method](backbone),
        decoding.channels,
        decoding.image_size,
        preprocessing=decoding,
    )


def _network(name: str, weights: str | None, settings: dict[str, Any]) -> PretrainedBackbone:
    if name in NAMED:
        if weights is not None:
            raise UserError(f"weights={printable(weights)}: {name} has its own; name a network of timm for a file")
        return NAMED[name](**settings)
    timm = import_timm()
    if not timm.is_model(name.partition(".")[0]):
        near = [*get_close_matches(name, NAMED, 5, 0.5), *get_close_matches(name, timm.list_models(), 5, 0.5)]
        hint = f"the nearest names are {', '.join(near)}" if near else f"choose {', '.join(NAMED)} or a name of timm"
        raise UserError(f"backbone={printable(name)}: there is no such network; {hint}")
    try:
        return timm_backbone(name, **(settings if weights is None else settings | {"weights": weights}))
    except UserError as error:  # in the words of a run's settings
        text = str(error).replace("backbone.name=", "backbone=").replace("backbone.weights=", "weights=")
        raise UserError(text) from error


def _simpleshot(backbone: PretrainedBackbone) -> Method:
    return SimpleShot(
        backbone, power=0.5, centre="support", metric="cosine", scale=20.0, engine=LoopEngine(), bn="running"
    )


def _ridge(backbone: PretrainedBackbone) -> Method:
    return Ridge(backbone, scale=30.0, engine=LoopEngine(), bn="running")


def _logistic(backbone: PretrainedBackbone) -> Method:
    return Baseline(
        backbone, ways=2, inner_rate=1.0, test_steps=1, solver="logistic", normalise=True, engine=LoopEngine(),
        bn="running",
    )  # fmt: skip


def _protonet(backbone: PretrainedBackbone) -> Method:
    return ProtoNet(backbone, engine=LoopEngine(), bn="running")


METHODS: dict[str, Callable[[PretrainedBackbone], Method]] = {
    "simpleshot": _simpleshot,
    "ridge": _ridge,
    "logistic": _logistic,
    "protonet": _protonet,
}
