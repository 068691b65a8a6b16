"""Folders of images: what is a class, what is left out, and a cache that is right whatever happens."""

import logging
import multiprocessing
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot.data import EpisodeSampler, ImageFolder, array_store
from fewshot.data import image_store as store_module
from fewshot.data.class_folders import scan
from fewshot.data.images import decode
from fewshot.errors import UserError
from mixed_images import BROKEN, mixed_folder


def paint(path: Path, value: int = 0, size: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (size, size), value).save(path)


@pytest.fixture
def split_root(tmp_path) -> Path:
    """Two classes a split, three images each; the value of an image says which one it is."""
    value = 0
    for split in ("train", "val", "test"):
        for label in ("a", "b"):
            for place in range(3):
                paint(tmp_path / "root" / split / f"{split} {label}" / f"{place}.png", value)
                value += 1
    return tmp_path / "root"


def load(root: Path, **options):
    return ImageFolder(root, root.parent / "cache", **({"channels": 1, "image_size": 4} | options)).load()


def values(split) -> dict[str, list[int]]:
    """The first pixel of each image, by class."""
    return {
        name: split.images[start : start + count, 0, 0, 0].tolist()
        for name, start, count in zip(split.classes, split.starts, split.counts, strict=True)
    }


def test_folders_of_splits(split_root):
    splits = load(split_root)
    assert list(splits) == ["train", "val", "test"]
    assert splits["val"].name == "folder/val"
    assert values(splits["train"]) == {"train a": [0, 1, 2], "train b": [3, 4, 5]}
    assert values(splits["test"]) == {"test a": [12, 13, 14], "test b": [15, 16, 17]}


def test_without_validation_classes(split_root):
    (split_root / "val").rename(split_root.parent / "elsewhere")
    assert list(load(split_root)) == ["train", "test"]


def test_classes_are_folders_that_hold_images(tmp_path, caplog):
    for value, name in enumerate(("deep/er/one", "deep/er", "two", "three", "four", "Ünïcode/字")):
        paint(tmp_path / "root" / name / "1.png", value)
    paint(tmp_path / "root" / "stray.png")
    (tmp_path / "root" / "empty").mkdir()
    (tmp_path / "root" / "texts").mkdir()
    (tmp_path / "root" / "texts" / "a.txt").touch()
    (tmp_path / "root" / "two" / "up").symlink_to(tmp_path / "root")
    paint(tmp_path / "root" / "__MACOSX" / "1.png")
    seen = {name for split in load(tmp_path / "root").values() for name in split.classes}
    assert seen == {"deep/er/one", "deep/er", "two", "three", "four", "Ünïcode/字"}
    assert not caplog.text


def test_names_that_are_not_utf8(tmp_path):
    for name in (b"\xff\xfe", b"b", b"c"):
        folder = os.fsdecode(os.fsencode(tmp_path / "root") + b"/" + name)
        paint(Path(folder) / "1.png")
    (Path(folder) / os.fsdecode(b"\xe9.png")).write_text("no image")
    splits = load(tmp_path / "root")
    assert {name for split in splits.values() for name in split.classes} == {"\\xff\\xfe", "b", "c"}
    assert all(split.digest for split in splits.values())


def test_a_flat_folder_is_split_by_class(tmp_path):
    for number in range(20):
        paint(tmp_path / "root" / f"c{number:02}" / "1.png", number)
    one, other = load(tmp_path / "root"), load(tmp_path / "root", split_seed=1)
    assert [len(split.classes) for split in one.values()] == [13, 3, 4]  # 64, 16 and 20 per cent
    for splits in (one, other):
        names = [name for split in splits.values() for name in split.classes]
        assert sorted(names) == [f"c{number:02}" for number in range(20)]
        for split in splits.values():
            assert values(split) == {name: [int(name[1:])] for name in split.classes}
    assert one["test"].classes != other["test"].classes
    shares = load(tmp_path / "root", shares={"train": 1, "test": 1, "val": 0})
    assert {name: len(split.classes) for name, split in shares.items()} == {"train": 10, "test": 10}


