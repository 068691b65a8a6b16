"""Run folders from a stranger: a damaged or hostile run is named and costs the others nothing."""

import csv
import io
import json
import os
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from test_report import HIGH, make_failure, make_run, printed, table_of

from fewshot.errors import UserError
from fewshot.figures.confusion_matrix import draw_counts, write_counts
from fewshot.figures.decision_boundary import draw_decision_boundaries
from fewshot.figures.image_grid import image_rows, task_sheet
from fewshot.files import csv_safe, printable, read_bytes, write_csv
from fewshot.report import collect, markdown, terminal
from fewshot.report.build import report
from fewshot.report.charts import accuracies

SECRET = "SECRET of another folder"
ESCAPES = "\x1b[31mred\x07\x1b]0;title\x07\r\n\u202e"
NAMES = [
    ESCAPES,
    r"$\bad$",
    "half a pair \ud800",
    "a byte that is not UTF-8 \udcfc",
    "x" * 5000,
    '=HYPERLINK("http://evil")',
    "@SUM(1)",
    "![a](http://evil/x.png)",
    "<script>alert(1)</script>",
    "\n\n| a | b |",
    "",
]


def page_of(tmp_path: Path) -> str:
    report([tmp_path / "runs"], tmp_path / "out")
    return (tmp_path / "out/report.html").read_text(encoding="utf-8")


def secret(tmp_path: Path, name: str) -> Path:
    file = tmp_path / "elsewhere" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(SECRET)
    return file


# One bad run among good ones


def damage_json(folder: Path, **fields: object) -> None:
    file = folder / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


