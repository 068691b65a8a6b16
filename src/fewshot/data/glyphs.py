"""Characters of many scripts: a dataset that needs no download.

Every class is one character, every image another drawing of it. The splits share no script, and a character
that looks like one kept before it is left out.
"""

from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from fewshot.data.characters import SCRIPTS, candidates, distinct
from fewshot.data.drawing import draw, load_fonts
from fewshot.data.split import Split
from fewshot.data.split_cache import cached

VERSION = 1  # raise it when a drawing or a class changes, so that caches are built again


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