def test_the_split_does_not_depend_on_files_or_tasks(tmp_path):
    for number in range(10):
        paint(tmp_path / "root" / f"c{number}" / "1.png")
    before = {name: split.classes for name, split in load(tmp_path / "root").items()}
    for number in range(10):
        paint(tmp_path / "root" / f"c{number}" / "2.png")
    after = load(tmp_path / "root", least={"train": [1, 1], "test": [1]})
    assert {name: split.classes for name, split in after.items()} == before


def test_classes_with_too_few_images_are_named_in_one_line(split_root, caplog):
    paint(split_root / "train" / "poor" / "1.png", 99)
    paint(split_root / "test" / "poorer" / "1.png", 99)
    splits = load(split_root, least={"train": [1, 1], "val": [3], "test": [1, 0]})
    assert values(splits["train"]) == {"train a": [0, 1, 2], "train b": [3, 4, 5]}  # the poor one lies before them
    assert "poorer" in splits["test"].classes
    (record,) = [record for record in caplog.records if "too few" in record.message]
    assert "1 of 3 in train, which needs 2: poor (1)" in record.message
    images = EpisodeSampler(splits["train"], 2, 1, 1, seed=0)(torch.arange(20)).support_x
    assert round(255 * float(images.max())) == 5


def test_a_mixed_folder_says_what_it_leaves_out(tmp_path, caplog):
    root = mixed_folder(tmp_path / "root")
    least = {"train": [1, 2], "val": [1, 2], "test": [1, 2]}
    splits = load(root, channels=3, image_size=16, least=least)
    total = sum(len(split.classes) for split in splits.values())
    assert total == 9
    assert {"кошка", "neste d/猫"} < {name for split in splits.values() for name in split.classes}
    (unreadable,) = [r.message for r in caplog.records if "unreadable" in r.message]
    assert f"{BROKEN} of {9 * 8 + 1 + BROKEN} files are unreadable" in unreadable
    assert "plain/empty.jpg (not an image of a known format)" in unreadable
    lines = Path(unreadable.split("; ")[-1].removesuffix(" lists them")).read_text("utf-8").splitlines()
    assert [line.split("\t")[0] for line in lines] == [
        "plain/empty.jpg", "plain/link.png", "plain/text.png", "plain/truncated.png"]  # fmt: skip
    (few,) = [r.message for r in caplog.records if "too few" in r.message]
    assert "alone (1)" in few
    for split in splits.values():
        for name, start in zip(split.classes, split.starts, strict=True):
            files = sorted(file for file in (root / name).iterdir() if file.suffix not in (".txt", ".db"))
            first = next(file for file in files if not file.name.startswith((".", "empty")))
            assert np.array_equal(split.images[int(start)].numpy(), decode(first, 3, 16))


