"""A small data set that nobody has to download."""

from dataclasses import replace

import torch

from fewshot.data.split import Split


def synthetic_split(
    classes: int = 30, images: int = 10, size: int = 8, name: str = "made/train", seed: int = 0
) -> Split:
    """Classes that can be told apart: a random pattern each, and noise on every image."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(classes, 1, 1, size, size, generator=generator)
    noise = torch.rand(classes, images, 1, size, size, generator=generator)
    pixels = ((0.6 * patterns + 0.4 * noise) * 255).to(torch.uint8).flatten(0, 1)
    return Split(name, pixels, torch.full((classes,), images), tuple(f"{name}-{seed}-{c}" for c in range(classes)))


class Omniglot:
    """In place of ``fewshot.data.Omniglot``, whose arguments it takes: 20 images of each of 30 characters a split.

    They are of two alphabets, of 20 characters and of 10.
    """

    def __init__(self, image_size: int = 28, **others: object) -> None:
        self.image_size = image_size

    def load(self) -> dict[str, Split]:
        splits = {}
        for seed, name in enumerate(("train", "val", "test")):
            split = synthetic_split(images=20, size=self.image_size, name=f"omniglot/{name}", seed=seed)
            characters = tuple(f"{name}{number // 20}/{number}" for number in range(30))
            splits[name] = replace(split, classes=characters)
        return splits
