"""What the states in a checkpoint can make Lightning write or remove."""

from pathlib import Path

import pytest
import torch

from fewshot.checkpoint_io import AtomicCheckpointIO
from fewshot.errors import UserError

BEYOND = ("x/..", "..", "/", ".", "best", "best.ckpt/..", "..\\..", "x.ckpt\0", ".ckpt", 3, ["a.ckpt"])


def to_go_on(callbacks: dict) -> dict:
    """A checkpoint with no weights that passes every check but that of its callbacks."""
    settings = "data: {channels: 1, image_size: 8, mean: 0, std: 1}"
    training = {"global_step": 0, "loops": {}, "optimizer_states": [], "lr_schedulers": []}
    return {"format": 2, "settings": settings, "state_dict": {}, "callbacks": callbacks} | training


def states(name: object) -> list[dict]:
    paths = ({key: name} for key in ("best_model_path", "last_model_path", "kth_best_model_path"))
    return [*paths, {"best_k_models": {name if isinstance(name, str) else 3: 0.5}}]


@pytest.mark.parametrize("name", BEYOND, ids=repr)
def test_states_that_name_no_checkpoint_are_refused(tmp_path: Path, name: object) -> None:
    file = tmp_path / "run/checkpoints/d.ckpt"
    file.parent.mkdir(parents=True)
    for state in states(name):
        content = to_go_on({"ModelCheckpoint": state})
        torch.save(content, file)
        with pytest.raises(UserError, match=r"names .*, which is no \*\.ckpt file of its run"):
            AtomicCheckpointIO().load_checkpoint(file)


def test_states_of_a_moved_run_name_files_of_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    state = {
        "best_model_path": "/gone/checkpoints/best.ckpt",
        "last_model_path": "",
        "dirpath": "/gone/checkpoints",
        "best_k_models": {"C:\\gone\\best.ckpt": 0.5},
    }
    torch.save(to_go_on({"ModelCheckpoint": state}), file)
    moved = AtomicCheckpointIO().load_checkpoint(file)["callbacks"]["ModelCheckpoint"]
    assert moved == {
        "best_model_path": str(tmp_path / "best.ckpt"),
        "last_model_path": "",
        "dirpath": str(tmp_path),
        "best_k_models": {str(tmp_path / "best.ckpt"): 0.5},
    }


def test_a_folder_is_never_removed(tmp_path: Path) -> None:
    folder = tmp_path / "folder.ckpt"
    folder.mkdir()
    (folder / "photo.png").write_bytes(b"mine")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "old.ckpt").write_bytes(b"old")
    for path in (tmp_path, folder, tmp_path / "notes.txt", tmp_path / "old.ckpt", tmp_path / "missing.ckpt"):
        AtomicCheckpointIO().remove_checkpoint(path)
    assert (folder / "photo.png").read_bytes() == b"mine"
    assert (tmp_path / "notes.txt").is_file()
    assert not (tmp_path / "old.ckpt").exists()