def test_a_mixed_folder_trains(tmp_path, run_server):
    root = mixed_folder(tmp_path / "root", classes=12)
    environment = os.environ | {"FEWSHOT_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    typed = ["data=folder", f"data.root={root}", "data.image_size=16", "backbone.width=4", "task.ways=2",
             "task.train_ways=2", "task.queries=3", "task.train_queries=1", "task.val_episodes=2",
             "task.test_episodes=2", "data.shares={train:1,val:1,test:1}", "trainer.max_steps=1",
             "figures=false", "name=out"]  # fmt: skip
    done = run_server.run(typed, tmp_path, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 101 files are unreadable" in done.stdout + done.stderr
    assert "alone (1)" in done.stdout + done.stderr
    assert (tmp_path / "outputs" / "out" / "result.json").is_file()


def test_images_are_decoded_once(split_root, monkeypatch):
    load(split_root)

    def never(*arguments, **options):
        raise AssertionError("decoded again")

    monkeypatch.setattr(store_module, "decode_files", never)
    load(split_root, least={"train": [2]})  # another task needs no other images
    with pytest.raises(AssertionError):
        load(split_root, image_size=5)
    with pytest.raises(AssertionError):
        load(split_root, invert=True)


def change_a_pixel(root: Path) -> None:
    file = root / "train/train a/0.png"
    before = file.stat()
    paint(file, 200)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (change_a_pixel, {"train a": [200, 1, 2], "train b": [3, 4, 5]}),
        (lambda root: paint(root / "train/train a/9.png", 77), {"train a": [0, 1, 2, 77], "train b": [3, 4, 5]}),
        (lambda root: (root / "train/train a/1.png").unlink(), {"train a": [0, 2], "train b": [3, 4, 5]}),
        (lambda root: (root / "train/train b").rename(root / "train/x"), {"train a": [0, 1, 2], "x": [3, 4, 5]}),
        (lambda root: (root / "train/train a/0.png").rename(root / "train/train b/9.png"),
         {"train a": [1, 2], "train b": [3, 4, 5, 0]}),
    ],
)  # fmt: skip
def test_a_change_of_the_folder_is_seen(split_root, change, wanted):
    before = load(split_root)["train"]
    change(split_root)
    assert values(load(split_root)["train"]) == wanted
    assert values(before) == {"train a": [0, 1, 2], "train b": [3, 4, 5]}  # what was loaded stays as it was
    assert len(list((split_root.parent / "cache").glob("*.npy"))) == 1


@pytest.mark.parametrize("damage", ["json", "short", "gone", "header", "pixels", "shape"])
def test_a_damaged_cache_is_built_again(split_root, damage, caplog):
    wanted = values(load(split_root)["train"])
    (images,), (told,) = (list((split_root.parent / "cache").glob(kind)) for kind in ("*.npy", "*.json"))
    if damage == "json":
        told.write_text("{")
    elif damage == "gone":
        images.unlink()
    else:
        content = images.read_bytes()
        damaged = {
            "short": content[:-5],
            "header": b"x" * len(content),
            "pixels": content[:-40] + b"\xff" + content[-39:],  # other bytes, the same length
            "shape": content.replace(b"(18, 1, 4, 4)", b"(16, 1, 4, 4)"),
        }
        assert damaged[damage] != content
        images.write_bytes(damaged[damage])
    assert values(load(split_root)["train"]) == wanted
    assert len([record for record in caplog.records if "building it again" in record.message]) == (damage != "gone")


def test_a_cache_cut_short_while_in_use_is_an_error_and_no_signal(split_root):
    sampler = EpisodeSampler(load(split_root)["train"], 2, 1, 1, seed=0)
    sampler(torch.arange(2))
    (images,) = (split_root.parent / "cache").glob("*.npy")
    os.truncate(images, 100)
    with pytest.raises(UserError, match=r"\.npy was cut short while in use: delete it"):
        sampler(torch.arange(2))
    assert values(load(split_root)["train"]) == {"train a": [0, 1, 2], "train b": [3, 4, 5]}


def test_images_are_mapped_and_not_copied(split_root, recwarn):
    train, test = (load(split_root)[name] for name in ("train", "test"))
    (images,) = (split_root.parent / "cache").glob("*.npy")
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(images))]
    spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in mapped]
    for split in (train, test, train.only(torch.tensor([False, True]))):
        assert any(start <= split.images.data_ptr() < end for start, end in spans)
        assert EpisodeSampler(split, 1, 1, 1, seed=0).split.images.data_ptr() == split.images.data_ptr()
    train.images[0] = 255  # nobody does, but it would not reach the file
    assert int(load(split_root)["train"].images[0].max()) == 0
    assert not [warning for warning in recwarn if "writable" in str(warning.message)]


