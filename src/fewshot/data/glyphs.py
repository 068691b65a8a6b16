"""Characters of many scripts, drawn from the fonts that matplotlib ships: a dataset that needs no download.

Every class is one character; every drawing of it has a face of its own (of those that cover the
character), a rotation, shear, scale and place, an elastic distortion and a stroke weight. The splits
share no script, and a character that looks like one kept before it is left out.

With the defaults a nearest neighbour in raw pixels gets about 45% of 5-way 1-shot test queries right;
ELASTIC, SHEAR, SHIFT, SCALE and WEIGHT set how hard that is.
"""

import math
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from fewshot.data.cache import cached
from fewshot.data.split import Split

# Left out: syllables that add a dot beside another one, a ring like an O, a fragment, a zero that is a dot.
SKIPPED = re.compile(r"CANADIAN SYLLABICS (.*W[A-Z]*|FINAL RING)|ARABIC TAIL FRAGMENT|ARABIC-INDIC DIGIT ZERO")
# Decomposable, but with a shape of their own.
SHAPED = re.compile(r"MATHEMATICAL .*|ARABIC LETTER .* INITIAL FORM")

VERSION = 1  # raise it when a drawing changes, so that caches are built again

# What the official names of a split's characters begin with, and the script's name here.
SCRIPTS = {
    "train": {
        "LATIN": "Latin",
        "DIGIT": "Digits",
        "CYRILLIC": "Cyrillic",
        "GREEK": "Greek",
        "ARMENIAN": "Armenian",
        "COPTIC": "Coptic",
        "MATHEMATICAL FRAKTUR": "Fraktur",
        "MATHEMATICAL SCRIPT": "Script",
        "MATHEMATICAL DOUBLE-STRUCK": "Double-struck",
    },
    "val": {"GEORGIAN": "Georgian", "OLD ITALIC": "Old_Italic", "NKO": "NKo", "OGHAM": "Ogham"},
    "test": {
        "CANADIAN SYLLABICS": "Canadian_Aboriginal",
        "ARABIC": "Arabic",
        "ARABIC-INDIC DIGIT": "Arabic",
        "HEBREW": "Hebrew",
        "LAO": "Lao",
        "TIFINAGH": "Tifinagh",
    },
}

STYLES = {
    "DejaVuSans": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "DejaVuSansMono": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "DejaVuSerif": ("", "-Bold", "-Italic", "-BoldItalic"),
    "STIXGeneral": ("", "Bol", "Italic", "BolIta"),
}
FACES = tuple(family + style for family, styles in STYLES.items() for style in styles)

# Cosine similarity of two normalised renders from which the characters count as the same. As they are,
# pairs above 0.95 differ in a hook or a hairline (K with and without descender). Stretched to a square, which
# also matches a narrow U with a wide one, pairs above 0.985 are one letter (C and c, U and u) or differ in a
# hairline, those from 0.95 mostly are one (A, F, T of two scripts) and those below mostly are not: the lower
# value guards the borders between splits, where losing a class is better than sharing one.
SAME = 0.95
SAME_STRETCHED_WITHIN = 0.985
SAME_STRETCHED_ACROSS = 0.95
BLUR = np.exp(-0.5 * np.subtract.outer(np.arange(16.0), np.arange(16.0)) ** 2)  # along one axis, 1 pixel wide

CANVAS = 84  # height and width of an undistorted master, in the pixels that the next numbers count
BODY = 60  # longer side of a glyph on it
EDGE = 3.0  # kept free of ink all round
ROTATION = math.radians(14.9)
SHEAR = 0.3
SCALE = (0.7, 1.1)
SHIFT = 9.0  # where there is room
ELASTIC_NODES = 5  # displacements are drawn on this many squared points and interpolated
ELASTIC = 2.6  # largest displacement of a point
WEIGHT = 0.75  # largest step towards the thinned or thickened master
SEED = 20180

Pixels = NDArray[np.uint8]
Vectors = NDArray[np.float64]


