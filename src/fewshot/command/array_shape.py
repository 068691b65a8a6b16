"""Take shapes of arrays into the settings."""

from dataclasses import asdict

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from fewshot.data.arrays import Arrays, array_shape
from fewshot.errors import UserError


def fill_array_shape(cfg: DictConfig) -> None:
    """Fill ``data.channels`` and the like from the header of a data set's array.

    Settings of other data sets are left alone.

    Raises:
        UserError: the file cannot be read, or a setting contradicts it.
    """
    target = OmegaConf.select(cfg, "data.dataset._target_")
    kind = get_object(target) if isinstance(target, str) else None
    if not (isinstance(kind, type) and issubclass(kind, Arrays)):
        return
    root = cfg.data.dataset.get("root")
    if not isinstance(root, str | None):
        raise UserError(f"data.root={root}: must be a text")
    for key, value in asdict(array_shape(root)).items():
        typed = cfg.data.get(key)
        if typed is not None and (typed != value or isinstance(typed, bool) != isinstance(value, bool)):
            shown, found = (str(one).lower() for one in (typed, value))
            raise UserError(
                f"data.{key}={shown} contradicts {root}, whose arrays have {key}={found}: leave data.{key} out"
                + (", or take the file that the checkpoint was trained on" if cfg.get("checkpoint") else "")
            )
        cfg.data[key] = value
