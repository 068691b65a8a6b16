"""mini-ImageNet from its images and csv files; CIFAR-FS and FC100 as folders."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from fewshot.data import MiniImageNet
from fewshot.errors import UserError

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def root(tmp_path) -> Path:
    """Two classes a split, two images each, all in one folder."""
    folder = tmp_path / "root"
    (folder / "images").mkdir(parents=True)
    value = 0
    for split in ("train", "val", "test"):
        rows = ["filename,label"]
        for place in (1, 2):
            for label in ("x", "y"):
                name = f"{split}{label}{place}.jpg"
                Image.new("RGB", (50, 40), (value, value, value)).save(folder / "images" / name, quality=100)
                rows.append(f"{name},{split} {label}")
                value += 10
        (folder / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_the_csv_files_name_the_classes_of_each_split(root):
    splits = MiniImageNet(root, root.parent / "cache", image_size=8).load()
    assert {name: split.classes for name, split in splits.items()} == {
        name: (f"{name} x", f"{name} y") for name in ("train", "val", "test")
    }
    assert splits["train"].images[:, 0, 0, 0].tolist() == [0, 20, 10, 30]
    assert splits["test"].images[:, 2, 7, 7].tolist() == [80, 100, 90, 110]
    assert splits["val"].name == "mini_imagenet/val"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "images").rename(root / "pictures"), "images is no folder: put mini-ImageNet's"),
        (lambda root: (root / "val.csv").unlink(), "val.csv is missing: take it from"),
        (lambda root: (root / "val.csv").write_text("a,b\n1,2\n"), "val.csv has no columns filename and label"),
        (lambda root: (root / "val.csv").write_text("filename,label\n"), "val.csv names no image"),
        (lambda root: (root / "val.csv").write_text("filename,label\nvalx1.jpg\n"), "a line without filename or label"),
        (lambda root: [(root / "val.csv").unlink(), os.mkfifo(root / "val.csv")], "val.csv is missing"),
        (lambda root: (root / "images" / "testx1.jpg").unlink(), "1 of 4 images of .*test.csv are not .* testx1.jpg"),
        (lambda root: (root / "val.csv").write_text((root / "train.csv").read_text()), "in both train and val"),
    ],
)
def test_bad_input_is_one_line(root, spoil, message):
    spoil(root)
    with pytest.raises(UserError, match=message) as caught:
        MiniImageNet(root, root.parent / "cache", image_size=8).load()
    assert "\n" not in str(caught.value)


def composed(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


@pytest.mark.parametrize("name", ["cifar_fs", "fc100", "mini_imagenet"])
def test_recipes_say_how_to_get_what_is_missing(name, tmp_path):
    cfg = composed(f"data={name}", f"data_dir={tmp_path}", f"cache_dir={tmp_path}")
    with pytest.raises(UserError, match="is no folder: put "):
        instantiate(cfg.data.dataset).load()


def test_a_class_needs_the_images_of_a_task():
    cfg = composed("data=cifar_fs", "task=5w5s", "method=protonet", "task.unlabeled=2", "task.unlabeled_query=1")
    dataset = instantiate(cfg.data.dataset)
    assert dataset.least == {"train": 5 + 5 + 2 + 1, "val": 5 + 15 + 2, "test": 5 + 15 + 2}


def test_the_real_cifar_fs(cifar_script, tmp_path):
    subprocess.run([sys.executable, str(cifar_script), str(tmp_path / "cifar"), "--images", "20"], check=True)
    cfg = composed("data=cifar_fs", f"data.root={tmp_path / 'cifar'}", f"cache_dir={tmp_path}")
    splits = instantiate(cfg.data.dataset).load()
    assert {name: len(split.classes) for name, split in splits.items()} == {"train": 64, "val": 16, "test": 20}
    x = splits["train"].images.double() / 255
    assert abs(float(x.mean()) - cfg.data.mean) < 0.02
    assert abs(float(x.std()) - cfg.data.std) < 0.02
