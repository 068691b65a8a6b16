"""Build the embedding and head of relation networks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.errors import UserError
from fewshot.networks.backbone import Backbone
from fewshot.networks.classifier import Prediction
from fewshot.networks.norm_layers import make_norm

_HIDDEN = 8


class RelationNetwork(nn.Module):
    """Map images to relation scores.

    Images ``(M, C, H, W)`` have scores ``(M, N)`` before the sigmoid.

    The map of a class and the map of an image are put together along channels; two blocks of 3x3
    convolution, norm, 2x2 max-pooling and ReLU, a linear layer to 8, ReLU and a linear layer score each pair
    (Sung et al. 2018, section 3.4). Pairs are image-major, image i and class j in row i*N + j: a first part
    of the images is the same part of the pairs, as ``normalising`` needs.

    Args:
        backbone: maps images to flattened maps of ``backbone.shape``.
        norm: norm of the head; see ``fewshot.networks.norm_layers``.

    Attributes:
        classes: ``(N, D)`` flattened maps of classes; empty here; ``functional_call`` sets the classes of a task.

    Raises:
        UserError: the maps are too small for two poolings.
    """

    classes: Tensor

    def __init__(self, backbone: Backbone, norm: str = "batch") -> None:
        super().__init__()
        filters, height, width = backbone.shape
        if min(height, width) < 4:
            raise UserError(
                f"feature maps of {height} x {width} are too small for the relation head, which halves them twice: "
                "take backbone=conv4_relation, or larger images; features without space have no maps"
            )
        self.backbone = backbone
        self.join = nn.Conv2d(2 * filters, filters, 3, padding=1)
        self.head = nn.Sequential(
            make_norm(norm, filters), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(filters, filters, 3, padding=1), make_norm(norm, filters), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(), nn.Linear(filters * (height // 4) * (width // 4), _HIDDEN), nn.ReLU(),
            nn.Linear(_HIDDEN, 1),
        )  # fmt: skip
        self.register_buffer("classes", torch.zeros(0, backbone.features), persistent=False)

    def forward(self, x: Tensor) -> Prediction:
        """Return relation scores and features ``(M, D)``."""
        features = self.backbone(x)
        images, classes = (flat.view(len(flat), *self.backbone.shape) for flat in (features, self.classes))
        # A convolution of two maps side by side is the sum of two convolutions: M + N convolutions, not M * N.
        of_class, of_image = self.join.weight.split(self.backbone.shape[0], dim=1)
        pairs = F.conv2d(images, of_image, padding=1)[:, None] + F.conv2d(classes, of_class, self.join.bias, padding=1)
        return Prediction(self.head(pairs.flatten(0, 1)).view(len(images), len(classes)), features)
