"""Folders of images in every layout: splits, classes, nested, empty and helper folders.

Each case says what is right: the splits, classes and pixels, and the lines that must be printed; or the line of the
refusal.
"""

import os
import shutil

from made_folders import Made, case

USUAL = {
    "train": ("Train", "TRAIN", "training", "Training", "meta-train", "train_set", "trainset"),
    "val": ("Valid", "validation", "dev", "Val", "meta_val", "valset"),
    "test": ("Test", "TESTING", "testing", "metatest", "test-set"),
}
HELPERS = (
    "@eaDir", "__MACOSX", ".git", "lost+found", "#recycle", "$RECYCLE.BIN", "System Volume Information", "__pycache__",
    ".ipynb_checkpoints", "@Recycle",
)  # fmt: skip


@case
def usual_split_names(made: Made) -> None:
    made.splits(**{split: made.random.choice(names) for split, names in USUAL.items()})


@case
def no_val(made: Made) -> None:
    made.splits()
    shutil.rmtree(made.root / "val")
    del made.wanted["val"]


@case
def one_split_only(made: Made) -> None:
    made.splits()
    kept = made.random.choice(("train", "val", "test"))
    for other in {"train", "val", "test"} - {kept}:
        shutil.rmtree(made.root / other)
    made.refused = f"has {kept}, but no .*: add it, or point data.root"


@case
def two_names_of_a_split(made: Made) -> None:
    made.splits()
    split = made.random.choice(("train", "val", "test"))
    other = made.random.choice(USUAL[split])
    made.image(f"{other}/more")
    made.refused = f"all names of {split}: keep one"


@case
def a_class_in_two_splits(made: Made) -> None:
    made.splits()
    one, other = made.random.sample(("train", "val", "test"), 2)
    made.image(f"{other}/{one}0")
    made.refused = f"class '{one}0' is in both .*: splits must be disjoint"


@case
def the_same_classes_everywhere(made: Made) -> None:
    for split in ("train", "valid", "test"):
        for number in range(4):
            made.image(f"{split}/c{number}")
    made.refused = "class 'c0' is in both train and valid"


@case
def splits_one_level_down(made: Made) -> None:
    for split in ("train", "valid", "test"):
        for number in range(2):
            made.image(f"archive/{split}/{split}{number}")
    made.refused = "look like classes of two splits"


@case
def splits_within_classes(made: Made) -> None:
    for name in ("cat", "dog", "cow"):
        for split in ("train", "test"):
            made.image(f"{name}/{split}")
    made.refused = "look like classes of two splits"


@case
def nested_classes(made: Made) -> None:
    for split in ("train", "test"):
        made.classes(
            split, [f"{split} {group}/{split} {group}{number}" for group in "ab" for number in range(2)], split
        )


@case
def twin_nested_classes(made: Made) -> None:
    made.classes("any", [f"{top}/c{number}" for top in ("images", "masks") for number in range(4)])
    made.says = ["8 of 8 classes are nested folders, such as 'images/c.' and 'masks/c.'"]


@case
def deep_folders(made: Made) -> None:
    made.flat()
    made.classes("any", ["/".join(["d"] * made.random.randint(2, 200))])


@case
def deeper_than_a_path(made: Made) -> None:
    made.flat(4)
    here = os.open(made.root, os.O_RDONLY)
    for _ in range(40):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    made.says = ["1 folders or links cannot be read and are left out: .*File name too long"]


@case
def flat(made: Made) -> None:
    made.flat()


@case
def flat_with_a_class_named_as_a_split(made: Made) -> None:
    made.classes("any", ["bus", made.random.choice(("train", "test", "dev")), "car", "ship"])


@case
def one_class(made: Made) -> None:
    made.classes("any", ["only"])
    made.refused = "has 1 classes.*, too few for train, val, test"


@case
def two_classes(made: Made) -> None:
    made.flat(2)
    made.refused = "has 2 classes.*, too few for train, val, test: add some, or set data.shares.val=0"


@case
def two_classes_without_val(made: Made) -> None:
    made.flat(2)
    made.options = {"shares": {"train": 1, "val": 0, "test": 1}}


@case
def no_class(made: Made) -> None:
    made.image("")
    made.refused = "holds no class: put the images of each class into a folder"


@case
def nothing(made: Made) -> None:
    made.root.mkdir()
    (made.root / "empty").mkdir()
    made.refused = "holds no class"


@case
def no_folder(made: Made) -> None:
    way = made.random.choice(("missing", "file", "pipe", "loop", "dangling"))
    if way == "file":
        made.root.touch()
    elif way == "pipe":
        os.mkfifo(made.root)
    elif way != "missing":
        made.root.symlink_to(made.root.name if way == "loop" else "nowhere")
    made.refused = "is no folder: data.root=DIR names|cannot be read"


@case
def an_empty_split(made: Made) -> None:
    made.splits()
    split = made.random.choice(("train", "val", "test"))
    shutil.rmtree(made.root / split)
    (made.root / split / "empty").mkdir(parents=True)
    made.refused = f"{split} holds no class"


@case
def empty_classes(made: Made) -> None:
    made.splits()
    for split in ("train", "test"):
        (made.root / split / "empty").mkdir()
        (made.root / split / "texts").mkdir()
        (made.root / split / "texts/a.txt").write_text("text")


@case
def a_file_named_as_a_split(made: Made) -> None:
    made.flat()
    (made.root / "train").write_text("a list of files")


@case
def folders_beside_splits(made: Made) -> None:
    made.splits()
    made.image("annotations/a")
    made.says = ["only test, train, val are read, not annotations"]


@case
def small_classes(made: Made) -> None:
    made.splits()
    for _ in range(3):
        made.image("train/train0")
    made.wanted = {"train": {}, "val": made.wanted["val"], "test": made.wanted["test"]}
    made.wanted["train"]["train0"] = []
    made.options = {"least": {"train": [2, 2]}}
    made.loose = {"train0"}
    made.says = ["classes with too few images for the task are left out: .* in train, which needs 4"]


@case
def too_small_classes(made: Made) -> None:
    made.splits()
    made.options = {"least": {"test": [5, 15]}}
    made.refused = "no class of test has the 20 images that a task takes"


@case
def helper_folders(made: Made) -> None:
    made.splits()
    for helper in HELPERS:
        made.image(helper)
        made.image(made.some() / helper / "0.png", name="SYNOPHOTO_THUMB_M.png")


@case
def hidden_files(made: Made) -> None:
    made.splits()
    folder = made.some()
    (folder / "._0.png").write_bytes(b"\0\5\x16\7")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (folder / "desktop.ini").write_text("[x]")


@case
def many_classes(made: Made) -> None:
    for number in range(200):
        grey = made.random.randint(0, 255)
        made.image(f"c{number}", grey, "a.png")
        made.wanted.setdefault("any", {})[f"c{number}"] = [grey]
    made.loose = {"c0"}  # equal images of two splits are named
