"""Render characters with the fonts that matplotlib ships.

Every drawing has a face of its own (among the faces that cover the character), a rotation, shear, scale and place, an
elastic distortion and a stroke weight.

With the defaults a nearest neighbour in raw pixels gets about 45% of 5-way 1-shot test queries right;
ELASTIC, SHEAR, SHIFT, SCALE and WEIGHT set how hard that is.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

STYLES = {
    "DejaVuSans": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "DejaVuSansMono": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "DejaVuSerif": ("", "-Bold", "-Italic", "-BoldItalic"),
    "STIXGeneral": ("", "Bol", "Italic", "BolIta"),
}
FACES = tuple(family + style for family, styles in STYLES.items() for style in styles)

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


@dataclass(frozen=True)
class Character:
    """Hold a character and its faces.

    A character is one class. ``faces`` are the faces that can render the character.
    """

    code: int
    script: str
    faces: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the class name, such as ``Latin/U+0041 A``."""
        return f"{self.script}/U+{self.code:04X} {chr(self.code)}"


def load_fonts() -> dict[str, ImageFont.FreeTypeFont]:
    """Load the faces at 96 pixels an em.

    Characters are not shaped, so no ligature is drawn.
    """
    return {face: ImageFont.truetype(str(font_file(face)), 96, layout_engine=ImageFont.Layout.BASIC) for face in FACES}


def font_file(face: str) -> Path:
    """Return the font file of a face."""
    import matplotlib  # loaded only where glyphs are drawn

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"


def crop(code: int, font: ImageFont.FreeTypeFont) -> Image.Image | None:
    """Render a character, cut to its ink.

    Ink is 255. None for a character without ink.
    """
    left, top, right, bottom = (round(side) for side in font.getbbox(chr(code)))
    if right <= left or bottom <= top:
        return None
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), chr(code), font=font, fill=255)
    box = image.getbbox()
    return image.crop(box) if box else None


def fit(ink: Image.Image, body: int, canvas: int) -> Image.Image:
    """Scale ink and centre it on a canvas.

    The longer side becomes ``body``; the canvas is ``canvas`` x ``canvas``.
    """
    ratio = body / max(ink.size)
    size = max(1, round(ink.width * ratio)), max(1, round(ink.height * ratio))
    middle = Image.new("L", (canvas, canvas))
    middle.paste(ink.resize(size, Image.Resampling.BILINEAR), ((canvas - size[0]) // 2, (canvas - size[1]) // 2))
    return middle


def render(character: Character, fonts: dict[str, ImageFont.FreeTypeFont], size: int, drawings: int) -> Tensor:
    """Render the drawings of a character.

    A pure function of the character and the number of a drawing.

    Computed in float64, so that a different order of additions does not show after rounding to a byte.

    Returns:
        ``(drawings, 1, size, size)`` uint8.
    """
    inks = [crop(character.code, fonts[face]) for face in character.faces]
    masters = np.stack([np.asarray(fit(ink, BODY, CANVAS)) for ink in inks if ink])
    # One row a drawing: more drawings do not change the first ones.
    numbers = np.random.default_rng([SEED, character.code]).random((drawings, 8 + 2 * ELASTIC_NODES**2))
    face = (numbers[:, 0] * len(masters)).astype(int)
    weight = 2 * numbers[:, 1, None, None] - 1
    other = np.where(weight > 0, _spread(masters, 5)[face], 255 - _spread(255 - masters, 3)[face])
    ink = masters[face] * (1 - abs(weight * WEIGHT)) + other * abs(weight * WEIGHT)
    grid = _grid(masters[face], torch.from_numpy(2 * numbers[:, 2:] - 1), 2 * size)
    drawn = F.grid_sample(torch.from_numpy(ink)[:, None], grid, align_corners=False)
    return F.avg_pool2d(drawn, 2).round().clamp(0, 255).to(torch.uint8)


def _spread(masters: Pixels, width: int) -> Pixels:
    """Thicken the bright strokes of each face.

    Each pixel of ``(faces, H, W)`` takes the largest value in a square of ``width`` around the pixel.
    """
    for axis in (1, 2):
        masters = np.max([np.roll(masters, step, axis) for step in range(-(width // 2), width // 2 + 1)], axis=0)
    return masters


def _grid(masters: Pixels, numbers: Tensor, side: int) -> Tensor:
    """Compute the grid for ``grid_sample``.

    The grid ``(n, side, side, 2)`` says where each pixel reads its master.

    Args:
        masters: ``(n, CANVAS, CANVAS)``.
        numbers: ``(n, 6 + 2 * nodes**2)`` in [-1, 1].
        side: height and width of the grid.
    """
    angle, shear, x_scale, y_scale, x_shift, y_shift = numbers[:, :6].unbind(1)
    low, high = SCALE
    x_scale, y_scale = ((high + low) / 2 + (high - low) / 2 * scale for scale in (x_scale, y_scale))
    cos = (angle * ROTATION).cos()
    sin = (angle * ROTATION).sin()
    shear = shear * SHEAR
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
