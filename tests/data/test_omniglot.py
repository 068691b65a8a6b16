import hashlib
import http.client
import io
import os
import shutil
import urllib.error
import zipfile
import zlib
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot.data import omniglot as module
from fewshot.data.omniglot import Omniglot, vinyals_split
from fewshot.data.split import Split
from fewshot.errors import UserError

SIZES = {"random": (1100, 100, 423), "vinyals": (1028, 172, 423), "lake": (813, 151, 659)}


def png(seed: int, side: int = 105) -> bytes:
    dark = np.random.default_rng(seed).random((side, side)) < 0.1
    file = io.BytesIO()
    Image.fromarray(np.where(dark, 0, 255).astype(np.uint8)).convert("1").save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with two small archives in the official layout: 3 + 2 classes of 20 images."""
    monkeypatch.setattr(module, "CLASSES", {"images_background": 3, "images_evaluation": 2})
    monkeypatch.setattr(module, "RANDOM_SIZES", {"train": 2, "val": 1, "test": 2})
    monkeypatch.setattr(module, "urlopen", lambda *_, **__: pytest.fail("went to the network"))
    classes = {
        "images_background": ("Armenian/character01", "Greek/character01", "Greek/character02"),
        "images_evaluation": ("ULOG/character01", "Atlantean/character01"),
    }
    root = tmp_path / "root"
    root.mkdir()
    seed = 0
    for archive, names in classes.items():
        with zipfile.ZipFile(root / f"{archive}.zip", "w") as file:
            for name in names:
                for index in range(20):
                    file.writestr(f"{archive}/{name}/{seed:04}_{index + 1:02}.png", png(100 * seed + index))
                seed += 1
    return root


def rewrite(path: Path, changes: dict[str, bytes | None]) -> None:
    """Replaces members of a zip file; None removes one."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in (members | changes).items():
            if data is not None:
                file.writestr(name, data)


