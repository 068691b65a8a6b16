"""Choose the characters that are classes.

The characters are split by script. Of characters that look the same, one is kept.
"""

import math
import re
import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFont

from fewshot.data.drawing import FACES, SCALE, STYLES, Character, crop, fit, font_file

# Left out: syllables that add a dot beside another one, a ring like an O, a fragment, a zero that is a dot.
SKIPPED = re.compile(r"CANADIAN SYLLABICS (.*W[A-Z]*|FINAL RING)|ARABIC TAIL FRAGMENT|ARABIC-INDIC DIGIT ZERO")
# Decomposable, but with a shape of their own.
SHAPED = re.compile(r"MATHEMATICAL .*|ARABIC LETTER .* INITIAL FORM")

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

# Cosine similarity of two normalised renders from which the characters count as the same. Not stretched,
# pairs above 0.95 differ in a hook or a hairline (K with and without descender). Stretched to a square, which
# also matches a narrow U with a wide one, pairs above 0.985 are one letter (C and c, U and u) or differ in a
# hairline, those from 0.95 mostly are one (A, F, T of two scripts) and those below mostly are not: the lower
# value guards the borders between splits, where losing a class is better than sharing one.
SAME = 0.95
SAME_STRETCHED_WITHIN = 0.985
SAME_STRETCHED_ACROSS = 0.95
BLUR = np.exp(-0.5 * np.subtract.outer(np.arange(16.0), np.arange(16.0)) ** 2)  # along one axis, 1 pixel wide

Vectors = NDArray[np.float64]


def candidates() -> dict[str, list[Character]]:
    """List the letters and digits without diacritics.

    Returns:
        for each split, the characters that some face holds, sorted by code.
    """
    from matplotlib.ft2font import FT2Font  # loaded only where glyphs are made

    faces: dict[int, list[str]] = {}
    for face in FACES:
        for code, glyph in FT2Font(str(font_file(face))).get_charmap().items():
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
    """Keep one of the characters that look the same.

    The first one is kept, in order of the splits.
    """
    kept: dict[str, list[Character]] = {}
    earlier: list[Shapes] = []
    for key, characters in found.items():
        drawn = [(character, shapes) for character in characters if (shapes := Shapes.from_character(character, fonts))]
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
    """Hold the normalised renders of a character.

    There is one render for each upright regular face.

    Attributes:
        plain: ``(faces, 256)`` unit vectors: cropped, the longer side scaled to 14 of 16.
        stretched: ``(faces, 256)`` unit vectors: cropped, both sides scaled to 14 of 16, blurred.
        aspect: ``(faces,)`` logarithm of width / height.
    """

    plain: Vectors
    stretched: Vectors
    aspect: Vectors

    @classmethod
    def from_character(cls, character: Character, fonts: dict[str, ImageFont.FreeTypeFont]) -> "Shapes | None":
        """Render a character in its upright regular faces.

        None if no such face has ink for this character.
        """
        inks = [ink for face in character.faces if face in STYLES and (ink := crop(character.code, fonts[face]))]
        if not inks:
            return None
        squares = [ink.resize((14, 14), Image.Resampling.BILINEAR) for ink in inks]
        plain = np.stack([np.asarray(fit(ink, 14, 16), dtype=np.float64) for ink in inks])
        stretched = BLUR @ np.stack([np.pad(np.asarray(square, dtype=np.float64), 1) for square in squares]) @ BLUR
        return cls(_units(plain), _units(stretched), np.log([ink.width / ink.height for ink in inks]))


def _units(renders: Vectors) -> Vectors:
    vectors = renders.reshape(-1, 256)
    units: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units


def likeness(rows: list[Shapes], columns: list[Shapes]) -> Vectors:
    """Compare the plain renders of characters.

    Returns:
        the largest cosine similarity of each pair of characters, ``(rows, columns)``.
    """
    pairs = np.concatenate([r.plain for r in rows]) @ np.concatenate([c.plain for c in columns]).T
    return _largest(pairs, rows, columns)


def stretched_likeness(rows: list[Shapes], columns: list[Shapes]) -> Vectors:
    """Compare the stretched renders of characters.

    Returns:
        as ``likeness``. Only pairs whose proportions a distortion can make equal are compared; others count 0.
    """
    pairs = np.concatenate([r.stretched for r in rows]) @ np.concatenate([c.stretched for c in columns]).T
    apart = np.subtract.outer(np.concatenate([r.aspect for r in rows]), np.concatenate([c.aspect for c in columns]))
    pairs[abs(apart) > math.log(SCALE[1] / SCALE[0])] = 0
    return _largest(pairs, rows, columns)


def _largest(pairs: Vectors, rows: list[Shapes], columns: list[Shapes]) -> Vectors:
    """Reduce pairs of renders to pairs of characters."""
    starts = [np.cumsum([0, *(len(shapes.aspect) for shapes in side[:-1])]) for side in (rows, columns)]
    largest: Vectors = np.maximum.reduceat(np.maximum.reduceat(pairs, starts[0], axis=0), starts[1], axis=1)
    return largest