@dataclass(frozen=True)
class Character:
    """One class: a character and the faces that can draw it."""

    code: int
    script: str
    faces: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.script}/U+{self.code:04X} {chr(self.code)}"


class Glyphs:
    """Splits ``train``, ``val`` and ``test`` of drawn characters, ink 255 on background 0.

    Args:
        cache_dir: where the drawings are kept once made (18 MB at the default size).
        image_size: height and width; drawn at twice that and averaged down.
        drawings: how many of each class; the first ones do not depend on the number.
    """

    def __init__(self, cache_dir: str | Path, image_size: int = 28, drawings: int = 20) -> None:
        self.path = Path(cache_dir).expanduser() / f"glyphs-v{VERSION}-{image_size}-{drawings}.npz"
        self.image_size = image_size
        self.drawings = drawings

    def load(self) -> dict[str, Split]:
        """``{"train": ..., "val": ..., "test": ...}``, images ``(classes * drawings, 1, S, S)`` uint8.

        Raises:
            UserError: the cache folder cannot be written.
        """
        return cached(self.path, self._build)

    def _build(self) -> dict[str, Split]:
        fonts = load_fonts()
        characters = distinct(candidates(), fonts)
        images: dict[str, list[Tensor]] = {key: [] for key in SCRIPTS}
        todo = [(key, character) for key, kept in characters.items() for character in kept]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the tensors are small: on a busy machine more threads are three times slower
        try:
            for key, character in track(todo, "Drawing glyphs", console=Console(stderr=True)):
                images[key].append(draw(character, fonts, self.image_size, self.drawings))
        finally:
            torch.set_num_threads(threads)
        return {
            key: Split(
                f"glyphs/{key}",
                torch.cat(images[key]),
                torch.full((len(kept),), self.drawings),
                tuple(character.name for character in kept),
            )
            for key, kept in characters.items()
        }


def load_fonts() -> dict[str, ImageFont.FreeTypeFont]:
    """The faces at 96 pixels an em, laid out without shaping, so that no ligature is drawn."""
    return {face: ImageFont.truetype(str(_file(face)), 96, layout_engine=ImageFont.Layout.BASIC) for face in FACES}


def _file(face: str) -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"


def candidates() -> dict[str, list[Character]]:
    """Letters and digits without diacritics that some face's character map holds, by split and code."""
    faces: dict[int, list[str]] = {}
    for face in FACES:
        for code, glyph in FT2Font(str(_file(face))).get_charmap().items():
            if glyph:  # 0 is the box for a missing character
                faces.setdefault(code, []).append(face)
    found: dict[str, list[Character]] = {key: [] for key in SCRIPTS}
    for code in sorted(faces):
        if unicodedata.category(chr(code)) not in ("Lu", "Ll", "Lo", "Nd"):
            continue
        name = unicodedata.name(chr(code), "")
        if unicodedata.decomposition(chr(code)) and not SHAPED.fullmatch(name):  # a diacritic or a ligature
            continue
        if SKIPPED.fullmatch(name):
            continue
        for key, scripts in SCRIPTS.items():
            for prefix, script in scripts.items():
                if name.startswith(f"{prefix} "):
                    found[key].append(Character(code, script, tuple(faces[code])))
    return found


def distinct(found: dict[str, list[Character]], fonts: dict[str, ImageFont.FreeTypeFont]) -> dict[str, list[Character]]:
    """Keeps the first of the characters that look the same, in the order train, val, test."""
    kept: dict[str, list[Character]] = {}
    earlier: list[Shapes] = []
    for key, characters in found.items():
        drawn = [(character, shapes) for character in characters if (shapes := Shapes.of(character, fonts))]
        own = [shapes for _, shapes in drawn]
        old: NDArray[np.bool_] = np.zeros(len(own), dtype=bool)
        if earlier:
            close = likeness(own, earlier) >= SAME
            old = np.any(close | (stretched_likeness(own, earlier) >= SAME_STRETCHED_ACROSS), axis=1)
        same = (likeness(own, own) >= SAME) | (stretched_likeness(own, own) >= SAME_STRETCHED_WITHIN)
        chosen: list[int] = []
        for index in np.flatnonzero(~old).tolist():
            if not same[index, chosen].any():
                chosen.append(index)
        kept[key] = [drawn[index][0] for index in chosen]
        earlier += [own[index] for index in chosen]
    return kept