def failure(root: Path, cache: Path, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        Omniglot(root, cache, **options).load()
    message = str(caught.value)
    assert "\n" not in message
    return message


def equal(a: dict[str, Split], b: dict[str, Split]) -> bool:
    return a.keys() == b.keys() and all(
        a[key].classes == b[key].classes and torch.equal(a[key].images, b[key].images) for key in a
    )


def test_images_are_inverted_and_sorted_by_class_and_file(fake: Path, tmp_path: Path) -> None:
    splits = Omniglot(fake, tmp_path / "cache", "lake", image_size=105, download=False).load()
    assert {key: split.classes for key, split in splits.items()} == {
        "train": ("Greek/character01", "Greek/character02"),
        "val": ("Armenian/character01",),
        "test": ("Atlantean/character01", "ULOG/character01"),
    }
    assert splits["train"].name == "omniglot-lake/train"
    assert splits["test"].images.shape == (40, 1, 105, 105)
    with zipfile.ZipFile(fake / "images_background.zip") as file:
        data = file.read("images_background/Greek/character02/0002_07.png")
    ink = np.where(np.asarray(Image.open(io.BytesIO(data))), 0, 255)
    assert (splits["train"].images[20 + 6, 0].numpy() == ink).all()


def test_resizing_averages_the_ink(fake: Path, tmp_path: Path) -> None:
    full = Omniglot(fake, tmp_path, image_size=105).load()["test"].images.float()
    small = Omniglot(fake, tmp_path, image_size=28).load()["test"].images.float()
    assert small.shape == (40, 1, 28, 28)
    assert torch.allclose(full.mean((1, 2, 3)), small.mean((1, 2, 3)), rtol=0.1)


@pytest.mark.parametrize("size", [28, 30])
def test_bilinear_is_half_pixel_bilinear_without_antialiasing(fake: Path, tmp_path: Path, size: int) -> None:
    ink = Omniglot(fake, tmp_path, image_size=105).load()["test"].images[3, 0].double().numpy()
    small = Omniglot(fake, tmp_path, image_size=size, resize="bilinear").load()["test"].images[3, 0].numpy()
    for row, column in ((0, 0), (0, size - 1), (5, 11), (size // 2, 3), (size - 1, size - 2)):
        y, x = ((place + 0.5) * 105 / size - 0.5 for place in (row, column))
        (top, down), (left, right) = divmod(y, 1), divmod(x, 1)
        square = ink[int(top) : int(top) + 2, int(left) : int(left) + 2]
        wanted = np.array([1 - down, down]) @ square @ np.array([1 - right, right])
        assert abs(small[row, column] - wanted) <= 0.5 + 1e-3


def test_lanczos_is_pillows_on_the_image_as_it_lies(fake: Path, tmp_path: Path) -> None:
    train = Omniglot(fake, tmp_path, "lake", resize="lanczos").load()["train"]
    with zipfile.ZipFile(fake / "images_background.zip") as file:
        image = Image.open(io.BytesIO(file.read("images_background/Greek/character02/0002_07.png"))).convert("L")
    wanted = 255 - np.asarray(image.resize((28, 28), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(train.images[20 + 6, 0].numpy() - wanted).max() <= 1  # rounded on either side of the inversion
    assert np.abs(wanted - 255 + np.asarray(image.resize((28, 28), Image.Resampling.BILINEAR))).max() > 10


def test_each_resize_has_its_own_cache(fake: Path, tmp_path: Path) -> None:
    images = [Omniglot(fake, tmp_path, resize=resize).load()["test"].images for resize in module.RESIZES]
    assert not any(torch.equal(a, b) for a, b in combinations(images, 2))
    suffixes = ("", "-bilinear", "-lanczos")
    assert sorted(p.name for p in tmp_path.glob("*.npz")) == sorted(f"omniglot-v1-28{s}.npz" for s in suffixes)
    assert torch.equal(images[0], Omniglot(fake, tmp_path).load()["test"].images)


def test_an_unknown_resize_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.resize=nearest.*antialiased, bilinear, lanczos"):
        Omniglot(tmp_path, tmp_path, resize="nearest")


def test_the_background_split_has_no_validation_classes(fake: Path, tmp_path: Path) -> None:
    splits = Omniglot(fake, tmp_path, "background").load()
    assert {key: split.classes for key, split in splits.items()} == {
        "train": ("Armenian/character01", "Greek/character01", "Greek/character02"),
        "test": ("Atlantean/character01", "ULOG/character01"),
    }


def test_folders_give_the_same_as_zips(fake: Path, tmp_path: Path) -> None:
    other = tmp_path / "extracted"
    for archive in module.CLASSES:
        shutil.unpack_archive(fake / f"{archive}.zip", other)
    assert not list(other.glob("*.zip"))
    a, b = (Omniglot(root, tmp_path / f"cache-{root.name}", download=False).load() for root in (fake, other))
    assert equal(a, b)


def test_one_cache_serves_every_split_and_the_data_is_not_read_again(fake: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in fake.iterdir())
    first = Omniglot(fake, tmp_path / "cache").load()
    assert sorted(path.name for path in fake.iterdir()) == before
    shutil.rmtree(fake)
    assert equal(Omniglot(fake, tmp_path / "cache", download=False).load(), first)
    lake = Omniglot(fake, tmp_path / "cache", "lake", download=False).load()
    assert sum(len(split.classes) for split in lake.values()) == 5
    assert "images_background.zip" in failure(fake, tmp_path / "cache", image_size=14, download=False)


def test_a_corrupt_cache_is_decoded_again(fake: Path, tmp_path: Path) -> None:
    first = Omniglot(fake, tmp_path).load()
    path = Omniglot(fake, tmp_path).path
    path.write_bytes(path.read_bytes()[:500])
    assert equal(Omniglot(fake, tmp_path).load(), first)


def test_an_unknown_split_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'rotated'.*random, vinyals, lake"):
        Omniglot(tmp_path, tmp_path, "rotated")


def test_missing_without_download_says_what_to_put_where(fake: Path, tmp_path: Path) -> None:
    (fake / "images_evaluation.zip").unlink()
    message = failure(fake, tmp_path / "cache", download=False)
    assert f"{module.URL}/images_evaluation.zip" in message
    assert f"{fake}/images_evaluation.zip" in message
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("keep", [0, 10, 2000])
def test_a_truncated_zip_says_to_replace_it(fake: Path, tmp_path: Path, keep: int) -> None:
    path = fake / "images_background.zip"
    path.write_bytes(path.read_bytes()[:keep])
    message = failure(fake, tmp_path / "cache")
    assert message.startswith(f"{path} is no readable zip file")
    assert f"put {module.URL}/images_background.zip at {path}" in message


def test_the_other_archive_under_the_name_is_refused(fake: Path, tmp_path: Path) -> None:
    shutil.copy(fake / "images_background.zip", fake / "images_evaluation.zip")
    message = failure(fake, tmp_path / "cache")
    assert "images_evaluation.zip holds 0 folders" in message
    assert "not 2" in message


def test_a_missing_image_is_named_by_its_class(fake: Path, tmp_path: Path) -> None:
    rewrite(fake / "images_background.zip", {"images_background/Greek/character01/0001_05.png": None})
    assert "holds 19 images of Greek/character01, not 20" in failure(fake, tmp_path / "cache")


def test_a_missing_class_is_counted(fake: Path, tmp_path: Path) -> None:
    gone = {f"images_evaluation/ULOG/character01/0003_{n:02}.png": None for n in range(1, 21)}
    rewrite(fake / "images_evaluation.zip", gone)
    assert "holds 1 folders" in failure(fake, tmp_path / "cache")


@pytest.mark.parametrize("data", [b"", b"no image", png(0)[:-30], png(0)[:60]])
def test_a_corrupt_image_is_named(fake: Path, tmp_path: Path, data: bytes) -> None:
    member = "images_background/Greek/character01/0001_05.png"
    rewrite(fake / "images_background.zip", {member: data})
    assert f"unreadable image {member}" in failure(fake, tmp_path / "cache")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 105 105\n%%EndComments\n(x) = showpage\n"


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_only_png_is_decoded(fake: Path, tmp_path: Path, monkeypatch, form: str) -> None:
    """EPS would be handed to Ghostscript, a program that runs what the file says."""
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("ran a program"))
    member = "images_background/Greek/character01/0001_05.png"
    rewrite(fake / "images_background.zip", {member: EPS})
    if form == "folder":
        shutil.unpack_archive(fake / "images_background.zip", fake)
        (fake / "images_background.zip").unlink()
    assert f"unreadable image {member}" in failure(fake, tmp_path / "cache")


def bomb(side: int) -> bytes:
    """A PNG of a few kB that says to have ``side`` x ``side`` pixels."""
    file = io.BytesIO()
    Image.new("1", (side, 8)).save(file, "PNG")
    content = bytearray(file.getvalue())
    content[20:24] = side.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(("side", "reason"), [(12_000, "12000 x 12000, not 105"), (30_000, "exceeds limit")])
def test_a_bomb_is_not_decoded(fake: Path, tmp_path: Path, monkeypatch, side: int, reason: str) -> None:
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    first = "images_background/Armenian/character01/0000_01.png"
    rewrite(fake / "images_background.zip", {first: bomb(side)})
    assert reason in failure(fake, tmp_path / "cache")


def test_an_entry_of_gigabytes_is_not_unpacked(fake: Path, tmp_path: Path, monkeypatch) -> None:
    first = "images_background/Armenian/character01/0000_01.png"
    path = fake / "images_background.zip"
    rewrite(path, {first: None})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr(first, bytes(50_000_000))
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("unpacked"))
    assert f"unreadable image {first} (50,000,000 bytes)" in failure(fake, tmp_path / "cache")


@pytest.mark.parametrize(("offset", "value", "reason"), [(6, 1, "password"), (8, 99, "compression")])
def test_archives_with_a_password_or_an_unknown_compression(
    fake: Path, tmp_path: Path, offset: int, value: int, reason: str
) -> None:
    """The flag and the method of each member, in its header and in the list of all members."""
    path = fake / "images_background.zip"
    content = bytearray(path.read_bytes())
    for mark, more in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        at = content.find(mark)
        while at >= 0:
            content[at + offset + more] = value
            at = content.find(mark, at + 4)
    path.write_bytes(content)
    message = failure(fake, tmp_path / "cache")
    assert reason in message
    assert f"put {module.URL}/images_background.zip at {path}" in message


@pytest.mark.parametrize("kind", ["archive", "image"])
def test_a_named_pipe_does_not_hang(fake: Path, tmp_path: Path, kind: str) -> None:
    path = fake / "images_background.zip"
    if kind == "archive":
        path.unlink()
        os.mkfifo(path)
        assert "Omniglot is not there" in failure(fake, tmp_path / "cache", download=False)
    else:
        shutil.unpack_archive(path, fake)
        path.unlink()
        image = fake / "images_background/Greek/character01/0001_05.png"
        image.unlink()
        os.mkfifo(image)
        assert "named pipe" in failure(fake, tmp_path / "cache")


@pytest.mark.parametrize("size", [0, 1.5, "28", True, 400])
def test_sizes_that_are_none_or_fill_the_memory_are_refused(tmp_path: Path, size: object) -> None:
    with pytest.raises(UserError, match=r"data.image_size|5.2 GB, more than 2 GB: lower data.image_size"):
        Omniglot(tmp_path, tmp_path, image_size=size)


def test_a_damaged_member_of_a_zip_is_named(fake: Path, tmp_path: Path) -> None:
    path, member = fake / "images_background.zip", "images_background/Greek/character01/0001_05.png"
    with zipfile.ZipFile(path) as file:
        data = file.read(member)
    path.write_bytes(path.read_bytes().replace(data, data[:-9] + bytes(9)))
    assert f"unreadable image {member}" in failure(fake, tmp_path / "cache")


def test_images_of_another_size_are_refused(fake: Path, tmp_path: Path) -> None:
    rewrite(fake / "images_background.zip", {"images_background/Greek/character01/0001_05.png": png(0, 28)})
    assert "28 x 28, not 105 x 105" in failure(fake, tmp_path / "cache")


def test_a_folder_with_missing_images_is_refused(fake: Path, tmp_path: Path) -> None:
    path = fake / "images_evaluation.zip"
    shutil.unpack_archive(path, fake)
    path.unlink()
    next((fake / "images_evaluation").rglob("*_03.png")).unlink()
    message = failure(fake, tmp_path / "cache")
    assert "holds 19 images" in message
    assert f"delete it and put {module.URL}/images_evaluation.zip at {path}" in message


class Response(io.BytesIO):
    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(data)
        self.headers = {"Content-Length": str(size)}


def test_missing_archives_are_downloaded(fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = {path.name: path.read_bytes() for path in fake.iterdir()}
    asked = []

    def serve(url: str, timeout: float) -> Response:
        asked.append(url)
        data = served[url.rsplit("/", 1)[1]]
        return Response(data, len(data))

    monkeypatch.setattr(module, "urlopen", serve)
    sums = {name.removesuffix(".zip"): hashlib.md5(content).hexdigest() for name, content in served.items()}
    monkeypatch.setattr(module, "MD5", sums)
    splits = Omniglot(tmp_path / "new" / "root", tmp_path / "a").load()
    assert asked == [f"{module.URL}/images_background.zip", f"{module.URL}/images_evaluation.zip"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "new" / "root").iterdir()} == served
    assert equal(splits, Omniglot(fake, tmp_path / "b").load())


def test_a_download_with_another_checksum_is_refused(fake: Path, tmp_path: Path, monkeypatch) -> None:
    data = (fake / "images_background.zip").read_bytes()
    monkeypatch.setattr(module, "urlopen", lambda url, timeout: Response(data, len(data)))
    message = failure(tmp_path / "new", tmp_path / "cache")
    assert f"has the MD5 checksum {hashlib.md5(data).hexdigest()}, not 68d2efa1b9178cc56df9314c21c6e718" in message
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize(
    "trouble",
    [
        urllib.error.URLError("Name or service not known"),
        TimeoutError("timed out"),
        http.client.IncompleteRead(b""),
        "short",
    ],
)
def test_a_failed_download_says_where_to_put_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception | str
) -> None:
    def serve(url: str, timeout: float) -> Response:
        if isinstance(trouble, Exception):
            raise trouble
        return Response(b"half", 8)

    monkeypatch.setattr(module, "urlopen", serve)
    message = failure(tmp_path / "root", tmp_path / "cache")
    assert message.startswith(f"cannot download {module.URL}/images_background.zip")
    assert message.endswith(f"put it at {tmp_path}/root/images_background.zip")
    assert not list((tmp_path / "root").iterdir())


def test_a_root_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    message = failure(tmp_path / "file", tmp_path / "cache")
    assert message.startswith(f"cannot write to {tmp_path}/file")
    assert f"{module.URL}/images_background.zip" in message


def test_the_random_split_never_changes(omniglot: dict[str, dict[str, Split]]) -> None:
    names = "\n".join(omniglot["random"]["test"].classes)
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == "9ee47f1940c65672"


@pytest.fixture(scope="module")
def omniglot(omniglot_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Split]]:
    """Every split of the real data, decoded once."""
    cache = tmp_path_factory.mktemp("omniglot")
    return {split: Omniglot(omniglot_root, cache, split, download=False).load() for split in module.SPLITS}


@pytest.mark.parametrize("split", SIZES)
def test_real_splits_have_their_sizes_and_share_no_class(omniglot: dict[str, dict[str, Split]], split: str) -> None:
    parts = omniglot[split]
    assert tuple(len(part.classes) for part in parts.values()) == SIZES[split]
    assert [part.name for part in parts.values()] == [f"omniglot-{split}/{key}" for key in ("train", "val", "test")]
    for a, b in combinations(parts.values(), 2):
        assert not set(a.classes) & set(b.classes)
    for part in parts.values():
        assert list(part.classes) == sorted(part.classes)
        assert part.counts.unique().tolist() == [20]
        assert part.images.shape == (20 * len(part.classes), 1, 28, 28)
        assert 0 < part.images.float().mean() < 64  # thin light strokes on black
        assert part.images.amax((1, 2, 3)).min() > 100


def test_a_class_has_the_same_images_in_every_split(omniglot: dict[str, dict[str, Split]]) -> None:
    def images(split: str, name: str) -> torch.Tensor:
        (part,) = (part for part in omniglot[split].values() if name in part.classes)
        return part.images.unflatten(0, (-1, 20))[part.classes.index(name)]

    for name in ("Latin/character01", "ULOG/character26", "Korean/character40"):
        assert torch.equal(images("random", name), images("vinyals", name))
        assert torch.equal(images("random", name), images("lake", name))


def test_lake_parts_share_no_alphabet(omniglot: dict[str, dict[str, Split]]) -> None:
    alphabets = {key: {name.split("/")[0] for name in part.classes} for key, part in omniglot["lake"].items()}
    assert {key: len(names) for key, names in alphabets.items()} == {"train": 25, "val": 5, "test": 20}
    assert len(set().union(*alphabets.values())) == 50


def test_the_real_background_split_is_by_archive(omniglot: dict[str, dict[str, Split]]) -> None:
    parts = omniglot["background"]
    assert {key: len(part.classes) for key, part in parts.items()} == {"train": 964, "test": 659}
    assert parts["test"].classes == omniglot["lake"]["test"].classes


def test_vinyals_equals_the_published_lists(omniglot_root: Path) -> None:
    for part, names in vinyals_split().items():
        lines = (omniglot_root / "vinyals" / f"{part}.txt").read_text().split()
        published = {line.rsplit("/", 1)[0] for line in lines}
        assert len(names) * 4 == len(lines)
        assert set(names) == published
