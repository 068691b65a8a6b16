"""Draw a page of labelled images, to check labels by eye.

The file holds its images and needs nothing else.
"""

from base64 import b64encode
from dataclasses import dataclass, field
from functools import cache
from heapq import heappop, heappush
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined, Template
from numpy.typing import NDArray
from PIL import Image

from fewshot.files import printable, write_bytes

SIDE = 112  # pixels of a thumbnail
QUALITY = 75  # of its JPEG
MOST = 2000  # images on a page, which is then some ten megabytes
MOST_SUPPORT = 10  # support images of a class
MOST_SUPPORT_IN_ALL = 1000
_LONGEST_NAME = 80  # characters


@dataclass(frozen=True)
class LabelledImage:
    """Hold one image of the page.

    Attributes:
        file: its name.
        label: the class that it is shown under.
        probability: of the most probable class.
        certainty: orders the images of a class.
        truth: its true class, None if not known.
        like: the most probable class, of an image of no class.
        source: a ``data:`` URI.
    """

    file: str
    label: str
    probability: float
    certainty: float
    truth: str | None
    like: str
    source: str


@dataclass
class LabelPage:
    """Collect images by label, and write the page.

    Of very many images the least certain of each label stay: from the label with the most images the most certain goes.

    Attributes:
        classes: in the order of the page.
        unknown: the label of images of no class, which come last; None if there is no such label.
        most: images that stay.
    """

    classes: list[str]
    unknown: str | None = None
    most: int = MOST
    support: dict[str, list[str]] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    _heaps: dict[str, list[tuple[float, int, LabelledImage]]] = field(default_factory=dict)
    _number: Any = field(default_factory=count)
    _kept: int = 0

    def add_support(self, label: str, pixels: NDArray[np.uint8]) -> None:
        """Add a support image ``(C, S, S)``, unless its class has enough."""
        shown = self.support.setdefault(label, [])
        if len(shown) < max(1, min(MOST_SUPPORT, MOST_SUPPORT_IN_ALL // len(self.classes))):
            shown.append(thumbnail(pixels))

    def add(
        self,
        file: str,
        label: str,
        probability: float,
        certainty: float,
        truth: str | None,
        pixels: NDArray[np.uint8],
        like: str = "",
    ) -> None:
        """Add a labelled image ``(C, S, S)``."""
        self.totals[label] = self.totals.get(label, 0) + 1
        heap = self._heaps.setdefault(label, [])
        full = self._kept >= self.most
        if full and len(heap) == max(map(len, self._heaps.values())) and heap and certainty >= -heap[0][0]:
            return  # it would go at once
        image = LabelledImage(file, label, probability, certainty, truth, like, thumbnail(pixels))
        heappush(heap, (-certainty, next(self._number), image))
        if full:
            heappop(max(self._heaps.values(), key=len))
        else:
            self._kept += 1

    def images(self, label: str) -> list[LabelledImage]:
        """Return the images of a label, least certain first."""
        return [image for _, _, image in sorted(self._heaps.get(label, []), key=lambda entry: (-entry[0], entry[1]))]

    def render(self, title: str, facts: list[tuple[str, str]]) -> str:
        """Render the page.

        Args:
            title: of the page.
            facts: names and values to print on top.
        """
        names = [*self.classes, *([self.unknown] if self.unknown else [])]
        return _template().render(
            title=printable(title),
            facts=[(name, printable(value)) for name, value in facts],
            most=self.most,
            left_out=sum(self.totals.values()) - self._kept,
            groups=[self._group(number, name) for number, name in enumerate(names)],
        )

    def write(self, target: Path, title: str, facts: list[tuple[str, str]]) -> None:
        """Write the page in one step.

        Raises:
            UserError: the file cannot be written.
        """
        write_bytes(target, self.render(title, facts).encode("utf-8", errors="backslashreplace"))

    def _group(self, number: int, name: str) -> dict[str, Any]:
        images = self.images(name)
        return {
            "anchor": f"group-{number}",
            "name": printable(name, _LONGEST_NAME),
            "unknown": name == self.unknown,
            "total": self.totals.get(name, 0),
            "left_out": self.totals.get(name, 0) - len(images),
            "support": self.support.get(name, []),
            "images": [_cell(image) for image in images],
        }


def _cell(image: LabelledImage) -> dict[str, str]:
    mark = "" if image.truth is None else "right" if image.truth == image.label else "wrong"
    return {
        "file": printable(image.file, _LONGEST_NAME),
        "probability": f"{100 * image.probability:.0f}%" if image.probability < 0.995 else ">99%",
        "like": printable(image.like, _LONGEST_NAME),
        "mark": mark,
        "truth": printable(image.truth, _LONGEST_NAME) if mark == "wrong" and image.truth is not None else "",
        "source": image.source,
    }


def thumbnail(pixels: NDArray[np.uint8]) -> str:
    """Return pixels ``(C, S, S)`` as the ``data:`` URI of a small JPEG."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.thumbnail((SIDE, SIDE))
    stream = BytesIO()
    image.save(stream, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{b64encode(stream.getvalue()).decode()}"


@cache
def _template() -> Template:
    text = Path(__file__).with_name("label_page.html").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(text)
