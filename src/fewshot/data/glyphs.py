"""Render a data set of characters.

The data set needs no download. Every class is one character, every image another drawing of this character. The splits
share no script, and a character that looks like one kept before is left out.
"""

from pathlib import Path

import torch
from torch import Tensor

from fewshot.data.characters import SCRIPTS, candidates, distinct
from fewshot.data.drawing import load_fonts, render
from fewshot.data.paths import cache_folder
from fewshot.data.progress import progress
from fewshot.data.split import Split
from fewshot.data.split_cache import cached, check_image_size, check_memory
from fewshot.errors import UserError

CLASSES = 1200  # somewhat more than there are
VERSION = 1  # raise it when a drawing or a class changes, so that caches are built again


class Glyphs:
    """Load the splits of rendered characters.

    The splits are ``train``, ``val`` and ``test``. Ink is 255, the background 0.

    Args:
        cache_dir: where the drawings are kept once made (18 MB at the default size).
        image_size: height and width; drawn at twice that and averaged down.
        drawings: how many of each class; the first ones do not depend on the number.

    Raises:
        UserError: a number is below 1, or the images would fill the memory.
    """

    def __init__(self, cache_dir: str | Path, image_size: int = 28, drawings: int = 20) -> None:
        check_image_size(image_size)
        if isinstance(drawings, bool) or not isinstance(drawings, int) or drawings < 1:
            raise UserError(f"data.dataset.drawings={drawings}: must be a whole number of at least 1")
        check_memory(CLASSES * drawings, (1, image_size, image_size), "data.image_size")
        self.path = cache_folder(cache_dir) / f"glyphs-v{VERSION}-{image_size}-{drawings}.npz"
        self.image_size = image_size
        self.drawings = drawings

    def load(self) -> dict[str, Split]:
        """Return the splits by name.

        Images are ``(classes * drawings, 1, S, S)`` uint8.

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
            for key, character in progress(todo, len(todo), "Drawing glyphs"):
                images[key].append(render(character, fonts, self.image_size, self.drawings))
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