def _build_slowly(root: Path, half, go_on) -> None:
    real = store_module.decode_files

    def slow(*arguments, **options):
        for place, image in enumerate(real(*arguments, **options)):
            if place == 9:
                half.set()
                go_on.wait()
            yield image

    store_module.decode_files = slow
    load(root)


def test_a_kill_half_way_leaves_no_trace(split_root):
    cache = split_root.parent / "cache"
    context = multiprocessing.get_context("fork")
    half, never = context.Event(), context.Event()
    builder = context.Process(target=_build_slowly, args=(split_root, half, never))
    builder.start()
    assert half.wait(60)
    found: list = []
    waiter = threading.Thread(target=lambda: found.append(load(split_root)))
    waiter.start()
    time.sleep(0.3)
    assert waiter.is_alive()  # while another process builds
    builder.kill()
    waiter.join(30)
    assert values(found[0]["train"]) == {"train a": [0, 1, 2], "train b": [3, 4, 5]}
    assert not list(cache.glob(".*.part"))
    assert len(list(cache.glob("*.npy"))) == 1


def _load_and_report(root: str, queue) -> None:
    queue.put(values(load(Path(root))["train"]))


def test_processes_at_once_see_the_same(split_root):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_load_and_report, args=(str(split_root), queue)) for _ in range(4)]
    for process in processes:
        process.start()
    seen = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert seen == 4 * [{"train a": [0, 1, 2], "train b": [3, 4, 5]}]
    assert len(list((split_root.parent / "cache").glob("*.npy"))) == 1


def no_root(root: Path) -> dict:
    return {"root": root / "missing"}


def no_class(root: Path) -> dict:
    (root.parent / "bare").mkdir()
    paint(root.parent / "bare" / "1.png")
    return {"root": root.parent / "bare"}


def no_class_in_a_split(root: Path) -> dict:
    (root / "val").rename(root.parent / "val")
    (root / "val").mkdir()
    return {}


def nothing_readable(root: Path) -> dict:
    for file in root.rglob("*.png"):
        file.write_text("no image")
    return {}


def a_class_in_two_splits(root: Path) -> dict:
    paint(root / "val" / "train a" / "1.png")
    return {}


def no_test(root: Path) -> dict:
    (root / "test").rename(root.parent / "test")
    return {}


def two_classes(root: Path) -> dict:
    return {"root": root / "train"}


def a_file_for_a_cache(root: Path) -> dict:
    (root.parent / "file").touch()
    return {"cache_dir": root.parent / "file"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_root, "missing is no folder: get it there"),
        (lambda root: {"root": None}, "data.root=null: name the folder"),
        (no_class, "bare holds no class"),
        (no_class_in_a_split, "val holds no class"),
        (nothing_readable, "none of 18 files is a readable image: .*0.png .not an image"),
        (a_class_in_two_splits, "class 'train a' is in both train and val"),
        (no_test, "has train and val, but no test"),
        (two_classes, "has 2 classes, too few for train, val, test: add some, or set data.shares.val=0"),
        (lambda root: {"least": {"test": [2, 2]}}, "no class of test has the 4 images .* the largest has 3"),
        (a_file_for_a_cache, "cannot write to the cache folder"),
        (lambda root: {"shares": {"train": 1, "tset": 1}}, "data.shares=.*tset"),
        (lambda root: {"shares": {"train": 1, "test": -1}}, "data.shares="),
        (lambda root: {"fit": "stretch"}, "data.fit=stretch"),
        (lambda root: {"channels": 4}, "data.channels=4"),
    ],
)
def test_bad_input_is_one_line(split_root, spoil, message):
    options = {"root": split_root, "cache_dir": split_root.parent / "cache", "channels": 1, "image_size": 4}
    options |= {"hint": "get it there"} | spoil(split_root)
    with pytest.raises(UserError, match=message) as caught:
        ImageFolder(**options).load()
    assert "\n" not in str(caught.value)


