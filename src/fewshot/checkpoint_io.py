"""Write, read and remove checkpoints for Lightning."""

import io
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO

from fewshot.checkpoint import LAST, PREVIOUS, read
from fewshot.errors import UserError
from fewshot.files import write_bytes

_PATHS = ("best_model_path", "last_model_path", "kth_best_model_path")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write each checkpoint whole or not at all.

    On a full disk the previous file stays. Lightning writes to the system's temporary folder first; a move from there
    may cross file systems. The last checkpoint but one is kept, in case the last is damaged later.
    """

    def __init__(self, trusted: Collection[str] = ()) -> None:
        super().__init__()
        self.trusted = trusted

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        target = Path(path)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        keep = target.with_name(PREVIOUS) if target.name == LAST else None
        write_bytes(target, content.getvalue(), keep)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, even of a moved run.

        Raises:
            UserError: the file is no whole checkpoint of a run, or names files outside its own folder.
        """
        content = read(path, "resume", self.trusted)
        move_states(content, Path(path))
        return content

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a ``*.ckpt`` file, but never a folder.

        Lightning's own method would remove a folder with its content.
        """
        file = Path(path)
        if file.suffix == ".ckpt" and (file.is_file() or file.is_symlink()):
            file.unlink()


def move_states(content: dict[str, Any], path: Path) -> None:
    """Update the paths in the states of callbacks.

    The files lie beside ``path``. Lightning removes the files that the states name.

    Raises:
        UserError: the states are damaged, or a name is no plain ``*.ckpt``.
    """
    for state in content["callbacks"].values():
        for key in _PATHS:
            if state.get(key):
                state[key] = _beside(path, state[key])
        if "dirpath" in state:
            state["dirpath"] = str(path.parent)
        if "best_k_models" in state:
            kept = state["best_k_models"]
            if not isinstance(kept, dict):
                raise UserError(f"resume={path}: not a checkpoint to go on from (its best_k_models is no mapping)")
            state["best_k_models"] = {_beside(path, name): score for name, score in kept.items()}


@contextmanager
def damaged_progress(resume: str | None, training: Callable[[], bool]) -> Iterator[None]:
    """Report a failed restore as a damaged checkpoint.

    Any failure before ``training()`` is true counts as a fault of the checkpoint ``resume``.
    """
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:  # Lightning takes what it restores on trust
        if resume is None or training():
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"resume={resume}: not a checkpoint to go on from ({reason})") from error


def _beside(path: Path, name: Any) -> str:
    """Return the path of a file beside ``path``.

    Only the last part of ``name`` is used.
    """
    last = name.replace("\\", "/").rpartition("/")[2] if isinstance(name, str) else ""
    if not last.endswith(".ckpt") or last.startswith(".") or "\0" in last:
        raise UserError(f"resume={path}: the checkpoint names {name!r}, which is no *.ckpt file of its run")
    return str(path.parent / last)
