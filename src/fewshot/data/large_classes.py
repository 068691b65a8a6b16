"""Leave out classes that are too small for a task."""

import logging
from collections.abc import Mapping
from pathlib import Path

from fewshot.data.split import Split
from fewshot.errors import UserError
from fewshot.files import printable

log = logging.getLogger(__name__)


def keep_large_classes(
    splits: dict[str, Split], least: Mapping[str, int], root: Path, noun: str = "images"
) -> dict[str, Split]:
    """Leave out classes with too few images.

    ``least`` gives the number that a split needs. One line names the classes that are left out. Messages call an image
    by ``noun``.

    Raises:
        UserError: a split has no class with so many.
    """
    kept: dict[str, Split] = {}
    left_out: list[str] = []
    for name, split in splits.items():
        need = max(1, least.get(name, 1))
        few = split.counts < need
        if few.all():
            raise UserError(
                f"{root}: no class of {name} has the {need} {noun} that a task takes, the largest has "
                f"{int(split.counts.max())}: add {noun}, or lower task.shots or task.queries "
                "(task.train_shots or task.train_queries)"
            )
        kept[name] = split.only(~few) if few.any() else split
        if few.any():
            named = [f"{printable(split.classes[i])} ({split.counts[i]})" for i in few.nonzero()[:, 0].tolist()]
            more = f" and {len(named) - 20} more" if len(named) > 20 else ""
            left_out.append(f"{len(named)} of {len(few)} in {name}, which needs {need}: {', '.join(named[:20])}{more}")
    if left_out:
        shown = printable(str(root))
        log.warning("%s: classes with too few %s for the task are left out: %s", shown, noun, "; ".join(left_out))
    return kept
