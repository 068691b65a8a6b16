"""Complete the paths among the settings.

A ``~`` becomes the home folder; relative folders of images become absolute.
"""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from fewshot.errors import UserError

_DEFAULTS = {"data_dir": "data", "cache_dir": "~/.cache/fewshot"}
_VARIABLES = {"data_dir": "FEWSHOT_DATA", "cache_dir": "FEWSHOT_CACHE"}


def expand_paths(cfg: DictConfig) -> None:
    """Complete the paths of checkpoints and images.

    A ``~`` is replaced in the paths of checkpoints. The folder of images becomes absolute.
    """
    for key in ("checkpoint", "weights", "resume"):
        if isinstance(cfg.get(key), str):
            cfg[key] = expand_home(cfg[key], key)
    if (root := absolute_root(cfg)) is not None:
        cfg.data.root = root


def absolute_root(cfg: DictConfig) -> str | None:
    """Return ``data.root`` as an absolute path.

    None if it is not set, or if it follows ``data_dir``.
    """
    data = cfg.get("data")
    if not OmegaConf.is_dict(data) or "root" not in data or OmegaConf.is_interpolation(data, "root"):
        return None
    return str(Path(expand_home(data.root, "data.root")).absolute()) if isinstance(data.root, str) else None


def expand_folders(cfg: DictConfig) -> None:
    """Complete the folders of data and caches.

    A ``~`` is replaced by the home folder. An empty environment variable counts as unset.
    """
    for key, default in _DEFAULTS.items():
        cfg[key] = expand_home(str(cfg.get(key) or default), key)


def expand_home(path: str, key: str) -> str:
    """Replace ``~`` by the home folder.

    Raises:
        UserError: the user has no home.
    """
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError as error:
        variable = f", or set {_VARIABLES[key]}" if key in _VARIABLES else ""
        raise UserError(f"{key}={path}: this user has no home folder: type {key}=FOLDER{variable}") from error
