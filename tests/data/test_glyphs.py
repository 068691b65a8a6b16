import logging
import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot.data.characters import candidates, distinct
from fewshot.data.drawing import FACES, STYLES, Character, crop, load_fonts, render
from fewshot.data.glyphs import CLASSES, Glyphs
from fewshot.data.paths import cache_folder
from fewshot.data.split import Split
from fewshot.data.split_cache import cached
from fewshot.errors import UserError


def test_each_split_has_enough_classes_and_the_stated_drawings(glyphs: dict[str, Split]) -> None:
    assert list(glyphs) == ["train", "val", "test"]
    for key, least in {"train": 600, "val": 100, "test": 300}.items():
        split = glyphs[key]
        assert split.name == f"glyphs/{key}"
        assert len(split.classes) >= least
        assert split.counts.unique().tolist() == [2]
        assert split.images.shape == (2 * len(split.classes), 1, 28, 28)


def test_splits_share_no_class_and_no_script(glyphs: dict[str, Split]) -> None:
    for a, b in combinations(glyphs.values(), 2):
        assert not set(a.classes) & set(b.classes)
        assert not {c.split("/")[0] for c in a.classes} & {c.split("/")[0] for c in b.classes}


def test_every_drawing_is_ink_on_a_black_ground_and_not_clipped(glyphs: dict[str, Split]) -> None:
    for split in glyphs.values():
        images = split.images[:, 0].float() / 255
        assert images.amax((1, 2)).min() > 0.3
        assert images.mean((1, 2)).max() < 0.7
        border = torch.cat([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1)
        assert (border > 0.1).float().mean() < 0.01


def test_drawings_of_a_class_differ(glyphs: dict[str, Split]) -> None:
    for split in glyphs.values():
        first, second = split.images.view(-1, 2, 784).float().unbind(1)
        assert ((first - second).abs().mean(1) > 1).all()


def test_no_two_splits_hold_one_shape() -> None:
    # Not the module's measure: thresholded crops at 24 x 24, and the share of ink in common.
    fonts = load_fonts()
    masks: dict[str, list[np.ndarray]] = {}
    aspects: dict[str, list[float]] = {}
    for key, characters in distinct(candidates(), fonts).items():
        masks[key], aspects[key] = [], []
        for character in characters:
            ink = crop(character.code, fonts[next(face for face in character.faces if face in STYLES)])
            assert ink is not None
            masks[key].append(np.asarray(ink.resize((24, 24), Image.Resampling.BILINEAR)).ravel() > 127)
            aspects[key].append(ink.width / ink.height)
    for a, b in combinations(masks, 2):
        x, y = np.stack(masks[a]).astype(float), np.stack(masks[b]).astype(float)
        both = x @ y.T
        overlap = both / (x.sum(1)[:, None] + y.sum(1) - both)
        ratio = np.divide.outer(aspects[a], aspects[b])
        assert overlap[(ratio > 0.8) & (ratio < 1.25)].max() < 0.9


def test_look_alikes_are_kept_once_and_in_the_first_split() -> None:
    def character(text: str) -> Character:
        return Character(ord(text), "any", ("DejaVuSans", "DejaVuSerif"))

    found = {"train": [character(c) for c in "AАcCE"], "val": [character(c) for c in "ΑЖ"], "test": [character("С")]}
    kept = distinct(found, load_fonts())
    assert {key: "".join(chr(c.code) for c in value) for key, value in kept.items()} == {
        "train": "AcE",
        "val": "Ж",
        "test": "",
    }


def test_every_face_really_holds_its_characters() -> None:
    found = [character for characters in candidates().values() for character in characters]
    latin = next(character for character in found if character.code == ord("A"))
    assert set(latin.faces) == set(FACES)
    hebrew = next(character for character in found if character.code == 0x05D0)
    assert set(hebrew.faces) < set(FACES)
    fonts = load_fonts()
    box = crop(0x10FFFF, fonts["DejaVuSans"])  # held by no face: the box for a missing character
    assert box is not None
    for character in found:
        ink = crop(character.code, fonts["DejaVuSans"]) if "DejaVuSans" in character.faces else None
        assert ink is None or ink.tobytes() != box.tobytes()


def test_two_builds_are_equal_to_the_byte(glyphs_cache: Path, tmp_path: Path) -> None:
    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        Glyphs(tmp_path, drawings=2).load()
    finally:
        torch.set_num_threads(threads)
    (a,), (b,) = glyphs_cache.iterdir(), tmp_path.iterdir()
    assert a.name == b.name
    assert a.read_bytes() == b.read_bytes()
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_more_drawings_keep_the_first_ones() -> None:
    fonts = load_fonts()
    character = candidates()["test"][0]
    assert torch.equal(render(character, fonts, 28, 5)[:2], render(character, fonts, 28, 2))
    assert render(character, fonts, 40, 3).shape == (3, 1, 40, 40)


def test_the_second_load_reads_the_cache(glyphs_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Glyphs, "_build", lambda self: pytest.fail("built again"))
    splits = Glyphs(glyphs_cache, drawings=2).load()
    assert splits["test"].images.dtype == torch.uint8


def test_the_cache_depends_on_size_and_drawings(tmp_path: Path) -> None:
    paths = {Glyphs(tmp_path, size, n).path for size in (28, 32) for n in (5, 20)}
    assert len(paths) == 4


@pytest.mark.parametrize(
    ("size", "drawings", "message"),
    [(1000, 20, "24.0 GB, more than 2 GB: lower data.image_size"), (28, 10**7, "more than 2 GB"),
     (0, 20, "data.image_size=0"), (1.5, 20, "data.image_size=1.5"), ("28", 20, "data.image_size=28"),
     (28, 0, "data.dataset.drawings=0"), (28, 2.5, "data.dataset.drawings=2.5")],
)  # fmt: skip
def test_sizes_that_are_none_or_fill_the_memory_are_refused(tmp_path: Path, size, drawings, message) -> None:
    with pytest.raises(UserError, match=message):
        Glyphs(tmp_path, size, drawings)


def test_the_bound_of_memory_counts_all_classes(glyphs: dict[str, Split]) -> None:
    assert 0.9 * CLASSES < sum(len(split.classes) for split in glyphs.values()) <= CLASSES


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_setting_is_no_folder_for_caches(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert Glyphs(empty).path.parent == Path("/somewhere/.cache/fewshot")


def test_a_user_without_a_home_is_told_to_name_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    for make in (lambda: Glyphs("~/.cache/fewshot"), lambda: cache_folder("")):
        with pytest.raises(UserError, match="no home folder: set FEWSHOT_CACHE to a folder that you can write"):
            make()


def tiny() -> dict[str, Split]:
    images = torch.arange(3 * 4, dtype=torch.uint8).view(3, 1, 2, 2)
    return {"all": Split("tiny/all", images, torch.tensor([1, 2]), ("Latin/U+0041 A", "ქართული/1"))}


def test_a_cache_gives_back_what_was_built(tmp_path: Path) -> None:
    cached(tmp_path / "new" / "tiny.npz", tiny)
    (split,) = cached(tmp_path / "new" / "tiny.npz", lambda: pytest.fail("built again")).values()
    expected = tiny()["all"]
    assert torch.equal(split.images, expected.images)
    assert torch.equal(split.counts, expected.counts)
    assert (split.name, split.classes, split.digest) == (expected.name, expected.classes, expected.digest)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tiny.npz"]


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped", "foreign"])
def test_a_corrupt_cache_is_built_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "tiny.npz"
    cached(path, tiny)
    good = path.read_bytes()
    at = good.index(bytes(range(12)))
    bad = {
        "cut": good[: len(good) // 2],
        "empty": b"",
        "text": b"not a cache",
        "flipped": good[:at] + b"\xff" + good[at + 1 :],
    }
    if damage == "foreign":
        np.savez(path, other=np.zeros(3))
    else:
        path.write_bytes(bad[damage])
    with caplog.at_level(logging.WARNING):
        splits = cached(path, tiny)
    assert torch.equal(splits["all"].images, tiny()["all"].images)
    assert path.read_bytes() == good
    assert [str(path) in record.getMessage() for record in caplog.records] == [True]


def test_a_cache_folder_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="FEWSHOT_CACHE") as caught:
        cached(tmp_path / "file" / "tiny.npz", lambda: pytest.fail("built for nothing"))
    assert str(tmp_path / "file") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_a_user_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match=r"No space left on device.*FEWSHOT_CACHE"):
        cached(tmp_path / "tiny.npz", tiny)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_build_passes_through(tmp_path: Path) -> None:
    def broken() -> dict[str, Split]:
        raise FileNotFoundError("mine")

    with pytest.raises(FileNotFoundError, match="mine"):
        cached(tmp_path / "tiny.npz", broken)
    assert list(tmp_path.iterdir()) == []
