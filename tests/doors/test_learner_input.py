"""Images and labels of any usual kind, from Python."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot import passes
from fewshot.engines import LoopEngine
from fewshot.errors import UserError
from fewshot.learner import Learner
from fewshot.networks.norm_layers import batch_norms
from methods_table import build

SIZE = 8


@pytest.fixture
def trained() -> Learner:
    torch.manual_seed(0)
    return Learner(build("nearest", LoopEngine()), channels=1, image_size=SIZE)


@pytest.fixture
def pixels() -> torch.Tensor:
    """Six images of two classes."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (6, 1, SIZE, SIZE), dtype=torch.uint8, generator=generator)


LABELS = {
    "tensor": lambda: torch.tensor([10] * 3 + [2] * 3),
    "array": lambda: np.array([10] * 3 + [2] * 3),
    "numbers": lambda: [10] * 3 + [2] * 3,
    "tensors": lambda: [torch.tensor(10)] * 3 + [torch.tensor(2)] * 3,
    "scalars": lambda: [np.int64(10)] * 3 + [np.int64(2)] * 3,
    "tuple": lambda: (10,) * 3 + (2,) * 3,
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_kind_are_the_same_classes(kind: str, trained: Learner, pixels: torch.Tensor) -> None:
    fitted = trained.fit(pixels, LABELS[kind]())
    assert fitted.classes == [10, 2]  # as texts, in order
    assert all(type(name) is int for name in fitted.classes)
    assert fitted(pixels) == [10] * 3 + [2] * 3


def test_texts_stay_texts(trained: Learner, pixels: torch.Tensor) -> None:
    assert trained.fit(pixels, np.array(["b"] * 3 + ["a"] * 3))(pixels) == ["b"] * 3 + ["a"] * 3


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("aaabbb", "labels are str: give a sequence"),
        (torch.eye(6), "a label is [1.0, 0.0"),
        ([float("nan")] * 6, "a label is nan"),
        ([torch.ones(2)] * 6, "a label is tensor"),
        (torch.tensor(1), "labels are one number"),
        (None, "labels are NoneType"),
        ([1, 2], "6 support images, but 2 labels"),
        ([1] * 6, "at least 2 are needed"),
    ],
)
def test_other_labels_are_refused(labels: object, words: str, trained: Learner, pixels: torch.Tensor) -> None:
    with pytest.raises(UserError) as refused:
        trained.fit(pixels, labels)
    assert words in str(refused.value)


def test_images_of_any_kind_are_the_same_pixels(trained: Learner, pixels: torch.Tensor, tmp_path: Path) -> None:
    pictures = [Image.fromarray(image[0].numpy()) for image in pixels]
    files = [tmp_path / f"{place}.png" for place in range(6)]
    for picture, file in zip(pictures, files, strict=True):
        picture.save(file)
    kinds = {
        "floats": pixels / 255,
        "doubles": pixels.double() / 255,
        "array": pixels.numpy(),
        "array of floats": pixels.numpy() / np.float32(255),
        "tensors": list(pixels),
        "arrays": list(pixels.numpy()),
        "grey arrays": [image[0] for image in pixels.numpy()],
        "colour arrays": [np.repeat(image[0][..., None], 3, 2) for image in pixels.numpy()],
        "pictures": pictures,
        "files": files,
        "names": [str(file) for file in files],
        "files and pictures": [*files[:3], *pictures[3:]],
        "generator": (file for file in files),
    }
    wanted = trained.pixels(pixels)
    for kind, images in kinds.items():
        torch.testing.assert_close(trained.pixels(images), wanted, rtol=0, atol=1e-6, msg=kind)
    for kind, image in {"file": files[0], "name": str(files[0]), "picture": pictures[0], "one": pixels[0]}.items():
        torch.testing.assert_close(trained.pixels(image), wanted[:1], msg=kind)


def test_pictures_of_any_size_are_resized(trained: Learner) -> None:
    assert trained.pixels(Image.new("RGB", (40, 30), "white")).shape == (1, 1, SIZE, SIZE)
    assert trained.pixels([np.zeros((40, 30), np.uint8)]).shape == (1, 1, SIZE, SIZE)
    assert trained.pixels([]).shape == (0, 1, SIZE, SIZE)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x: x.float(), "give floats in [0, 1], or uint8 of 0..255"),
        (lambda x: x.float() / 127.5 - 1, "give floats in [0, 1]"),
        (lambda x: torch.full(x.shape, torch.nan), "floats from nan to nan"),
        (lambda x: x.long(), "images are torch.int64: give uint8"),
        (lambda x: x.numpy().astype(float), "give floats in [0, 1]"),
        (lambda x: x[:, :, 1:], "but the network takes (M, 1, 8, 8)"),
        (lambda x: [x[0, 0].numpy(), 3], "an image is int"),
        (lambda x: [np.zeros((5, 5))], "an image is float64 (5, 5)"),
        (lambda x: "nowhere.png", "nowhere.png: No such file"),
        (lambda x: Path("/"), "/: a folder"),
    ],
)
def test_other_images_are_refused(make, words: str, trained: Learner, pixels: torch.Tensor) -> None:
    with pytest.raises(UserError) as refused:
        trained.pixels(make(pixels))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["protonet", "matching", "relation", "n_pair", "baseline"])
@pytest.mark.parametrize("bn", ["running", "transductive"])
def test_large_support_sets_go_in_parts(name: str, bn: str, pixels: torch.Tensor, monkeypatch) -> None:
    """No pass is larger than the limit; with running averages the parts give the same probabilities."""
    torch.manual_seed(0)
    method = build(name, LoopEngine())
    method.bn = bn
    for layer in batch_norms(method.network):
        layer.updates.fill_(1)
    many = pixels.repeat(20, 1, 1, 1)
    labels = [0, 1] * 60
    trained = Learner(method, channels=1, image_size=SIZE)
    whole = trained.fit(many, labels).probabilities(many[:5])
    sizes = []
    monkeypatch.setattr(passes, "AT_ONCE", 16)
    monkeypatch.setattr(passes, "PASS", 16)
    first = next(layer for layer in method.network.modules() if isinstance(layer, torch.nn.Conv2d))
    first.register_forward_pre_hook(lambda _, given: None if torch.is_grad_enabled() else sizes.append(len(given[0])))
    parts = trained.fit(many, labels).probabilities(many[:5])
    assert sizes
    assert max(sizes) <= 16
    if bn == "running":
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_a_backbone_is_whole_again_after_use(pixels: torch.Tensor) -> None:
    method = build("protonet", LoopEngine())
    with passes.passes_in_parts(method):
        assert "forward" in vars(method.backbone)
    assert "forward" not in vars(method.backbone)
