"""Features computed once: equal to a direct pass, continued after a kill, computed again when anything changes."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fewshot.data import ImageFolder, feature_store, features
from fewshot.data.features import Features
from fewshot.data.image_conversion import Decoding, Unreadable
from fewshot.data.images import decode_file
from fewshot.errors import UserError
from fewshot.networks import PretrainedBackbone
from synthetic_data import synthetic_split

SIZE, FEATURES = 8, 5


class Killed(BaseException):
    """Stand for a signal that nothing catches."""


class Encoder(PretrainedBackbone):
    """Encode by one small layer, and note the images; ``dies_after`` so many."""

    def __init__(self, seed: int = 0, dies_after: int | None = None) -> None:
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, FEATURES))
        decoding = Decoding(3, SIZE, "centre_crop", scale=10, resampling="bicubic")
        super().__init__(layers, FEATURES, decoding, (0.4,) * 3, (0.3,) * 3, "small")
        self.seen = 0
        self.dies_after = dies_after

    def encode(self, pixels: Tensor) -> Tensor:
        if self.dies_after is not None and self.seen + len(pixels) > self.dies_after:
            raise Killed
        self.seen += len(pixels)
        return super().encode(pixels)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return 3 splits of 2 classes of 4 images; one is damaged, one is in two splits."""
    numbers = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for label in ("a", "b"):
            place = tmp_path / "images" / split / f"{split}_{label}"
            place.mkdir(parents=True)
            for number in range(4):
                pixels = numbers.integers(0, 256, (12, 17, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    images = tmp_path / "images"
    (images / "train" / "train_a" / "1.png").write_bytes(b"damaged")
    (images / "test" / "test_b" / "0.png").write_bytes((images / "val" / "val_a" / "2.png").read_bytes())
    return images


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(feature_store, "BATCH", 4)


def load(folder: Path, encoder: Encoder, cache: Path):
    return Features(ImageFolder(folder, cache), encoder, cache).load()


def test_features_equal_a_direct_pass(folder, tmp_path):
    encoder = Encoder()
    splits = load(folder, encoder, tmp_path / "cache")
    assert {name: split.counts.tolist() for name, split in splits.items()} == {
        "train": [3, 4], "val": [4, 4], "test": [4, 4],
    }  # fmt: skip
    assert splits["test"].name == "folder/test"
    pixels = decode_file(folder / "test" / "test_a" / "3.png", encoder.decoding).pixels
    direct = encoder(torch.from_numpy(pixels)[None] / 255)
    assert splits["test"].images.shape == (8, FEATURES, 1, 1)
    assert torch.allclose(splits["test"].images[3].flatten(), direct[0], atol=1e-5)


def test_features_are_computed_once(folder, tmp_path):
    first, second = Encoder(), Encoder()
    one = load(folder, first, tmp_path / "cache")
    two = load(folder, second, tmp_path / "cache")
    assert first.seen == 23
    assert second.seen == 0
    assert torch.equal(one["val"].images, two["val"].images)


@pytest.mark.parametrize("change", ["weights", "normalisation", "preprocessing", "images", "damage"])
def test_features_are_computed_again_where_something_changed(folder, tmp_path, change):
    load(folder, Encoder(), tmp_path / "cache")
    encoder = Encoder(seed=1 if change == "weights" else 0)
    if change == "normalisation":
        encoder.std.mul_(2)
    elif change == "preprocessing":
        encoder.decoding = replace(encoder.decoding, resampling="bilinear")
    elif change == "images":
        Image.new("RGB", (20, 20)).save(folder / "val" / "val_a" / "9.png")
    elif change == "damage":
        array = next((tmp_path / "cache").glob("*.npy"))
        array.write_bytes(array.read_bytes()[:-4] + b"\0\0\0\0")
    load(folder, encoder, tmp_path / "cache")
    assert encoder.seen >= 23


@pytest.mark.parametrize("after", [4, 9, 16, 22])
def test_a_killed_computation_goes_on(folder, tmp_path, after):
    whole = load(folder, Encoder(), tmp_path / "whole")
    killed = Encoder(dies_after=after)
    with pytest.raises(Killed):
        load(folder, killed, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.json"))
    again = Encoder()
    splits = load(folder, again, tmp_path / "cache")
    assert killed.seen + again.seen == 23
    assert killed.seen > 0
    for name, split in splits.items():
        assert torch.allclose(split.images, whole[name].images, atol=1e-6)
        assert split.counts.tolist() == whole[name].counts.tolist()
    assert sorted(
        path.suffix for path in (tmp_path / "cache").iterdir() if "features" in path.name and path.name[0] == "."
    ) == [".lock"]


@pytest.mark.parametrize("damage", ["half a line", "fewer rows", "other images"])
def test_a_damaged_journal_does_no_harm(folder, tmp_path, damage):
    cache = tmp_path / "cache"
    with pytest.raises(Killed):
        load(folder, Encoder(dies_after=12), cache)
    journal, part = next(cache.glob(".*.journal")), next(cache.glob(".*.part"))
    if damage == "half a line":
        journal.write_bytes(journal.read_bytes()[:-7])
    elif damage == "fewer rows":
        part.write_bytes(part.read_bytes()[:-9])
    else:
        Image.new("RGB", (20, 20)).save(folder / "train" / "train_a" / "0.png")
    splits = load(folder, Encoder(), cache)
    fresh = load(folder, Encoder(), tmp_path / "fresh")
    for name, split in splits.items():
        assert torch.allclose(split.images, fresh[name].images, atol=1e-6)


def test_dark_images_of_a_narrow_camera_are_named(folder, tmp_path, caplog):
    for file in folder.glob("*/*/*.png"):
        Image.fromarray(np.full((12, 17), 900, np.uint16)).save(file)
    for _ in range(2):
        caplog.clear()
        load(folder, Encoder(), tmp_path / "cache")
        assert "set data.full_scale=1023" in caplog.text


def test_a_reason_is_a_reason_whatever_its_words(folder, tmp_path, monkeypatch):
    real = features.decode_files

    def decode(*arguments):
        for image in real(*arguments):
            yield Unreadable("read error") if isinstance(image, Unreadable) else image

    monkeypatch.setattr(features, "decode_files", decode)
    assert load(folder, Encoder(), tmp_path / "cache")["train"].counts.tolist() == [3, 4]


def test_what_is_found_is_said_every_time(folder, tmp_path, caplog):
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            load(folder, Encoder(), tmp_path / "cache")
        text = caplog.text
        assert "1 of 24 files are unreadable and left out: train/train_a/1.png" in text
        assert "1 images are the same in two splits" in text


def test_images_in_memory_have_features_too(tmp_path):
    class Two:
        def load(self):
            return {"train": synthetic_split(), "test": replace(synthetic_split(), name="other/test")}

    encoder = Encoder()
    splits = Features(Two(), encoder, tmp_path).load()
    assert splits["test"].name == "other/test"
    images = synthetic_split().images
    assert len(splits["train"].images) == len(images)
    direct = encoder(images[7:8] / 255)
    assert torch.allclose(splits["train"].images[7].flatten(), direct[0], atol=1e-5)
    again = Encoder()
    Features(Two(), again, tmp_path).load()
    assert again.seen == 0


def test_values_are_refused(tmp_path):
    class Values:
        def load(self):
            return {"train": replace(synthetic_split(), images=torch.rand(300, 2))}

    with pytest.raises(UserError, match="takes images, but the data has values"):
        Features(Values(), Encoder(), tmp_path).load()


def test_a_folder_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to the cache folder"):
        load(folder, Encoder(), tmp_path / "file" / "cache")