@dataclass(frozen=True)
class Shapes:
    """A character's normalised renders, one for each upright regular face: ``(faces, 256)`` unit vectors."""

    plain: Vectors  # cropped, the longer side scaled to 14 of 16
    stretched: Vectors  # cropped, both sides scaled to 14 of 16, blurred
    aspect: Vectors  # (faces,) logarithm of width / height

    @classmethod
    def of(cls, character: Character, fonts: dict[str, ImageFont.FreeTypeFont]) -> "Shapes | None":
        """None where no such face has ink for it."""
        inks = [ink for face in character.faces if face in STYLES and (ink := crop(character.code, fonts[face]))]
        if not inks:
            return None
        squares = [ink.resize((14, 14), Image.Resampling.BILINEAR) for ink in inks]
        plain = np.stack([np.asarray(fit(ink, 14, 16), dtype=np.float64) for ink in inks])
        stretched = BLUR @ np.stack([np.pad(np.asarray(square, dtype=np.float64), 1) for square in squares]) @ BLUR
        return cls(_units(plain), _units(stretched), np.log([ink.width / ink.height for ink in inks]))


def _units(renders: Vectors) -> Vectors:
    vectors = renders.reshape(-1, 256)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def likeness(rows: list[Shapes], columns: list[Shapes]) -> Vectors:
    """``(rows, columns)``: the largest cosine similarity of two characters' plain renders."""
    pairs = np.concatenate([r.plain for r in rows]) @ np.concatenate([c.plain for c in columns]).T
    return _largest(pairs, rows, columns)


def stretched_likeness(rows: list[Shapes], columns: list[Shapes]) -> Vectors:
    """The same for stretched renders, of those pairs whose proportions a distortion can make equal."""
    pairs = np.concatenate([r.stretched for r in rows]) @ np.concatenate([c.stretched for c in columns]).T
    apart = np.subtract.outer(np.concatenate([r.aspect for r in rows]), np.concatenate([c.aspect for c in columns]))
    pairs[abs(apart) > math.log(SCALE[1] / SCALE[0])] = 0
    return _largest(pairs, rows, columns)


def _largest(pairs: Vectors, rows: list[Shapes], columns: list[Shapes]) -> Vectors:
    """From pairs of renders to pairs of characters."""
    starts = [np.cumsum([0, *(len(shapes.aspect) for shapes in side[:-1])]) for side in (rows, columns)]
    return np.maximum.reduceat(np.maximum.reduceat(pairs, starts[0], axis=0), starts[1], axis=1)


def crop(code: int, font: ImageFont.FreeTypeFont) -> Image.Image | None:
    """The character in 8 bits, ink 255, cut to its ink; None if it has none."""
    left, top, right, bottom = (round(side) for side in font.getbbox(chr(code)))
    if right <= left or bottom <= top:
        return None
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), chr(code), font=font, fill=255)
    box = image.getbbox()
    return image.crop(box) if box else None


