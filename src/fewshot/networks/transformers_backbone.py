"""Build the vision tower of a model of transformers by its name.

Wolf et al., "Transformers: state-of-the-art natural language processing", EMNLP 2020 (demonstrations). Such models are
DINOv2 (Oquab et al. 2023) and the image towers of CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023).
"""

from importlib import import_module
from typing import Any

from torch import Tensor, nn

from fewshot.data.image_conversion import Decoding
from fewshot.errors import UserError
from fewshot.networks.pretrained import PretrainedBackbone, count_features
from fewshot.networks.timm_backbone import HUB, no_retries

RESAMPLING = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers


class Tower(nn.Module):
    """Return the pooled output of a vision model.

    Without pooling, the output of the first token.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``(M, D)`` of images ``(M, 3, S, S)``."""
        output = self.model(pixel_values=x)
        pooled: Tensor | None = getattr(output, "pooler_output", None)
        if pooled is None:
            first: Tensor = output.last_hidden_state[:, 0]
            return first
        return pooled.flatten(1)


def transformers_backbone(name: str | None, weights: str | None = HUB, frozen: bool = True) -> PretrainedBackbone:
    """Build a vision tower, with its preprocessing.

    Args:
        name: of the model on the hub, or a folder that ``save_pretrained`` wrote.
        weights: ``hub``, as ``name`` says; None for random weights.
        frozen: see ``PretrainedBackbone``.

    Raises:
        UserError: transformers is not installed, the model cannot be had or sees no images.
    """
    try:
        transformers: Any = import_module("transformers")
    except ImportError as error:
        raise UserError(
            f"networks of transformers need further packages ({error}): pip install -r requirements-transformers.txt"
        ) from error
    if not name:
        raise UserError("backbone.name=null: name a model, such as backbone.name=facebook/dinov2-small, or its folder")
    if weights not in (HUB, None):
        raise UserError(f"backbone.weights={weights}: choose hub or null; backbone.name=FOLDER takes files")
    try:
        with no_retries():
            config = transformers.AutoConfig.from_pretrained(name)
            prepared, _ = transformers.image_processing_utils.BaseImageProcessor.get_image_processor_dict(name)
            load = transformers.AutoModel
            model = load.from_pretrained(name) if weights else load.from_config(config)
    except Exception as error:  # of the hub or of files: one of many types
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"backbone.name={name}: the model cannot be had ({reason} ...): elsewhere take its files from "
            f"huggingface.co/{name}, and set backbone.name=FOLDER"
        ) from error
    tower = Tower(getattr(model, "vision_model", model)).float().eval()
    decoding = _decoding(prepared, name)
    try:
        features = count_features(tower, decoding.image_size)
    except Exception as error:
        raise UserError(f"backbone.name={name}: not a model of images ({type(error).__name__})") from error
    return PretrainedBackbone(
        tower, features, decoding, tuple(prepared["image_mean"]), tuple(prepared["image_std"]), name, frozen
    )


def _decoding(prepared: dict[str, Any], name: str) -> Decoding:
    """Return how the settings of an image processor prepare a file.

    Raises:
        UserError: the settings are not known here.
    """
    size = prepared.get("size") or {}
    size = {"shortest_edge": size} if isinstance(size, int) else size
    crop = prepared.get("crop_size") or {}
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    resampling = RESAMPLING.get(prepared.get("resample", 2))
    scale = size.get("shortest_edge") or size.get("height")
    side = crop.get("height") if prepared.get("do_center_crop") else scale
    square = size.get("height") == size.get("width") and crop.get("height") == crop.get("width")
    shorter = "shortest_edge" in size
    if not (scale and side and resampling and square) or (shorter and not prepared.get("do_center_crop")):
        raise UserError(f"backbone.name={name}: prepares images in a way that is not known here: choose another model")
    return Decoding(3, side, "centre_crop" if shorter else "squash", scale=scale, resampling=resampling)
