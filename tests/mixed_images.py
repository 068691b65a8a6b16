"""A folder of images as people have them: every kind, and some that are none."""

from pathlib import Path

import numpy as np
from PIL import Image

BROKEN = 4  # unreadable files that ``mixed_folder`` leaves in its first class


def mixed_folder(root: Path, classes: int = 9, images: int = 8, seed: int = 0) -> Path:
    """``root/<class>/*``: a colour a class, in all modes and formats; nested and unicode names among the classes.

    In the first class, beside its images, lie a truncated one, a text file named ``.png``, an empty file and a folder
    of hidden files; in one of its own, a class of a single image.
    """
    random = np.random.default_rng(seed)
    names = ["plain", "кошка", "neste d/猫", "neste d/dog", *(f"class{n}" for n in range(4, classes))]
    for name in names:
        folder = root / name
        folder.mkdir(parents=True)
        for place in range(images):
            _image(folder, place, random.integers(0, 256, 3), random)
    first = root / names[0]
    whole = (first / "0.png").read_bytes()
    (first / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (first / "text.png").write_text("not an image")
    (first / "empty.jpg").touch()
    (first / "link.png").symlink_to("nowhere.png")
    (first / "notes.txt").write_text("known to be no image")
    (first / "Thumbs.db").write_bytes(b"\0")
    (first / ".hidden.png").write_text("hidden")
    (root / ".cache").mkdir()
    (root / ".cache" / "a.png").write_text("hidden")
    (root / "alone").mkdir()
    _image(root / "alone", 0, np.zeros(3), random)
    return root


def _image(folder: Path, place: int, colour: np.ndarray, random: np.random.Generator) -> None:
    noise = random.integers(-20, 20, (24 + place, 30, 3))
    image = Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    grey16 = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    one = [
        lambda: image.save(folder / f"{place}.png"),
        lambda: image.convert("L").save(folder / f"{place} grey.PNG"),
        lambda: image.convert("RGBA").save(folder / f"{place}-alpha.webp"),
        lambda: image.convert("CMYK").save(folder / f"{place}-cmyk.jpg"),
        lambda: image.save(folder / f"{place}-turned.jpeg", exif=exif),
        lambda: image.resize((1, 1)).save(folder / f"{place}-pixel.bmp"),
        lambda: image.convert("P").save(folder / f"{place}-é.gif"),
        lambda: grey16.save(folder / f"{place}-deep.tiff"),
    ]
    one[place % len(one)]()