DAMAGES = {
    "pipe": lambda folder: ((folder / "result.json").unlink(), os.mkfifo(folder / "result.json")),
    "pipe of episodes": lambda folder: ((folder / "episodes.csv").unlink(), os.mkfifo(folder / "episodes.csv")),
    "pipe of calibration": lambda folder: os.mkfifo(folder / "calibration.csv"),
    "device": lambda folder: (
        (folder / "episodes.csv").unlink(),
        (folder / "episodes.csv").symlink_to("/dev/zero"),
    ),
    "folder": lambda folder: ((folder / "episodes.csv").unlink(), (folder / "episodes.csv").mkdir()),
    "loop": lambda folder: (
        (folder / "episodes.csv").unlink(),
        (folder / "episodes.csv").symlink_to("episodes.csv"),
    ),
    "deep": lambda folder: (folder / "result.json").write_text("[" * 100_000),
    "long number": lambda folder: (folder / "result.json").write_text('{"seed": ' + "1" * 10_000 + "}"),
    "no ways": lambda folder: damage_json(folder, task={"ways": 0, "shots": 1}),
    "infinite ways": lambda folder: damage_json(folder, task={"ways": float("inf"), "shots": 1}),
    "field": lambda folder: (folder / "episodes.csv").write_text(
        "episode,accuracy,fingerprint\n0,1," + "a" * 200_000 + "\n"
    ),
    "fingerprint": lambda folder: (folder / "episodes.csv").write_text(
        "episode,accuracy,fingerprint\n0,1," + "a" * 2000 + "\n"
    ),
    "sparse": lambda folder: os.truncate(folder / "episodes.csv", 2**33),
    "bins": lambda folder: (folder / "calibration.csv").write_text(
        "count,confidence,accuracy\n" + "1" * 100 + ",0.5,0.5\n" * 15
    ),
    "newer": lambda folder: damage_json(folder, format=99),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_named_and_the_others_are_compared(tmp_path, damage):
    make_run(tmp_path / "runs/0")
    bad = make_run(tmp_path / "runs/1", HIGH, method="protonet")
    make_run(tmp_path / "runs/2", HIGH, method="nearest")
    DAMAGES[damage](bad)
    runs, failures = collect([tmp_path / "runs"])
    assert [run.method for run in runs] == ["maml", "nearest"]
    assert [(failure.path, failure.outcome) for failure in failures] == [(bad, "unreadable")]
    assert str(bad) in failures[0].error
    assert failures[0].error.isprintable()
    table = report([tmp_path / "runs"], tmp_path / "out")
    assert [row.outcome for row in table.rows] == ["finished", "finished", "unreadable"]
    assert "unreadable" in printed(table)
    assert "1 unreadable" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_runs_that_are_all_damaged_are_one_line(tmp_path):
    for name in ("a", "b"):
        (make_run(tmp_path / name) / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"a/result\.json: not JSON.* \(and 1 further runs\)"):
        collect([tmp_path])


def test_links_out_of_a_run_are_not_followed(tmp_path):
    """Of neither file, nor of a folder of pictures; a link within a run is."""
    other = make_run(tmp_path / "elsewhere/run", HIGH)
    Image.new("RGB", (30, 15), "red").save(other / "private.png")
    text = secret(tmp_path, "private.txt")
    good = make_run(tmp_path / "runs/good")
    (good / "figures").mkdir()
    Image.new("RGB", (30, 15), "red").save(good / "inside.png")
    (good / "figures/embedding.png").symlink_to("../inside.png")
    (good / "figures/generated.png").symlink_to(other / "private.png")
    folder = make_run(tmp_path / "runs/folder", method="protonet")
    (folder / "figures").symlink_to(other)
    (make_run(tmp_path / "runs/result", method="a") / "result.json").unlink()
    (tmp_path / "runs/result/result.json").symlink_to(other / "result.json")
    (make_failure(tmp_path / "runs/error", "x") / "error.txt").unlink()
    (tmp_path / "runs/error/error.txt").symlink_to(text)
    (make_failure(tmp_path / "runs/overrides", "an error", "- a=1") / ".hydra/overrides.yaml").unlink()
    (tmp_path / "runs/overrides/.hydra/overrides.yaml").symlink_to(text)
    (tmp_path / "runs/whole").symlink_to(other)
    page = page_of(tmp_path)
    assert SECRET not in page
    assert "private.png" not in page
    own = page[page.index('id="images"') : page.index('id="notes"')]
    assert own.count("data:image/png") == 1  # embedding.png
    assert own.count("which is not followed") == 2
    assert {row.label.split()[0]: row.outcome for row in table_of(tmp_path / "runs").rows} == {
        "protonet": "finished",
        "maml": "finished",
        "result": "unreadable",
        "error": "unreadable",
        "overrides": "unreadable",
    }


def test_no_name_reaches_a_terminal_raw_nor_a_spreadsheet_as_a_formula(tmp_path):
    for number, name in enumerate(NAMES):
        make_run(
            tmp_path / f"runs/{number}",
            *(HIGH if number else (0.2, 0.4, 0.6),),
            name=name,
            method=name or "maml",
            device=name,
            git_commit=name,
            overrides=[f"method.x={name}", f"{name}=1"],
        )
    (tmp_path / os.fsdecode(b"runs/\xfc\x1b[31m")).parent.mkdir(exist_ok=True)
    make_failure(Path(os.fsdecode(os.fsencode(tmp_path) + b"/runs/\xfc\x1b[31m")), f"{ESCAPES} went wrong")
    table = report([tmp_path / "runs"], tmp_path / "out")
    assert not any(row.outcome == "unreadable" for row in table.rows)
    console = Console(width=100, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(terminal(table))
    shown = capture.get()
    for text in (shown, markdown(table), (tmp_path / "out/report.html").read_text(encoding="utf-8")):
        assert all(char.isprintable() or char == "\n" for char in text)
    assert max(len(row.label) for row in table.rows) < 500
    assert "](http" not in markdown(table)
    for cells in csv.reader(io.StringIO((tmp_path / "out/report.csv").read_text(encoding="utf-8"))):
        assert not [cell for cell in cells if cell.startswith(("=", "@", "+"))]
    with Image.open(tmp_path / "out/accuracies.png") as image:
        assert max(image.size) < 5000


def test_names_that_differ_late_stay_two_settings(tmp_path):
    for number in (0, 1):
        make_run(tmp_path / str(number), overrides=[f"data.root={'a' * 500}{number}{'b' * 500}"])
    rows = table_of(tmp_path).rows
    assert len(rows) == 2
    assert len({row.label for row in rows}) == 2


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("@x", "'@x"),
        ("+x", "'+x"),
        ("-x", "'-x"),
        ("\t=1", "'\t=1"),
        ("-1.5", "-1.5"),
        ("a=1", "a=1"),
        (-1.5, -1.5),
        (None, None),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("half \ud800", r"half \ud800"),
    ],
)
def test_cells_are_no_formulas(tmp_path, value, cell):
    assert csv_safe(value) == cell
    write_csv(tmp_path / "a.csv", ("a",), [(value,)])
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").startswith("a\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("café 日本 🙂", "café 日本 🙂"),
        ("\x1b[31m", r"\x1b[31m"),
        ("a\nb\r\t", r"a\nb\r\t"),
        (os.fsdecode(b"bild_\xfc.png"), r"bild_\xfc.png"),
        ("\u202e", r"\u202e"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("\ud800", r"\ud800"),
    ],
)
def test_names_are_shown_as_one_harmless_line(text, shown):
    assert printable(text) == shown


