"""Folders of images with links, devices, copies and closed folders.

Each case says what is right: the splits, classes and pixels, and the lines that must be printed; or the line of the
refusal.
"""

import os
import shutil
import socket

from made_folders import Made, case


@case
def linked_splits_and_classes(made: Made) -> None:
    made.splits()
    elsewhere = made.root.parent / "elsewhere"
    elsewhere.mkdir()
    for place, folder in enumerate((made.root / "test", made.root / "train/train0")):
        folder.rename(elsewhere / str(place))
        folder.symlink_to(elsewhere / str(place))


@case
def a_split_that_links_to_another(made: Made) -> None:
    made.splits()
    shutil.rmtree(made.root / "test")
    (made.root / "test").symlink_to("train")
    made.refused = "class 'train0' is in both train and test"


@case
def a_class_that_links_to_another_split(made: Made) -> None:
    made.splits()
    (made.root / "test/new").symlink_to("../train/train0")
    made.wanted["test"]["new"] = made.wanted["train"]["train0"]
    made.says = [f"{len(made.wanted['train']['train0'])} images are the same in two splits"]


@case
def a_class_that_links_to_another(made: Made) -> None:
    """One folder is one class, whatever links to it."""
    made.splits()
    (made.root / "train" / made.random.choice(("a", "z"))).symlink_to("train0")
    made.says = ["1 links lead to folders that are read already, and are left out: . -> train0"]


@case
def links_upwards(made: Made) -> None:
    made.splits()
    (made.some() / "up").symlink_to(made.root)
    (made.some() / "here").symlink_to(".")


@case
def links_to_themselves(made: Made) -> None:
    made.splits()
    (made.root / "train/loop").symlink_to("loop")
    (made.root / "train/train0/loop.png").symlink_to("loop.png")
    made.says = ["2 folders or links cannot be read and are left out: .*Too many levels of symbolic links"]


@case
def every_folder_links_to_all_others(made: Made) -> None:
    """Twelve folders have 12! paths of links without a loop."""
    names = [f"c{place}" for place in range(12)]
    made.classes("any", names)
    for one in names:
        for other in names:
            (made.root / one / f"to {other}").symlink_to(f"../{other}")
    made.says = ["132 links lead to folders that are read already, and are left out"]


@case
def links_to_images(made: Made) -> None:
    made.splits()
    (made.root.parent / "elsewhere").mkdir()
    for file in sorted(made.some().iterdir()):
        shutil.move(file, made.root.parent / "elsewhere")
        file.symlink_to(made.root.parent / "elsewhere" / file.name)


@case
def links_to_nothing_and_to_devices(made: Made) -> None:
    made.splits()
    target = made.random.choice(("nowhere", "/dev/zero", "/dev/urandom", "/dev/tty", "/proc/self/mem"))
    (made.some() / "x.png").symlink_to(target)
    made.says = ["1 of .* files are unreadable and left out: .*x.png"]


@case
def pipes_and_sockets(made: Made) -> None:
    made.splits()
    os.mkfifo(made.some() / "x.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(made.some() / "y.png"))
    made.says = [r"2 of .* files are unreadable and left out: .*a named pipe or device, not a file"]


@case
def a_folder_named_as_an_image(made: Made) -> None:
    made.splits()
    (made.some() / "x.png").mkdir()


@case
def closed_folders(made: Made) -> None:
    made.splits()
    made.image("train/closed")
    (made.root / "train/closed").chmod(0)
    made.as_nobody = True
    made.says = [r"1 folders or links cannot be read and are left out: closed \(Permission denied\)"]


@case
def a_closed_root(made: Made) -> None:
    made.splits()
    made.root.chmod(made.random.choice((0, 0o111, 0o444)))
    made.as_nobody = True
    made.refused = r"cannot be read \(Permission denied\): allow it"


@case
def closed_files(made: Made) -> None:
    made.splits()
    made.image("train/train0", name="closed.png")
    (made.root / "train/train0/closed.png").chmod(0)
    made.as_nobody = True
    made.says = [r"1 of .* files are unreadable and left out: train/train0/closed.png \(Permission denied\)"]


@case
def copies_across_splits(made: Made) -> None:
    made.splits()
    grey = made.wanted["train"]["train0"][0]
    made.wanted["test"]["test0"].append(made.image("test/test0", grey))
    made.says = ["1 images are the same in two splits, so a test has seen them in training"]


@case
def copies_within_a_class(made: Made) -> None:
    made.splits()
    made.wanted["train"]["train0"].append(made.image("train/train0", made.wanted["train"]["train0"][0]))


@case
def hard_links_across_splits(made: Made) -> None:
    made.splits()
    file = sorted((made.root / "train/train0").iterdir())[0]
    os.link(file, made.root / "test/test0" / f"linked{file.suffix}")
    made.loose = {"test0"}
    made.says = ["1 images are the same in two splits"]
