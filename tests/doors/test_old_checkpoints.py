"""Read checkpoints of format 1, as commit 35d2c0a wrote them: other names of modules, settings and weights."""

import re
from pathlib import Path

import pytest
import torch
import yaml

import fewshot
from fewshot import checkpoint
from fewshot.old_checkpoints import upgrade_settings

STORED = Path(__file__).parent / "settings_of_35d2c0a"
NAMES = sorted(file.stem for file in STORED.glob("*.yaml"))


def old_name(key: str, metagan: bool) -> str:
    """Return the name of a weight in format 1."""
    if metagan:
        return re.sub(r"^host\.", "classifier.", re.sub(r"^host\.classifier\.", "host.learner.", key))
    return re.sub(r"^classifier\.", "learner.", key)


@pytest.fixture(params=NAMES)
def old_checkpoint(request, tmp_path):
    """Return the file of an old checkpoint with random weights, and these weights by today's names."""
    settings = (STORED / f"{request.param}.yaml").read_text(encoding="utf-8")
    today = upgrade_settings(yaml.safe_load(settings))
    torch.manual_seed(0)
    resolved = checkpoint.Resolver(today).resolve(today["method"], ("method",))
    weights = checkpoint.build(resolved).state_dict()
    if request.param == "baseline":  # a head of the training classes
        weights |= {"classifier.head.weight": torch.randn(7, 64), "classifier.head.bias": torch.randn(7)}
    weights |= {key: torch.ones_like(value) for key, value in weights.items() if key.endswith("updates")}
    old = {old_name(key, "metagan" in request.param): value for key, value in weights.items()}
    file = tmp_path / "best.ckpt"
    torch.save({"recipe": settings, "state_dict": old, "global_step": 20}, file)
    return file, weights


def test_an_old_checkpoint_still_labels_images(old_checkpoint):
    file, weights = old_checkpoint
    learner = fewshot.load(file)
    for key, value in learner.method.state_dict().items():
        assert torch.equal(value, weights[key]), key
    random = torch.Generator().manual_seed(0)
    images = torch.rand(20, learner.channels, learner.image_size, learner.image_size, generator=random)
    predict = learner.fit(images[:10], [number % 5 for number in range(10)])
    assert set(predict(images[10:])) <= set(range(5))


def test_old_names_are_names_of_today():
    texts = [(STORED / f"{name}.yaml").read_text(encoding="utf-8") for name in NAMES]
    assert any("fewshot.inner" in text for text in texts)
    assert any("\n  classifier:\n" in text for text in texts)
    for text in texts:
        today = yaml.safe_dump(upgrade_settings(yaml.safe_load(text)))
        assert "fewshot.inner" not in today
        assert "classifier:" not in today
        assert "compile:" not in today


@pytest.mark.parametrize(("sizes", "change"), [([0.8, 1.2], 0.2), ([1, 1], 0), ([0.5, 1.2], [0.5, 1.2]), (0.1, 0.1)])
def test_sizes_of_augmented_images_are_largest_changes(sizes, change):
    strong = {"_target_": "fewshot.augment.strong", "_partial_": True, "scale": sizes}
    assert upgrade_settings({"method": {"pseudo_labels": {"strong": strong}}}) == {
        "method": {"pseudo_labels": {"strong": strong | {"scale": change}}}
    }