def test_long_names_are_shown_by_their_ends():
    assert printable("a" * 50 + "z" * 50, 20) == "a" * 12 + "..." + "z" * 5
    assert printable("short", 20) == "short"


def test_a_file_of_a_stranger_is_read_whole_or_refused(tmp_path):
    inside = tmp_path / "run"
    inside.mkdir()
    (inside / "a").write_bytes(b"12345")
    assert read_bytes(inside / "a", inside, most=5) == b"12345"
    with pytest.raises(UserError, match=r"a: larger than the"):
        read_bytes(inside / "a", inside, most=4)
    with pytest.raises(UserError, match=r"b: cannot be read \(No such file"):
        read_bytes(inside / "b", inside)
    with pytest.raises(UserError, match=r"run: not a regular file"):
        read_bytes(inside, inside)
    (inside / "up").symlink_to("../other")
    (tmp_path / "other").write_bytes(b"x")
    with pytest.raises(UserError, match=r"up: a link to a file outside of .*run, which is not followed"):
        read_bytes(inside / "up", inside)


# Pictures


def bomb(file: Path, width: int, height: int) -> None:
    """A PNG file of some kilobytes that unpacks to ``width * height`` pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (10_000, 9000), (2**31 - 1, 2**31 - 1)])
def test_an_image_that_a_browser_could_not_hold_is_left_out(tmp_path, width, height):
    bomb(make_run(tmp_path / "runs/0") / "figures/embedding.png", width, height)
    page = page_of(tmp_path)
    assert "embedding.png: more than 50 megapixels" in page


def test_metrics_that_cannot_be_read_leave_out_one_curve(tmp_path, caplog):
    for number, content in enumerate(("step,val/accuracy\n9,0.5\n", "step,val/accuracy\n9," + "1" * 200_000)):
        (make_run(tmp_path / f"runs/{number}", method=f"m{number}") / "metrics.csv").write_text(content)
    os.mkfifo(make_run(tmp_path / "runs/2", method="m2") / "metrics.csv")
    (make_run(tmp_path / "runs/3", method="m3") / "metrics.csv").write_text("step,val/accuracy\n1e300,1e308\n")
    page_of(tmp_path)
    assert (tmp_path / "out/figures/validation.png").is_file()
    assert "no learning curve of m1: " in caplog.text
    assert "metrics.csv: not a regular file" in caplog.text


def boundary(file: Path, **changes: np.ndarray) -> Path:
    axis = np.linspace(0.1, 0.9, 5)
    arrays = {
        "axis": axis,
        "probabilities": np.full((1, 5, 5, 2), 0.5),
        "support_x": np.full((1, 2, 2), 0.5),
        "support_y": np.array([[0, 1]]),
        "query_x": np.full((1, 2, 2), 0.5),
        "query_y": np.array([[0, 1]]),
        "accuracy": np.ones(1),
    } | changes
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, **arrays)
    return file


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"support_y": np.array([[0, 7]])}, r"a label is not in \[0, 2\)"),
        ({"support_y": np.array([[0.0, 1.0]])}, r"a label is not in"),
        ({"axis": np.zeros(5)}, "the axis does not grow"),
        ({"axis": np.zeros((5, 5))}, r"axis has the shape \(5, 5\)"),
        ({"accuracy": np.ones(3)}, r"accuracy has the shape \(3,\)"),
        ({"probabilities": np.full((1, 5, 5, 2), np.nan)}, "values that are not finite"),
        ({"probabilities": np.full((1, 5, 5, 2), 9.0)}, "a probability is not in"),
        ({"accuracy": np.array(["a"])}, r"accuracy\.npy is no array of numbers"),
        ({"more": np.zeros(40_000_000)}, "more than 256 MB of arrays"),
    ],
)
def test_a_hostile_boundary_is_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        draw_decision_boundaries({"a": boundary(tmp_path / "a.npz", **changes)}, tmp_path / "a.png")
    assert str(caught.value).isprintable()


def test_an_array_that_promises_more_than_its_file_holds_is_refused(tmp_path):
    file = boundary(tmp_path / "a.npz")
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)})
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("real.npy", stream.getvalue())
    with pytest.raises(UserError, match=r"real\.npy is no array of numbers of its size"):
        draw_decision_boundaries({"a": file}, tmp_path / "a.png")


def test_a_boundary_that_cannot_be_read_costs_the_others_nothing(tmp_path, caplog):
    boundary(make_run(tmp_path / "runs/0") / "figures/boundary.npz")
    bad = make_run(tmp_path / "runs/1", HIGH, method="protonet") / "figures"
    bad.mkdir()
    os.mkfifo(bad / "boundary.npz")
    page_of(tmp_path)
    assert (tmp_path / "out/boundaries.png").is_file()
    assert "no decision boundary of protonet: " in caplog.text


# Figures have bounds


def peak_megabytes(draw) -> float:
    tracemalloc.start()
    draw()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


@pytest.mark.parametrize("classes", [61, 700])
def test_a_confusion_matrix_of_many_classes_is_small(tmp_path, classes):
    counts = np.eye(classes, dtype=np.int64)
    names = [f"class {number} {'x' * 100}" for number in range(classes)]
    assert peak_megabytes(lambda: draw_counts(counts, names, tmp_path / "a.png")) < 300
    with Image.open(tmp_path / "a.png") as image:
        assert min(image.size) > 500
        assert max(image.size) < 4000


def test_names_of_a_confusion_matrix_stay_where_there_is_room(tmp_path):
    for classes, name in ((60, "x" * 3000), (2, r"$\bad$")):
        draw_counts(np.eye(classes, dtype=np.int64), [name] * classes, tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as image:
            assert max(image.size) < 6000


def test_a_matrix_beyond_all_pictures_is_left_out_with_a_line(tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(b"of an earlier run")
    draw_counts(np.zeros((2001, 2001), np.int64), [""] * 2001, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
    assert "a.png: not drawn, since 2001 classes have no room in a picture" in caplog.text


def test_counts_of_all_classes_are_written(tmp_path):
    write_counts(np.arange(4).reshape(2, 2), ["=a", "b"], tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines() == ["true,'=a,b", "'=a,0,1", "b,2,3"]


def test_a_sheet_shows_thirty_classes(tmp_path):
    sizes = []
    for ways in (30, 300):
        labels = np.arange(ways)[None]
        images = np.zeros((1, ways, 4, 4))
        task_sheet(images, labels, images, labels, np.zeros((1, ways, ways)), tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as image:
            sizes.append(image.size)
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_rows_of_images_are_cut(tmp_path):
    tasks = [{"real": np.zeros((500, 4, 4)), "generated": np.zeros((2, 4, 4))}] * 100
    image_rows(tasks[:1], tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width < 5200


def test_a_chart_of_hundreds_of_rows_shows_the_first(tmp_path):
    for number in range(110):
        make_run(tmp_path / str(number), overrides=[f"method.lr={number}"])
    accuracies(table_of(tmp_path), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.height < 6000


def test_every_picture_has_a_limit_of_pixels(tmp_path):
    from matplotlib.figure import Figure

    from fewshot.figures.png import write_png

    for size in ((400, 2), (300, 300)):
        figure = Figure(figsize=size)
        figure.add_axes((0, 0, 1, 1))
        write_png(tmp_path / "a.png", figure)
        with Image.open(tmp_path / "a.png") as image:
            assert max(image.size) < 31_000
            assert image.width * image.height < 41e6