def test_folders_beside_the_splits_are_named(split_root, caplog):
    caplog.set_level(logging.WARNING)
    paint(split_root / "annotations" / "1.png")
    assert list(load(split_root)) == ["train", "val", "test"]
    assert "only test, train, val are read, not annotations" in caplog.text


@pytest.mark.parametrize(
    "names",
    [("Train", "Valid", "Test"), ("training", "validation", "testing"), ("TRAIN", "dev", "test"),
     ("meta-train", "meta_val", "metatest"), ("train_set", "valset", "test-set")],
)  # fmt: skip
def test_usual_names_of_splits_are_known(split_root, names):
    wanted = {name: values(split) for name, split in load(split_root).items()}
    for old, new in zip(("train", "val", "test"), names, strict=True):
        if old != new:
            (split_root / old).rename(split_root / f"{new} ")
            (split_root / f"{new} ").rename(split_root / new)
    assert {name: values(split) for name, split in load(split_root).items()} == wanted


def six_classes(root: Path, *tops: str) -> Path:
    for place, top in enumerate(tops):
        for label in range(6):
            for number in range(4):
                paint(root / top / f"c{label}" / f"{number}.png", 40 * place + 6 * number + label)
    return root


@pytest.mark.parametrize(
    ("tops", "message"),
    [
        (("train", "valid"), "has train and valid, but no test: add it, or point data.root at .*root/train"),
        (("Train", "Test"), "class 'c0' is in both Train and Test: .* Point data.root at .*root/Train"),
        (("training", "validation", "testing"), "class 'c0' is in both training and validation"),
        (("train", "val", "valid", "test"), "has val and valid, all names of val: keep one"),
        (("train", "valid", "more"), "'train/c0' and 'valid/c0' look like classes of two splits"),
        (("data/train", "data/valid"), "'data/train/c0' and 'data/valid/c0' look like classes of two splits"),
        (("cat/train", "cat/test", "dog/train", "dog/test"), "'cat/test/c0' and 'cat/train/c0' look like classes of"),
    ],
)
def test_the_same_classes_in_train_and_test_are_refused(tmp_path, tops, message):
    with pytest.raises(UserError, match=message):
        load(six_classes(tmp_path / "root", *tops))


def test_a_class_may_be_called_train(tmp_path):
    for number, name in enumerate(("bus", "train", "car", "ship")):
        paint(tmp_path / "root" / name / "1.png", number)
    assert {name for split in load(tmp_path / "root").values() for name in split.classes} == {
        "bus", "train", "car", "ship"}  # fmt: skip


def test_nested_classes_are_named_in_one_line(tmp_path, caplog):
    load(six_classes(tmp_path / "root", "images", "masks"))
    (line,) = [record.message for record in caplog.records if "nested" in record.message]
    assert "12 of 12 classes are nested folders, such as 'images/c0' and 'masks/c0': each is a class" in line


def test_the_first_level_can_be_the_class(tmp_path):
    for name in ("c01/2021", "c01/2022", "c02/2021", "c02"):
        paint(tmp_path / name / "1.png")
    assert {name: len(files) for name, files in scan(tmp_path, first_level=True).items()} == {"c01": 2, "c02": 2}
    assert set(scan(tmp_path)) == {"c01/2021", "c01/2022", "c02/2021", "c02"}


NFC, NFD = "caf\u00e9", "cafe\u0301"


def test_a_name_in_two_unicode_forms_is_one_class(tmp_path, caplog):
    for value, name in enumerate((NFC, NFD, "b", "c")):
        paint(tmp_path / "root" / name / "1.png", value)
    splits = load(tmp_path / "root")
    assert sorted(name for split in splits.values() for name in split.classes) == ["b", "c", NFC]
    assert any(sorted(values(split).get(NFC, [])) == [0, 1] for split in splits.values())
    assert f"1 names are written in two Unicode forms, each of which is taken as one class: {NFC}" in caplog.text


