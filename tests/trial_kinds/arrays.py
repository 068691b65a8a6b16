"""Damaged, hostile and doubtful ``.npz`` files of ``data=arrays``."""

import io
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from trial_kinds import EITHER, REFUSED, Trial, damage, kind

Arrays = dict[str, Any]
ROWS = 60
TASK = ("task.ways=2", "task.train_ways=2", "task.shots=1", "task.train_shots=1", "task.queries=1")
RUN = (
    "data=arrays", "data.root=x.npz", "backbone=mlp", "backbone.widths=[4]", "method=protonet", *TASK,
    "task.train_queries=1", "task.meta_batch=1", "trainer.max_steps=2", "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1", "task.test_episodes=2", "task.val_episodes=2", "figures=false", "name=arrays",
)  # fmt: skip


class Owned:
    """Leave a file behind when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch OWNED",)


def whole() -> Arrays:
    """Return arrays that a run can use."""
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, 6)).astype(np.float32)
    y = np.arange(ROWS) // 6
    return {"x": x, "y": y, "split": np.array(["train", "val", "test"])[np.minimum(y // 4, 2)]}


def command() -> int | None:
    from trials import run_py

    run_py(*RUN)
    assert not Path("OWNED").exists(), "a pickle was loaded"
    return 0


def of_bytes(workshop: Path, what: str, content: bytes, must: bool = True) -> Trial:
    (workshop / "try").mkdir(exist_ok=True)
    (workshop / "try" / "x.npz").write_bytes(content)

    def run() -> int | None:
        shutil.rmtree("outputs", ignore_errors=True)
        return command()

    return Trial(f"x.npz: {what}", run, REFUSED if must else EITHER)


def packed(arrays: Arrays, compress: bool = False) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(stream, **arrays)
    return stream.getvalue()


def _row(name: str, value: Any) -> Callable[[Arrays, Random], Arrays]:
    def change(arrays: Arrays, random: Random) -> Arrays:
        changed = arrays[name].astype(np.result_type(arrays[name], type(value)) if not isinstance(value, str) else "U9")
        changed[random.randrange(ROWS)] = value
        return arrays | {name: changed}

    return change


def _all(name: str, make: Callable[[Any], Any]) -> Callable[[Arrays, Random], Arrays]:
    return lambda arrays, random: arrays | {name: make(arrays[name])}


def _without(name: str) -> Callable[[Arrays, Random], Arrays]:
    return lambda arrays, random: {key: value for key, value in arrays.items() if key != name}


def _objects(values: Any) -> Any:
    made = np.empty(len(values), dtype=object)
    made[:] = [Owned()] * len(values)
    return made


IMPOSSIBLE: dict[str, Callable[[Arrays, Random], Arrays]] = {
    "no x": _without("x"),
    "no y": _without("y"),
    "x of objects": _all("x", _objects),
    "y of objects": _all("y", _objects),
    "split of objects": _all("split", _objects),
    "x not a number": _row("x", float("nan")),
    "x infinite": _row("x", float("inf")),
    "x too large": _all("x", lambda x: x.astype(np.float64) * 1e300),
    "x complex": _all("x", lambda x: x + 1j),
    "x of texts": _all("x", lambda x: x.astype(str)),
    "x of dates": _all("x", lambda x: x.astype("M8[s]")),
    "x of columns": _all("x", lambda x: np.zeros(ROWS, "f4,i4")),
    "x of one axis": _all("x", lambda x: x[:, 0]),
    "x of five axes": _all("x", lambda x: x[:, :, None, None, None]),
    "x oblong": _all("x", lambda x: x.reshape(ROWS, 1, 2, 3)),
    "x empty": _all("x", lambda x: x[:0]),
    "x without columns": _all("x", lambda x: x[:, :0]),
    "x of another length": _all("x", lambda x: x[1:]),
    "y of another length": _all("y", lambda y: y[1:]),
    "y one-hot": _all("y", lambda y: np.eye(10)[y]),
    "y fractions": _row("y", 0.5),
    "y not a number": _row("y", float("nan")),
    "y one class": _all("y", lambda y: y * 0),
    "y all different": _all("y", lambda y: np.arange(ROWS)),
    "y empty texts": _all("y", lambda y: np.full(ROWS, "")),
    "y no text": _all("y", lambda y: np.full(ROWS, "\ud800")),
    "split unknown": _row("split", "fold1"),
    "split shared": _all("split", lambda split: np.roll(split, 1)),
    "split one": _all("split", lambda split: np.full(ROWS, "train")),
    "split numbers": _all("split", lambda split: np.arange(ROWS) % 3),
}
POSSIBLE: dict[str, Callable[[Arrays, Random], Arrays]] = {
    "as it is": lambda arrays, random: arrays,
    "y float": _all("y", lambda y: y.astype(float)),
    "y bytes": _all("y", lambda y: y.astype(bytes)),
    "y strange texts": _all("y", lambda y: np.array([f"\x1b[31m{n}\n=1+1/../{n}" for n in range(10)])[y]),
    "y huge": _all("y", lambda y: y * 10**17),
    "x half": _all("x", lambda x: x.astype(np.float16)),
    "x constant": _all("x", lambda x: x * 0),
    "x large": _all("x", lambda x: x * np.float32(1e30)),
    "x in Fortran's order": _all("x", np.asfortranarray),
    "x big-endian": _all("x", lambda x: x.astype(">f8")),
    "more arrays": lambda arrays, random: arrays | {"z": np.zeros(3), "../x": np.zeros(2)},
}


@kind
def impossible(random: Random, workshop: Path) -> Trial:
    """Save arrays that no run can use."""
    what = random.choice(list(IMPOSSIBLE))
    return of_bytes(workshop, what, packed(IMPOSSIBLE[what](whole(), random), random.random() < 0.5))


@kind
def possible(random: Random, workshop: Path) -> Trial:
    """Save unusual arrays."""
    what = random.choice(list(POSSIBLE))
    return of_bytes(workshop, what, packed(POSSIBLE[what](whole(), random), random.random() < 0.5), must=False)


@kind
def damaged(random: Random, workshop: Path) -> Trial:
    """Cut, overwrite or fill up the file."""
    way, content = damage(random, packed(whole(), random.random() < 0.5))
    return of_bytes(workshop, f"bytes {way}", content, must=way == "cut")


@kind
def lying(random: Random, workshop: Path) -> Trial:
    """Claim in a header what the file does not hold."""
    claims: dict[str, Any] = {
        "shape": random.choice([(10**12, 10**6), (-1, -6), (ROWS, 10**9), (2**63, 2**63), (ROWS,) * 40, (ROWS, 2.0)]),
        "descr": random.choice(["|O", "<f16", "<f4" * 5000, "|V400", "nonsense", [("a", "<f4")]]),
    }
    key = random.choice(list(claims))
    claimed = {"descr": "<f4", "fortran_order": False, "shape": (ROWS, 6)} | {key: claims[key]}
    text = f"{claimed}\n".encode()
    header = b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text
    stream = io.BytesIO()
    rest = {name: value for name, value in whole().items() if name != "x"}
    with zipfile.ZipFile(stream, "w", random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        archive.writestr("x.npy", header + bytes(ROWS * 6 * 4))
        for name, value in rest.items():
            saved = io.BytesIO()
            np.save(saved, value)
            archive.writestr(f"{name}.npy", saved.getvalue())
    return of_bytes(workshop, f"{key}={str(claims[key])[:60]}", stream.getvalue())


@kind
def other_format(random: Random, workshop: Path) -> Trial:
    """Put a file of another kind in its place."""
    array = io.BytesIO()
    np.save(array, whole()["x"])
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as entry:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**26, 6)})
        entry.write(header.getvalue())
        for _ in range(random.choice((1, 96))):
            entry.write(bytes(2**24))
    contents = {
        "an .npy file": array.getvalue(),
        "text": b"a,b,class\n1,2,x\n",
        "nothing": b"",
        "a bomb": bomb.getvalue(),
        "many entries": _many(),
    }
    what = random.choice(list(contents))
    return of_bytes(workshop, what, contents[what])


def _many() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number in range(50_000):
            archive.writestr(f"{number}", b"")
    return stream.getvalue()
