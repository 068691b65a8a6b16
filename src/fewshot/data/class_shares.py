"""Name splits, and divide classes among them."""

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from fewshot.errors import UserError

SPLITS = ("train", "val", "test")
SHARES = {"train": 0.64, "val": 0.16, "test": 0.2}
# Usual names of splits, in lower case, without "meta", "set", hyphens and underscores.
_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


def split_name(name: str) -> str | None:
    """Return the split that a name means.

    For example ``val`` for ``Valid``; None for any other name.
    """
    return _NAMES.get(re.sub(r"^meta|set$|[-_ ]", "", name.casefold()))


def check_shares(shares: Mapping[str, float]) -> None:
    """Refuse shares that divide nothing.

    Raises:
        UserError: a name is no split, a share is below 0, or train or test has none.
    """
    wrong = set(shares) - set(SPLITS) or any(share < 0 for share in shares.values())
    if wrong or not all(shares.get(split) for split in ("train", "test")):
        raise UserError(f"data.shares={dict(shares)}: needs train, test and, if wanted, val, none below 0")


def divide_classes(
    sizes: Mapping[str, int],
    shares: Mapping[str, float],
    seed: int,
    enough: int,
    source: Path,
    noun: str = "images",
) -> dict[str, list[str]]:
    """Divide classes at random among the splits.

    Args:
        sizes: how many images each class has.
        shares: the parts of the classes that ``train``, ``val`` and ``test`` get, relative to one another; a split
            with the share 0 is left out.
        seed: of the division.
        enough: images that a class needs to be counted. Smaller classes go to ``train``, to be named there.
        source: of the classes, for messages.
        noun: what ``sizes`` counts, for messages.

    Returns:
        the sorted classes of each split.

    Raises:
        UserError: there are fewer classes than splits.
    """
    # Shares are of the classes that a task could use, whatever the task: a division that depends on the task would
    # let a class train for one task and test another. The others are kept to be named with their numbers.
    usable = [name for name in sizes if sizes[name] >= enough]
    # The order of a hash, not of a random generator, whose stream may change with a library.
    order = sorted(usable, key=lambda name: sha256(f"{seed}/{name}".encode()).digest())
    wanted = [split for split in SPLITS if shares.get(split)]
    if len(order) < len(wanted):
        raise UserError(
            f"{source} has {len(order)} classes{f' of {enough} {noun} or more' if enough > 1 else ''}, "
            f"too few for {', '.join(wanted)}: add some" + (", or set data.shares.val=0" if len(wanted) == 3 else "")
        )
    total = sum(shares.values())
    divided: dict[str, list[str]] = {}
    for split in reversed(wanted[1:]):  # what is left is for training
        number = max(1, round(len(usable) * shares[split] / total))
        number = min(number, len(order) - wanted.index(split))  # one at least for each of the others
        divided[split] = sorted(order[-number:])
        order = order[:-number]
    divided["train"] = sorted({*order, *set(sizes).difference(usable)})
    return {split: divided[split] for split in wanted}