def test_a_name_in_another_unicode_form_is_no_class_of_its_own_in_test(split_root):
    paint(split_root / "train" / NFC / "1.png", 99)
    paint(split_root / "test" / NFD / "1.png", 98)
    with pytest.raises(UserError, match=f"class '{NFC}' is in both train and test"):
        load(split_root)


def test_identical_images_of_two_splits_are_named(split_root, caplog):
    paint(split_root / "test" / "test a" / "copy.png", 1)
    paint(split_root / "train" / "train b" / "copy.png", 1)  # within a split: a matter of the user's
    for _ in range(2):  # also when the images are not decoded again
        caplog.clear()
        load(split_root)
        (line,) = [record.message for record in caplog.records if "same in two splits" in record.message]
        assert "1 images are the same in two splits" in line
        assert "train/train a/1.png = test/test a/copy.png" in line


@pytest.mark.parametrize(("largest", "bits"), [(1023, 10), (4095, 12), (4096, None)])
def test_narrow_sixteen_bit_images_are_named(tmp_path, caplog, largest, bits):
    for number in range(4):
        path = tmp_path / "root" / f"c{number}" / "1.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.full((4, 4), largest - number, dtype=np.uint16)).save(path)
    load(tmp_path / "root")
    lines = [record.message for record in caplog.records if "16-bit" in record.message]
    assert len(lines) == (bits is not None)
    if bits:
        assert f"no 16-bit image passes {largest} of 65535" in lines[0]
        assert f"camera of {bits} bits set data.full_scale={largest}" in lines[0]
        caplog.clear()
        splits = load(tmp_path / "root", full_scale=largest)
        assert "16-bit" not in caplog.text
        assert max(int(split.images.max()) for split in splits.values()) == 255


HELPERS = ("@eaDir", "__MACOSX", ".git", "lost+found", "#recycle", "$RECYCLE.BIN", "System Volume Information",
           "__pycache__", ".ipynb_checkpoints", "@Recycle")  # fmt: skip


def test_helper_folders_are_no_classes(tmp_path, caplog):
    plain, helped = tmp_path / "plain" / "root", tmp_path / "helped" / "root"
    for root in (plain, helped):
        for number in range(20):
            paint(root / f"c{number:02}" / "1.png", number)
    for number, helper in enumerate(HELPERS):
        for place in range(3):
            paint(helped / f"c{number:02}" / helper / f"{place}.png" / "SYNOPHOTO_THUMB_M.jpg", 99)
        paint(helped / helper / "1.png", 99)
    wanted = {name: values(split) for name, split in load(plain).items()}
    assert {name: values(split) for name, split in load(helped).items()} == wanted
    assert not caplog.text


def test_shares_are_of_the_classes_that_are_left(tmp_path, caplog):
    """Sixty folders of one image each change nothing of how ten classes are divided."""
    for number in range(10):
        for place in range(4):
            paint(tmp_path / "root" / f"c{number}" / f"{place}.png", 4 * number + place)
    least = {"train": [1, 1], "val": [1, 2], "test": [1, 2]}
    wanted = {name: values(split) for name, split in load(tmp_path / "root", least=least).items()}
    assert [len(split) for split in wanted.values()] == [6, 2, 2]
    for number in range(60):
        paint(tmp_path / "root" / f"small{number}" / "1.png", 100 + number)
    assert {name: values(split) for name, split in load(tmp_path / "root", least=least).items()} == wanted
    assert "60 of 66 in train, which needs 2: small0 (1)" in caplog.text


