"""Arrays of any field: what is read, how it is split, and the one line that refuses the rest."""

import io
import os
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris

from fewshot.data import Arrays
from fewshot.data.arrays import array_shape
from fewshot.errors import UserError

ROWS = 30
CLASSES = np.repeat(list("abcdefghij"), 3)
rng = np.random.default_rng(0)
X = rng.normal(size=(ROWS, 4)).astype(np.float32)
SPLIT = np.repeat(["train", "Valid", "testing"], [15, 6, 9])


@pytest.fixture
def save(tmp_path):
    """Return a function that writes an ``.npz`` and returns its path."""

    def write(compress: bool = False, **arrays) -> Path:
        file = tmp_path / "data.npz"
        (np.savez_compressed if compress else np.savez)(file, **arrays)
        return file

    return write


def rows_by_class(splits) -> dict[str, list[tuple[float, ...]]]:
    """Return the rows of each class, in order, of all splits."""
    found = {}
    for split in splits.values():
        for name, start, count in zip(split.classes, split.starts.tolist(), split.counts.tolist(), strict=True):
            found[name] = [tuple(row) for row in split.images[start : start + count].flatten(1).tolist()]
    return found


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["float16", "float32", "float64", ">f8", "int8", "int64", "uint8", "uint16", "bool"])
def test_every_row_comes_to_its_class_in_its_order(save, compress, order, kind):
    x = (10 * X).astype(kind)
    shuffled = rng.permutation(ROWS)
    y = CLASSES[shuffled]
    splits = Arrays(save(compress, x=np.asarray(x, order=order), y=y)).load()
    expected = {name: [tuple(row) for row in x[y == name].astype(np.float32).tolist()] for name in set(y)}
    assert rows_by_class(splits) == expected
    assert {split.images.dtype for split in splits.values()} == {torch.float32}
    assert splits["train"].images.shape[1:] == (4, 1, 1)
    assert [split.name for split in splits.values()] == ["arrays/train", "arrays/val", "arrays/test"]


@pytest.mark.parametrize("order", ["C", "F"])
def test_large_arrays_come_in_blocks(save, monkeypatch, order):
    monkeypatch.setattr("fewshot.data.npz_file._BLOCK", 256)
    x = rng.normal(size=(ROWS, 3, 2, 2)).astype(np.float32)
    found = rows_by_class(Arrays(save(x=np.asarray(x, order=order), y=CLASSES)).load())
    for name in set(CLASSES):
        assert found[name] == [tuple(row) for row in x[name == CLASSES].reshape(3, -1).tolist()]


def test_bytes_of_images_are_pixels_and_other_numbers_values(save):
    pixels = rng.integers(0, 256, (ROWS, 3, 5, 5)).astype(np.uint8)
    file = save(x=pixels, y=CLASSES)
    assert vars(array_shape(file)) == {"channels": 3, "image_size": 5, "pixels": True}
    assert Arrays(file).load()["train"].images.dtype == torch.uint8
    file = save(x=pixels.astype(np.int16), y=CLASSES)
    assert vars(array_shape(file)) == {"channels": 3, "image_size": 5, "pixels": False}
    assert Arrays(file).load()["train"].images.dtype == torch.float32
    file = save(x=pixels.reshape(ROWS, -1), y=CLASSES)
    assert vars(array_shape(file)) == {"channels": 75, "image_size": 1, "pixels": False}
    assert Arrays(file).load()["train"].images.max() > 1


