"""Resolve home folders, the cache folder and names."""

import os
from pathlib import Path

from fewshot.errors import UserError

DEFAULT_CACHE = "~/.cache/fewshot"


def expand_home(path: str | Path, setting: str) -> Path:
    """Replace ``~`` by the home folder.

    Raises:
        UserError: the user has no home folder, as in many containers; ``setting`` says what to type.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: this user has no home folder: {setting}") from error


def cache_folder(cache_dir: str | Path) -> Path:
    """Return the folder for caches.

    An empty setting means the default.

    Raises:
        UserError: the folder lies in a home folder that does not exist.
    """
    return expand_home(str(cache_dir).strip() or DEFAULT_CACHE, "set FEWSHOT_CACHE to a folder that you can write")


def utf8_name(name: str) -> str:
    """Return a name in valid UTF-8.

    Bytes that are not UTF-8 become escapes such as ``\\xe9``.
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")
