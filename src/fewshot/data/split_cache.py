"""Keep decoded splits on disk.

Images are read or rendered once.
"""

import logging
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch

from fewshot.data.split import Split
from fewshot.errors import UserError

log = logging.getLogger(__name__)
LARGEST = 2_000_000_000  # bytes of a data set that lies in memory


def cached(path: Path, build: Callable[[], dict[str, Split]]) -> dict[str, Split]:
    """Read splits from ``path``, or build them.

    New splits are written to ``path``. The file is replaced in one step, so a reader never sees half of it, also where
    several processes build at once. A file that cannot be read is built again.

    Raises:
        UserError: the folder of ``path`` cannot be written.
    """
    try:
        return _read(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("cannot read the cache %s (%s): building it again", path, error)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    _touch(temporary)  # a folder that refuses is known before the work
    try:
        splits = build()
        _write(temporary, path, splits)
    finally:
        temporary.unlink(missing_ok=True)
    return splits


def _read(path: Path) -> dict[str, Split]:
    with np.load(path, allow_pickle=False) as data:
        return {
            key: Split(
                str(name),
                torch.from_numpy(data[f"{key}.images"]),
                torch.from_numpy(data[f"{key}.counts"]),
                tuple(data[f"{key}.classes"].tolist()),
            )
            for key, name in zip(data["keys"].tolist(), data["names"].tolist(), strict=True)
        }


def _touch(temporary: Path) -> None:
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise refused(temporary.parent, error) from error


def _write(temporary: Path, path: Path, splits: dict[str, Split]) -> None:
    arrays = {
        "keys": np.array(list(splits)),
        "names": np.array([split.name for split in splits.values()]),
    }
    for key, split in splits.items():
        arrays[f"{key}.images"] = split.images.numpy()
        arrays[f"{key}.counts"] = split.counts.numpy()
        arrays[f"{key}.classes"] = np.array(split.classes)
    try:
        with temporary.open("wb") as file:  # a file object: savez would add .npz to a name
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, path)
    except OSError as error:
        raise refused(path.parent, error) from error


def check_memory(images: int, shape: tuple[int, int, int], setting: str) -> None:
    """Refuse a data set larger than the memory allows.

    Raises:
        UserError: so many images of ``shape`` take more than ``LARGEST`` bytes; ``setting`` says what to lower.
    """
    size = images * shape[0] * shape[1] * shape[2]
    if size > LARGEST:
        raise UserError(
            f"{images:,} images of {shape[1]} x {shape[2]} pixels take {size / 1e9:.1f} GB, more than "
            f"{LARGEST / 1e9:.0f} GB: lower {setting}"
        )


def check_image_size(image_size: int) -> None:
    """Refuse an image size that is not allowed.

    The size must be a whole number above 0.

    Raises:
        UserError: the message names the setting.
    """
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
        raise UserError(f"data.image_size={image_size}: must be a whole number of at least 1")


def refused(folder: Path, error: OSError) -> UserError:
    """Return the error for an unwritable cache folder."""
    reason = error.strerror or str(error)
    return UserError(
        f"cannot write to the cache folder {folder} ({reason}): set FEWSHOT_CACHE to a folder that you can write"
    )