@pytest.mark.parametrize(
    ("y", "names"),
    [(np.arange(ROWS) // 3, "0 1 2 3 4 5 6 7 8 9"), ((np.arange(ROWS) // 3).astype(float), "0 1 2 3 4 5 6 7 8 9"),
     (CLASSES.astype(bytes), "a b c d e f g h i j"), (np.arange(ROWS) // 3 - 5, "-1 -2 -3 -4 -5 0 1 2 3 4"),
     (np.char.add(CLASSES, "é").astype("U2"), "aé bé cé dé eé fé gé hé ié jé")],
)  # fmt: skip
def test_labels_of_any_type_are_texts(save, y, names):
    splits = Arrays(save(x=X, y=y)).load()
    assert " ".join(sorted(rows_by_class(splits))) == names


def test_labels_of_two_unicode_forms_are_one_class(save, caplog):
    y = CLASSES.astype("U2")
    y[:3] = ["\u00e9", "e\u0301", "\u00e9"]
    splits = Arrays(save(x=X, y=y)).load()
    assert len(rows_by_class(splits)["\u00e9"]) == 3
    assert "two Unicode forms" in caplog.text


def test_bools_are_two_classes(save):
    shares = {"train": 1, "test": 1}
    splits = Arrays(save(x=X, y=np.arange(ROWS) > 9), shares).load()
    assert {name: len(rows) for name, rows in rows_by_class(splits).items()} == {"True": 20, "False": 10}


def test_a_given_split_is_kept(save):
    splits = Arrays(save(x=X, y=CLASSES, split=SPLIT)).load()
    assert {name: "".join(split.classes) for name, split in splits.items()} == {
        "train": "abcde",
        "val": "fg",
        "test": "hij",
    }
    splits = Arrays(save(x=X, y=CLASSES, split=np.where(SPLIT == "Valid", "train", SPLIT))).load()
    assert list(splits) == ["train", "test"]


def test_classes_are_divided_as_those_of_folders(save):
    """The same classes as a folder of images, whatever the type of the labels: the seed alone decides."""
    from fewshot.data.class_shares import SHARES, divide_classes

    digits = np.arange(ROWS) // 3
    divided = divide_classes({str(digit): 3 for digit in range(10)}, SHARES, 7, 1, Path())
    for y in (digits, digits.astype(str), digits.astype(float)):
        splits = Arrays(save(x=X, y=y), split_seed=7).load()
        assert {name: list(split.classes) for name, split in splits.items()} == divided
    assert [len(names) for names in divided.values()] == [6, 2, 2]


def test_small_classes_are_left_out_and_named(save, caplog):
    y = np.where(np.arange(ROWS) == 0, "lonely", CLASSES)
    least = dict.fromkeys(("train", "val", "test"), (1, 1))
    splits = Arrays(save(x=X, y=y), least=least).load()
    assert "lonely" not in rows_by_class(splits)
    assert "classes with too few rows for the task are left out: 1 of" in caplog.text
    assert "lonely (1)" in caplog.text
    with pytest.raises(UserError, match="no class of train has the 9 rows that a task takes, the largest has 3"):
        Arrays(save(x=X, y=CLASSES), least=dict.fromkeys(least, (4, 5))).load()


def test_three_species_are_too_few_for_three_splits(save):
    iris = load_iris()
    splits = Arrays(save(x=iris.data, y=iris.target_names[iris.target])).load()
    assert {name: len(split.classes) for name, split in splits.items()} == {"train": 1, "val": 1, "test": 1}
    with pytest.raises(UserError, match="has 2 classes, too few for train, val, test: add some, or set"):
        Arrays(save(x=iris.data, y=iris.target > 0)).load()


class Evil:
    def __reduce__(self):
        return os.system, ("touch owned",)


OBJECTS = np.array([Evil()] * ROWS, dtype=object)
NAN = np.where(np.arange(ROWS)[:, None] == 7, np.nan, X)
HUGE = np.where(np.arange(ROWS)[:, None] == 7, 1e300, X.astype(float))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [({"x": X}, "holds x, but no y: numpy.savez"),
     ({"data": X, "target": CLASSES}, "holds data, target, but no x"),
     ({}, "holds no array, but no x"),
     ({"x": OBJECTS, "y": CLASSES}, r"x holds Python objects, .*: save numbers, x.astype\('float32'\)"),
     ({"x": X, "y": OBJECTS}, r"y holds Python objects, .*: save texts, y.astype\(str\)"),
     ({"x": NAN, "y": CLASSES}, "row 7 of x holds nan, which is not finite"),
     ({"x": np.asfortranarray(NAN), "y": CLASSES}, "row 7 of x holds nan"),
     ({"x": np.where(np.isnan(NAN), -np.inf, X), "y": CLASSES}, "row 7 of x holds -inf"),
     ({"x": HUGE, "y": CLASSES}, r"row 7 of x holds 1e\+300, which is too large for float32"),
     ({"x": X + 1j, "y": CLASSES}, "x is of type complex"),
     ({"x": X.astype(np.longdouble), "y": CLASSES}, "x is of type float128"),
     ({"x": X.astype(str), "y": CLASSES}, r"x is of type <U\d+: save floats"),
     ({"x": X.astype("M8[s]"), "y": CLASSES}, "x is of type datetime"),
     ({"x": np.zeros(ROWS, "f4,i4"), "y": CLASSES}, "x is a table of named columns"),
     ({"x": X[:, 0], "y": CLASSES}, r"x is \(30,\): it must be \(M, D\) or"),
     ({"x": X[:, :, None], "y": CLASSES}, r"x is \(30, 4, 1\): .*; grey images are x\[:, None\]"),
     ({"x": np.float32(3), "y": CLASSES}, r"x is \(\): it must be"),
     ({"x": X[:0], "y": CLASSES[:0]}, r"x is \(0, 4\), which holds no number"),
     ({"x": X[:, :0], "y": CLASSES}, "holds no number"),
     ({"x": np.zeros((ROWS, 3, 4, 5)), "y": CLASSES}, r"images must be square, \(M, C, S, S\)$"),
     ({"x": np.zeros((ROWS, 8, 8, 3)), "y": CLASSES}, r"channels come first, x.transpose\(0, 3, 1, 2\)"),
     ({"x": np.zeros((2, 70000), bool), "y": [0, 1]}, "at most 65,536 features"),
     ({"x": X, "y": CLASSES[1:]}, r"y is \(29,\), but x has 30 rows"),
     ({"x": X, "y": np.eye(ROWS)}, r"y is \(30, 30\), .* y.argmax\(1\) of a one-hot array"),
     ({"x": X, "y": X[:, 0]}, r"y holds .*: labels are whole numbers or texts"),
     ({"x": X, "y": np.full(ROWS, np.nan)}, "y holds nan: labels are"),
     ({"x": X, "y": np.full(ROWS, 1e300)}, "labels are"),
     ({"x": X, "y": np.full(ROWS, 1j)}, "y is of type complex128: save whole numbers or texts"),
     ({"x": X, "y": np.where(np.arange(ROWS) == 3, "", CLASSES)}, "y holds an empty text"),
     ({"x": X, "y": np.full(ROWS, b"\xff")}, r"which is not UTF-8"),
     ({"x": X, "y": np.full(ROWS, "\ud800")}, "which is no valid text"),
     ({"x": X, "y": CLASSES, "split": SPLIT[1:]}, r"split is \(29,\)"),
     ({"x": X, "y": CLASSES, "split": np.full(ROWS, "fold\n1")}, r"split holds 'fold\\n1': write train, val or test"),
     ({"x": X, "y": CLASSES, "split": np.arange(ROWS) % 2}, "split holds '0'"),
     ({"x": X, "y": CLASSES, "split": np.full(ROWS, "train")}, "split names no row of test"),
     ({"x": X, "y": CLASSES, "split": np.roll(SPLIT, 1)}, "class '.' is in both .*: splits must be disjoint"),
     ({"x": X, "y": np.full(ROWS, "a")}, "has 1 classes, too few for train, val, test")],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_in_one_line(save, tmp_path, monkeypatch, arrays, message):
    monkeypatch.chdir(tmp_path)
    file = save(**arrays)
    with pytest.raises(UserError, match=message) as refused:
        Arrays(file).load()
    assert "\n" not in str(refused.value)
    assert str(file) in str(refused.value)
    assert not Path("owned").exists()


def test_other_files_are_refused(tmp_path):
    def refused(name: str, content: bytes | None = None) -> str:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as found:
            array_shape(tmp_path / name)
        return str(found.value)

    array = io.BytesIO()
    np.save(array, X)
    assert "one array without labels (.npy)" in refused("x.npy", array.getvalue())
    assert "no .npz file, and other tables are not read" in refused("x.csv", b"a,b\n1,2\n")
    assert "no .npz file" in refused("x.pkl", pickle.dumps(X))
    assert "no .npz file" in refused("empty.npz", b"")
    assert "No such file" in refused("nowhere.npz")
    assert "is a folder" in refused(".")
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused("pipe")
    with pytest.raises(UserError, match=r"data.root=null: name the .npz file"):
        array_shape(None)


def archive(file: Path, header: dict, content: bytes, kind: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write an ``.npz`` whose ``x`` has any header and content."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_2_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (3, 2)} | header)
    labels = io.BytesIO()
    np.save(labels, np.arange(3))
    with zipfile.ZipFile(file, "w", kind) as made:
        made.writestr("x.npy", stream.getvalue() + content)
        made.writestr("y.npy", labels.getvalue())
    return file


@pytest.mark.parametrize(
    ("header", "content", "message"),
    [({"shape": (10**9, 10**6)}, b"", "x is damaged"),
     ({"shape": (10**30, 4)}, b"", "x is damaged"),
     ({"shape": (-3, -2)}, bytes(24), "impossible shape"),
     ({}, bytes(23), "x is damaged"), ({}, bytes(25), "x is damaged"),
     ({"shape": (3, 2), "descr": "|O"}, pickle.dumps(Evil()), "Python objects"),
     ({"descr": "<f4" + " " * 20_000}, bytes(24), "no .npz file")],
)  # fmt: skip
def test_a_header_that_lies_takes_no_memory(tmp_path, header, content, message):
    with pytest.raises(UserError, match=message):
        Arrays(archive(tmp_path / "x.npz", header, content)).load()


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    """100 MB of zeros in 100 kB would be an array of 400 MB; the limit here is lower."""
    file = archive(tmp_path / "x.npz", {"shape": (25_000_000, 1)}, bytes(100_000_000))
    assert file.stat().st_size < 200_000
    with pytest.raises(UserError, match=r"y is \(3,\), but x has 25000000 rows"):
        Arrays(file).load()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fewshot.data.arrays.LARGEST", 50_000_000)
        with pytest.raises(UserError, match=r"takes 0.1 GB of memory, more than 0 GB: save fewer rows"):
            Arrays(file).load()


def test_damage_is_found(save):
    file = save(x=X, y=CLASSES)
    content = bytearray(file.read_bytes())
    place = content.find(X.tobytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged, or no .npz file .*CRC"):
        Arrays(file).load()


@pytest.mark.thorough
def test_random_damage_raises_nothing_else(save):
    random = np.random.default_rng(1)
    file = save(True, x=X, y=CLASSES, split=SPLIT)
    whole = file.read_bytes()
    for _ in range(3000):
        content = bytearray(whole)
        for place in random.integers(0, len(whole), random.integers(1, 8)):
            content[place] = random.integers(0, 256)
        file.write_bytes(content[: random.integers(1, len(whole))] if random.random() < 0.2 else content)
        with suppress(UserError):
            Arrays(file).load()
