"""Write figures as PNG files."""

import io
import math
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.text import Text

from fewshot.files import write_bytes

_DPI = 150
_MOST_PIXELS = 40e6
_LONGEST_SIDE = 30_000  # pixels; the PNG writer takes fewer than 65,536


def write_png(target: Path, figure: Figure, formulas: bool = False) -> None:
    """Draw ``figure`` into a PNG file.

    The file ``target`` is written as ``write_bytes`` does.

    Names are what people called their folders: a dollar sign in a name begins no formula, unless ``formulas`` is
    true, as the ticks of a logarithmic axis need. A figure beyond 40 megapixels has fewer pixels an inch.
    """
    if not formulas:
        for text in figure.findobj(Text):
            text.set_parse_math(False)
    width, height = figure.get_size_inches()
    dpi = min(_DPI, math.sqrt(_MOST_PIXELS / (width * height)), _LONGEST_SIDE / max(width, height))
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, bbox_inches="tight", facecolor="white")
    write_bytes(target, stream.getvalue())
