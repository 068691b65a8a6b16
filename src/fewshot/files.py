"""Write a file whole or not at all."""

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path

from fewshot.errors import UserError


def write_bytes(target: Path, content: bytes, keep: Path | None = None) -> None:
    """Replace ``target`` in one step, making its folder: a reader never sees half of it.

    An older ``target`` becomes ``keep``, if one is given.

    Raises:
        UserError: the folder or the file cannot be written; an older ``target`` is still whole.
    """
    # Beside the target, since os.replace cannot cross file systems.
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(content)
            if keep is not None and target.exists():
                os.replace(target, keep)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror})") from error


def write_csv(target: Path, header: Iterable[object], rows: Iterable[Iterable[object]]) -> None:
    """A line a row, as ``write_bytes`` does."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_bytes(target, stream.getvalue().encode())
