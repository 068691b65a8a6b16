"""Folders of images with odd names: Unicode, bytes, cases of letters and escape sequences.

Each case says what is right: the splits, classes and pixels, and the lines that must be printed; or the line of the
refusal.
"""

import os
import unicodedata
from pathlib import Path

from made_folders import Made, case

ODD = (
    " ", " lead", "trail ", "%s%d", "{0}", "[red]x", "=1+1", "a\\b", "*", "?", "~", "$HOME", "${x}", "a,b", "a:b",
    "null", "-rf", "日本語", "👩‍🚀", "א", "a'b", 'a"b', "#1", "&amp;", "x" * 250, "1", "00", "nan", "con", "\u200b",
)  # fmt: skip
NFC, NFD = "café", "cafe\u0301"


def raw(folder: Path, name: bytes) -> Path:
    """Return a path with a name of any bytes."""
    return Path(os.fsdecode(os.fsencode(folder) + b"/" + name))


@case
def two_unicode_forms_in_a_split(made: Made) -> None:
    made.splits()
    made.wanted["train"][NFC] = [made.image(f"train/{name}") for name in (NFC, NFD)]
    made.says = [f"1 names are written in two Unicode forms, each of which is taken as one class: {NFC}"]


@case
def two_unicode_forms_across_splits(made: Made) -> None:
    made.splits()
    made.image(f"train/{NFC}")
    made.image(f"test/{NFD}")
    made.refused = f"class '{NFC}' is in both train and test"


@case
def decomposed_names(made: Made) -> None:
    made.classes("any", ["ñ", "ü", "が", "한"])
    for folder in list(made.root.iterdir()):
        folder.rename(folder.with_name(unicodedata.normalize("NFD", folder.name)))


@case
def names_that_differ_by_case(made: Made) -> None:
    made.splits()
    split = made.random.choice(("train", "test"))
    made.classes(split, ["TRAIN0"], split)
    made.says = ["'TRAIN0' and 'train0' differ only in upper and lower case: each is taken as a class of its own"]


@case
def odd_names(made: Made) -> None:
    made.classes("any", made.random.sample(ODD, 8))
    (made.some() / f"{made.random.choice(ODD)}.png").write_text("no image")
    made.says = ["1 of .* files are unreadable and left out: .*not an image of a known format"]


@case
def escape_sequences(made: Made) -> None:
    made.flat(3)
    made.image("\x1b[31mred\x07\n")
    made.wanted["any"]["\x1b[31mred\x07\n"] = []
    made.loose = {"\x1b[31mred\x07\n"}
    (made.root / "\x1b[31mred\x07\n" / "\x1b]0;title\x07\r.png").write_text("no image")
    made.says = [r"1 of .* files are unreadable and left out: \\x1b\[31mred"]


@case
def escape_sequences_in_a_refusal(made: Made) -> None:
    name = "\x1b[31mred\x07\n"
    made.splits()
    made.image(f"train/{name}")
    made.image(f"test/{name}")
    made.refused = "is in both train and test"


@case
def escape_sequences_in_the_root(made: Made) -> None:
    made.root = made.root / "\x1b[31mred\x07\nerror: two"
    way = made.random.choice(("missing", "empty", "one", "broken", "few"))
    if way != "missing":
        made.root.mkdir(parents=True)
    if way in ("one", "few"):
        made.image("a")
    if way == "few":
        made.image("b")
        made.options = {"least": {"test": [9]}}
    if way == "broken":
        for name in "abc":
            (made.root / name).mkdir()
            (made.root / name / "1.png").write_text("x")
    made.refused = r"red\\x07"


@case
def names_that_are_not_utf8(made: Made) -> None:
    made.flat()
    raw(made.root, b"\xff\xe9").mkdir()
    made.wanted["any"]["\\xff\\xe9"] = [made.image(raw(made.root, b"\xff\xe9"))]
    raw(made.root / "c0", b"bild_\xfc.png").write_text("no image")
    made.says = [r"left out: c0/bild_\\xfc.png \(not an image"]


@case
def bytes_and_their_escapes(made: Made) -> None:
    """One class is named by a byte, the other by the four letters that stand for the byte."""
    made.flat()
    raw(made.root, b"\xe9").mkdir()
    made.wanted["any"]["\\xe9"] = [made.image(raw(made.root, b"\xe9")), made.image("\\xe9")]
    made.says = ["1 names are written in two .*forms"]