def test_folders_and_links_that_cannot_be_read_are_named_and_left_out(split_root, caplog, monkeypatch):
    closed = split_root / "train" / "closed"
    paint(closed / "1.png", 99)
    (split_root / "train" / "loop").symlink_to("loop")
    (split_root / "train" / "train a" / "loop.png").symlink_to("loop.png")
    real = os.scandir

    def scandir(path):
        if os.fspath(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert values(load(split_root)["train"]) == {"train a": [0, 1, 2], "train b": [3, 4, 5]}
    (line,) = [record.message for record in caplog.records if "cannot be read" in record.message]
    assert "3 folders or links cannot be read and are left out" in line
    assert "closed (Permission denied)" in line
    assert "loop (Too many levels of symbolic links)" in line
    monkeypatch.setattr(os, "scandir", lambda path: scandir(closed))
    with pytest.raises(UserError, match=r"root cannot be read \(Permission denied\)"):
        load(split_root)


def test_a_named_pipe_among_the_images_is_left_out(split_root, caplog):
    os.mkfifo(split_root / "train" / "train a" / "x.png")
    assert values(load(split_root)["train"]) == {"train a": [0, 1, 2], "train b": [3, 4, 5]}
    assert "train a/x.png (a named pipe or device, not a file)" in caplog.text


def test_a_user_without_a_home(split_root, monkeypatch):
    def no_home(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(UserError, match=r"~/photos: this user has no home folder: write data\.root=DIR out"):
        ImageFolder("~/photos", split_root.parent / "cache")


def test_a_disk_that_is_full_is_one_line(split_root, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(array_store.os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        load(split_root)
    assert not list((split_root.parent / "cache").glob("*.npy"))
    monkeypatch.undo()
    assert load(split_root)


def test_names_with_escape_sequences_are_shown_escaped(split_root, caplog):
    (split_root / "train" / "train a" / "\x1b[31mred\n.png").write_text("no image")
    paint(split_root / "train" / "\x1b[0m" / "1.png", 99)
    load(split_root, least={"train": [2]})
    assert "\\x1b[31mred\\n.png (not an image" in caplog.text
    assert "\\x1b[0m (1)" in caplog.text
    assert "\x1b" not in caplog.text


def test_a_folder_is_one_class_whatever_links_to_it(split_root, caplog):
    wanted = {name: values(split) for name, split in load(split_root).items()}
    for link in ("a", "z"):
        (split_root / "train" / link).symlink_to("train a")
    (split_root / "train" / "train a" / "up").symlink_to(split_root)  # the other splits lie there
    assert {name: values(split) for name, split in load(split_root).items()} == wanted
    (line,) = [record.message for record in caplog.records if "read already" in record.message]
    assert "2 links lead to folders that are read already, and are left out: a -> train a, z -> train a" in line


def test_a_link_to_a_folder_elsewhere_is_a_class(split_root):
    (split_root / "train" / "train a").rename(split_root.parent / "elsewhere")
    (split_root / "train" / "train a").symlink_to(split_root.parent / "elsewhere")
    assert values(load(split_root)["train"]) == {"train a": [0, 1, 2], "train b": [3, 4, 5]}


def test_links_among_many_folders_end(tmp_path):
    """Twelve folders that link to each other have 12! paths without a loop."""
    names = [f"c{number:02}" for number in range(12)]
    for value, name in enumerate(names):
        paint(tmp_path / "root" / name / "1.png", value)
        for other in names:
            (tmp_path / "root" / name / other).symlink_to(f"../{other}")
    assert sorted(name for split in load(tmp_path / "root").values() for name in split.classes) == names


@pytest.mark.parametrize("split", ["train", "test"])
def test_names_that_differ_by_case_are_said(split_root, caplog, split):
    paint(split_root / split / "TRAIN A" / "1.png", 99)
    assert "TRAIN A" in load(split_root)[split].classes
    assert "'TRAIN A' and 'train a' differ only in upper and lower case: each is taken as a class" in caplog.text


def test_a_byte_and_its_escape_are_named(split_root, caplog):
    for value, name in ((98, b"\xe9"), (99, rb"\xe9")):
        paint(Path(os.fsdecode(os.fsencode(split_root / "train") + b"/" + name)) / "1.png", value)
    assert sorted(values(load(split_root)["train"])["\\xe9"]) == [98, 99]
    assert "1 names are written in two" in caplog.text
