"""Write files atomically; read untrusted files safely."""

import csv
import io
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fewshot.errors import UserError

MEGABYTE = 2**20
# Characters that join letters of words and emoji: invisible, but part of how a name is written.
_JOINERS = "\u200c\u200d"


def write_bytes(target: Path, content: bytes, keep: Path | None = None) -> None:
    """Replace ``target`` in one step.

    A reader never sees half of the file. The folder is made if needed. An older ``target`` becomes ``keep``, if one is
    given.

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
    """Write a CSV file in one step.

    Every cell passes through ``csv_safe``.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(map(csv_safe, header))
    writer.writerows(map(csv_safe, row) for row in rows)
    write_bytes(target, stream.getvalue().encode())


def csv_safe(value: object) -> object:
    """Escape a cell that looks like a formula.

    No spreadsheet takes the result for a formula. A text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line
    break gets an apostrophe in front, unless the text is a number. UTF-8 can hold the cell: the bytes of a name that is
    not UTF-8 become escapes such as ``\\xfc``.
    """
    if not isinstance(value, str):
        return value
    text = "".join(_escaped(char) if "\ud800" <= char <= "\udfff" else char for char in value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def printable(text: str, most: int | None = None) -> str:
    """Escape ``text`` for one line on a terminal.

    Control characters, line breaks and the bytes of a name that is not UTF-8 become escapes such as ``\\x1b``.
    Of a text of more than ``most`` characters the first and the last are shown.
    """
    if most is not None and len(text) > most:
        end = (most - 3) // 3
        text = f"{text[: most - 3 - end]}...{text[len(text) - end :]}"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in _JOINERS else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # Python's stand-in for a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def read_bytes(file: Path, inside: Path, most: int = 64 * MEGABYTE) -> bytes:
    """Read a regular file in the folder ``inside``.

    The file has at most ``most`` bytes. Links are followed as long as their targets lie in ``inside``.

    Raises:
        UserError: the file is absent, a pipe, a device or a folder, too large, outside of ``inside``, or unreadable.
    """
    try:
        target = file.resolve(strict=True)
        if not target.is_relative_to(inside.resolve()):
            raise UserError(f"{file}: a link to a file outside of {inside}, which is not followed")
        # Asked before opening too, since opening a device can act on it.
        _refuse_irregular(file, os.stat(target), most)
        with open(target, "rb", opener=_open_without_waiting) as stream:
            _refuse_irregular(file, os.fstat(stream.fileno()), most)
            content = stream.read(most + 1)
    except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself
        raise UserError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or 'a loop of links'})") from error
    if len(content) > most:
        raise UserError(_too_large(file, most))
    return content


def read_text(file: Path, inside: Path, most: int = 64 * MEGABYTE) -> str:
    """Read a UTF-8 text as ``read_bytes`` does.

    Raises:
        UserError: as for ``read_bytes``, or the file is not UTF-8.
    """
    try:
        return read_bytes(file, inside, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text") from error


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))


def _refuse_irregular(file: Path, status: os.stat_result, most: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{file}: not a regular file")
    if status.st_size > most:
        raise UserError(_too_large(file, most))


def _too_large(file: Path, most: int) -> str:
    return f"{file}: larger than the {most / MEGABYTE:g} MB that are read"


def csv_columns(text: str, names: Sequence[str], file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the named columns of each row.

    An item is the line number and the cells in the columns ``names``. A row that is too short has fewer cells.

    Raises:
        UserError: a column is missing, or the text is not CSV; ``file`` begins the message.
    """
    reader = csv.reader(io.StringIO(text, newline=None))
    try:
        header = next(reader, None)
        if header is None:
            return
        if missing := [name for name in names if name not in header]:
            raise UserError(f"{file}: the column {missing[0]!r} is missing")
        places = [header.index(name) for name in names]
        for row in reader:
            if row:
                yield reader.line_num, [row[place] for place in places if place < len(row)]
    except csv.Error as error:
        raise UserError(f"{file}: line {reader.line_num} is not CSV ({error})") from error