def fit(ink: Image.Image, body: int, canvas: int) -> Image.Image:
    """``ink`` with its longer side scaled to ``body``, in the middle of ``canvas`` x ``canvas``."""
    ratio = body / max(ink.size)
    size = max(1, round(ink.width * ratio)), max(1, round(ink.height * ratio))
    middle = Image.new("L", (canvas, canvas))
    middle.paste(ink.resize(size, Image.Resampling.BILINEAR), ((canvas - size[0]) // 2, (canvas - size[1]) // 2))
    return middle


def draw(character: Character, fonts: dict[str, ImageFont.FreeTypeFont], size: int, drawings: int) -> Tensor:
    """``(drawings, 1, size, size)`` uint8, a pure function of the character and the number.

    In float64, so that a different order of additions does not show after rounding to a byte.
    """
    inks = [crop(character.code, fonts[face]) for face in character.faces]
    masters = np.stack([np.asarray(fit(ink, BODY, CANVAS)) for ink in inks if ink])
    # One row a drawing: more drawings leave the first ones as they are.
    numbers = np.random.default_rng([SEED, character.code]).random((drawings, 8 + 2 * ELASTIC_NODES**2))
    face = (numbers[:, 0] * len(masters)).astype(int)
    weight = 2 * numbers[:, 1, None, None] - 1
    other = np.where(weight > 0, _spread(masters, 5)[face], 255 - _spread(255 - masters, 3)[face])
    ink = masters[face] * (1 - abs(weight * WEIGHT)) + other * abs(weight * WEIGHT)
    grid = _grid(masters[face], torch.from_numpy(2 * numbers[:, 2:] - 1), 2 * size)
    drawn = F.grid_sample(torch.from_numpy(ink)[:, None], grid, align_corners=False)
    return F.avg_pool2d(drawn, 2).round().clamp(0, 255).to(torch.uint8)


def _spread(masters: Pixels, width: int) -> Pixels:
    """The largest value within a square of odd ``width`` around each pixel of ``(faces, H, W)``."""
    for axis in (1, 2):
        masters = np.max([np.roll(masters, step, axis) for step in range(-(width // 2), width // 2 + 1)], axis=0)
    return masters


def _grid(masters: Pixels, numbers: Tensor, side: int) -> Tensor:
    """``(n, side, side, 2)``: where each pixel reads its master, from ``(n, 6 + 2 * nodes**2)`` in [-1, 1]."""
    angle, shear, x_scale, y_scale, x_shift, y_shift = numbers[:, :6].unbind(1)
    low, high = SCALE
    x_scale, y_scale = ((high + low) / 2 + (high - low) / 2 * scale for scale in (x_scale, y_scale))
    cos, sin, shear = (angle * ROTATION).cos(), (angle * ROTATION).sin(), shear * SHEAR
    # rotation @ [[1, shear], [0, 1]] @ diag(x_scale, y_scale)
    columns = [cos * x_scale, (cos * shear - sin) * y_scale, sin * x_scale, (sin * shear + cos) * y_scale]
    forward = torch.stack(columns, 1).view(-1, 2, 2)
    # Shrunk where the outline would leave the canvas, moved only as far as there is room.
    inked = [masters.any(axis=1), masters.any(axis=2)]
    spans = [CANVAS - np.argmax(line, axis=1) - np.argmax(np.flip(line, axis=1), axis=1) for line in inked]
    half = (forward.abs() * torch.from_numpy(np.stack(spans, 1))[:, None] / 2).sum(2)
    room = CANVAS / 2 - EDGE
    shrink = (room / half.amax(1)).clamp(max=1)[:, None]
    shift = torch.stack([x_shift, y_shift], 1) * (room - half * shrink).clamp(max=SHIFT) * (2 / CANVAS)
    backward = torch.linalg.inv(forward * shrink[:, None])
    theta = torch.cat([backward, -backward @ shift[:, :, None]], 2)
    nodes = numbers[:, 6:].view(-1, 2, ELASTIC_NODES, ELASTIC_NODES) * ELASTIC * (2 / CANVAS)
    corners = torch.eye(ELASTIC_NODES, dtype=torch.float64)[None]
    spread = F.interpolate(corners[:, :, None], (1, side), mode="bicubic", align_corners=True)[0, :, 0]
    bend = (spread.T @ nodes @ spread).permute(0, 2, 3, 1)
    return F.affine_grid(theta, [len(theta), 1, side, side], align_corners=False) + bend
