"""Write figures as PNG files."""

import io
from pathlib import Path

from matplotlib.figure import Figure

from fewshot.files import write_bytes


def write_png(target: Path, figure: Figure) -> None:
    """Draw ``figure`` into the PNG file ``target``, as ``write_bytes`` does."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150, bbox_inches="tight", facecolor="white")
    write_bytes(target, stream.getvalue())
