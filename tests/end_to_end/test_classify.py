"""Labels out: a checkpoint, a folder of a few images of each class, and a folder to label."""

import contextlib
import csv
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

import fewshot
from fewshot import fitted_learner, learner
from fewshot.classify import main
from fewshot.data import images
from fewshot.errors import UserError
from fewshot.methods.predictor import Predictor
from fewshot.networks import Prediction
from fewshot.networks.norm_layers import batch_norms

ROOT = Path(__file__).parents[2]
METHODS = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
WAYS = 5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Checkpoints of untrained methods, as a run writes them."""

    def make(method: str, *overrides: str) -> Path:
        unlabeled = method.endswith("kmeans") or method == "maml_pseudo"
        typed = [f"method={method}", *(["task.unlabeled=2"] if unlabeled else []), *overrides]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("config", overrides=typed)
        OmegaConf.set_struct(cfg, False)
        torch.manual_seed(0)
        network = instantiate(cfg.method)
        for layer in batch_norms(network.network):
            layer.updates.fill_(1)
        path = tmp_path_factory.mktemp("checkpoints") / f"{method}.ckpt"
        torch.save({"state_dict": network.state_dict(), "settings": OmegaConf.to_yaml(cfg), "format": 2}, path)
        return path

    return make


@pytest.fixture
def folders(tmp_path):
    """``support`` with five classes of one to three drawings, ``query`` with copies of them, in classes and flat."""
    random = np.random.default_rng(0)
    for number in range(WAYS):
        strokes = random.random((7, 7)) < 0.3
        for copy in range(1 + number % 3):
            noise = random.random((7, 7)) < 0.03
            image = Image.fromarray(np.where(strokes ^ noise, 0, 255).astype(np.uint8)).resize((28, 28), 0)
            for folder in (f"support/Klasse {number}é", f"query/Klasse {number}é", "flat", "more"):
                (tmp_path / folder).mkdir(parents=True, exist_ok=True)
                image.save(tmp_path / folder / f"{number}_{copy}.png")
    return tmp_path


def classify(capsys, *arguments: object) -> tuple[int, str, str]:
    status = main([f"{argument}" for argument in arguments])
    return status, *capsys.readouterr()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_labels_a_folder(method, checkpoint, folders, capsys):
    extra = [f"unlabeled={folders}/more"] if method.endswith("kmeans") or method == "maml_pseudo" else []
    output = folders / "labels.csv"
    status, _, error = classify(
        capsys, f"checkpoint={checkpoint(method)}", f"support={folders}/support", f"query={folders}/flat",
        f"output={output}", *extra,
    )  # fmt: skip
    assert status == 0, error
    header, *rows = csv.reader(output.read_text().splitlines())
    assert header[:4] == ["file", "predicted", "probability", "knownness"]
    assert header[4:] == [f"Klasse {number}é" for number in range(WAYS)]
    assert [row[0] for row in rows] == sorted(file.name for file in (folders / "flat").iterdir())
    for row in rows:
        scores = [float(cell) for cell in row[4:]]
        assert sum(scores) == pytest.approx(1, abs=1e-5)
        assert float(row[2]) == max(scores)
        assert row[1] == header[4 + int(np.argmax(scores))]


def test_a_class_is_recognised_by_its_own_images(checkpoint, folders, capsys):
    """Of the nearest neighbour: a copy of a support image has its class."""
    output = folders / "out" / "labels.csv"
    status, printed, _ = classify(
        capsys, f"checkpoint={checkpoint('nearest')}", f"support={folders}/support", f"query={folders}/query",
        f"output={output}",
    )  # fmt: skip
    assert status == 0
    assert "accuracy 1.0000 (9 of 9)" in printed
    header, *rows = csv.reader((output.parent / "labels_confusion.csv").read_text().splitlines())
    counts = np.array([[int(cell) for cell in row[1:]] for row in rows])
    assert header[1:] == [row[0] for row in rows]
    assert (counts == np.diag([1, 2, 3, 1, 2])).all()
    with Image.open(output.parent / "labels_confusion.png") as picture:
        assert min(picture.size) > 200


@pytest.mark.parametrize("method", ["protonet", "relation", "matching", "nearest", "baseline", "metagan_protonet"])
def test_other_ways_than_in_training(method, checkpoint, folders):
    files = sorted((folders / "flat").iterdir())[:4]
    predict = fewshot.load(checkpoint(method)).fit(files, ["a", "b", "c", "c"])
    assert predict.classes == ["a", "b", "c"]
    assert predict.probabilities(files).shape == (4, 3)


@pytest.mark.parametrize("method", ["maml", "metagan"])
def test_maml_keeps_its_ways_and_says_so(checkpoint, folders, method):
    files = sorted((folders / "flat").iterdir())[:2]
    message = "has 5 outputs, but the support set has 2 classes: give examples of 5 classes, or train with task.ways=2"
    with pytest.raises(UserError, match=message):
        fewshot.load(checkpoint(method)).fit(files, ["a", "b"])


def test_three_lines_of_python_are_the_command(checkpoint, folders, capsys):
    path, output = checkpoint("maml"), folders / "labels.csv"
    classify(capsys, f"checkpoint={path}", f"support={folders}/support", f"query={folders}/flat", f"output={output}")
    support = sorted((folders / "support").glob("*/*"))
    trained = fewshot.load(path)
    predict = trained.fit(support, [file.parent.name for file in support])
    flat = sorted((folders / "flat").iterdir())
    assert predict(flat) == [row["predicted"] for row in csv.DictReader(output.open())]


@pytest.mark.parametrize("method", ["protonet", "maml"])
def test_views_are_averaged(method, checkpoint, folders):
    """The first view is the images as they are; the second has probabilities of its own."""
    support = sorted((folders / "support").glob("*/*"))
    learner, labels = fewshot.load(checkpoint(method), bn="support"), [file.parent.name for file in support]
    flat = sorted((folders / "flat").iterdir())
    one, two, again = (
        learner.fit(support, labels, views=views, calibrate=False).probabilities(flat) for views in (1, 2, 2)
    )
    second = 2 * two - one
    assert torch.equal(two, again)
    assert (second - one).abs().max() > 1e-4
    assert second.min() > -1e-6
    torch.testing.assert_close(second.sum(1), torch.ones(len(flat)))
    backwards = learner.fit(support, labels, views=2, calibrate=False).probabilities(flat[::-1])
    torch.testing.assert_close(backwards.flip(0), two, rtol=1e-4, atol=1e-5)
    fitted = learner.fit(support, labels, views=2)  # the second to other images than the first
    first, other = (predictor(learner.pixels(flat)).logits for predictor in fitted.predictors)
    assert (first - other).abs().max() > 1e-3


def test_the_csv_is_there_when_nobody_reads_the_table_to_its_end(checkpoint, folders, monkeypatch):
    def closed(*_):
        raise BrokenPipeError

    monkeypatch.setattr("fewshot.label_folder.print_labels", closed)
    output = folders / "unread.csv"
    with contextlib.suppress(BrokenPipeError):
        main([f"checkpoint={checkpoint('protonet')}", f"support={folders}/support", f"query={folders}/flat",
              f"output={output}"])  # fmt: skip
    assert len(list(csv.DictReader(output.open()))) == len(list((folders / "flat").iterdir()))


def test_views_by_command(checkpoint, folders, capsys):
    given = f"checkpoint={checkpoint('protonet')}", f"support={folders}/support", f"query={folders}/query"
    assert classify(capsys, *given, "views=3")[0] == 0
    status, _, error = classify(capsys, *given, "views=0")
    assert (status, error) == (1, "error: views=0: a number from 1 to 999\n")


def test_labels_do_not_depend_on_the_order_of_images(checkpoint, folders):
    files = sorted((folders / "flat").iterdir())
    labels = [file.name[0] for file in files]
    trained = fewshot.load(checkpoint("metagan"))
    one = trained.fit(files, labels).probabilities(files)
    two = trained.fit(files[::-1], labels[::-1]).probabilities(files[::-1]).flip(0)
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_metagan_with_and_without_its_generator(checkpoint, folders):
    files = sorted((folders / "flat").iterdir())
    labels = [file.name[0] for file in files]
    trained = fewshot.load(checkpoint("metagan"))
    alone = trained.method.host
    plain = type(trained)(**{**vars(trained), "method": alone})
    without = trained.fit(files, labels, generator=False).probabilities(files)
    assert torch.equal(without, plain.fit(files, labels).probabilities(files))
    assert not torch.equal(without, trained.fit(files, labels).probabilities(files))


def test_dark_strokes_are_ink(checkpoint, folders):
    trained = fewshot.load(checkpoint("nearest"))
    assert trained.pixels([next((folders / "flat").iterdir())]).mean() < 0.5


def test_what_cannot_be_read_is_named(checkpoint, folders, capsys, caplog):
    (folders / "flat" / "broken.png").write_text("no image")
    status, _, _ = classify(
        capsys, f"checkpoint={checkpoint('nearest')}", f"support={folders}/support", f"query={folders}/flat"
    )
    assert status == 0
    assert "broken.png: not an image of a known format" in caplog.text


def spoilt(what: str, folders: Path) -> None:
    """Turn the folders into the bad input ``what``."""
    (folders / "empty").mkdir()
    (folders / "one" / "only").mkdir(parents=True)
    Image.new("L", (9, 9)).save(folders / "one" / "only" / "a.png")
    (folders / "unreadable").mkdir()
    (folders / "unreadable" / "a.png").write_text("no image")
    (folders / "colours").mkdir()
    Image.new("RGB", (9, 9), "red").save(folders / "colours" / "a.png")
    (folders / "text.ckpt").write_text("no checkpoint")
    (folders / "folder.csv").mkdir()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"support": "{}/empty"}, "holds no class"),
        ({"support": "{}/one"}, "holds one class"),
        ({"support": "{}/missing"}, "is no folder"),
        ({"query": "{}/unreadable"}, "holds no readable image"),
        ({"query": "{}/empty"}, "holds no readable image"),
        ({"query": "{}/colours"}, "has colours, but the network was trained on images of 1 channel"),
        ({"checkpoint": "{}/text.ckpt"}, "not a readable checkpoint"),
        ({"checkpoint": "{}/missing.ckpt"}, "missing.ckpt: no such file"),
        ({"checkpoint": "{}"}, "is a folder: name a file, such as"),
        ({"bn": "sideways"}, "bn=sideways: choose one of"),
        ({"output": "{}/labels.txt"}, "ends in .csv"),
        ({"output": "{}/folder.csv"}, "folder.csv is a folder"),
        ({"output": "{}/text.ckpt/labels.csv"}, "cannot be written"),
        ({"shots": "5"}, "write KEY=VALUE, with one of"),
        ({"invert": "perhaps"}, "true or false"),
    ],
)
def test_bad_input_is_one_line(changes, message, checkpoint, folders, capsys):
    spoilt(message, folders)
    settings = {"checkpoint": f"{checkpoint('nearest')}", "support": f"{folders}/support", "query": f"{folders}/flat"}
    settings |= {key: value.format(folders) for key, value in changes.items()}
    status, _, error = classify(capsys, *(f"{key}={value}" for key, value in settings.items()))
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert status == 1
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in error


def test_a_checkpoint_of_another_version_names_its_keys(checkpoint, folders, capsys):
    path = checkpoint("protonet")
    content = torch.load(path)
    content["state_dict"]["old.weight"] = content["state_dict"].pop("backbone.layers.0.weight")
    torch.save(content, path)
    status, _, error = classify(
        capsys, f"checkpoint={path}", f"support={folders}/support", f"query={folders}/flat"
    )  # fmt: skip
    assert status == 1
    assert "backbone.layers.0.weight is missing" in error
    content["settings"] = content["settings"].replace("distance:", "metric:")
    torch.save(content, path)
    status, _, error = classify(capsys, f"checkpoint={path}", f"support={folders}/support", f"query={folders}/flat")
    assert status == 1
    assert "its settings are of another version" in error
    assert "metric" in error
    content["settings"] = "a: [b"
    torch.save(content, path)
    status, _, error = classify(capsys, f"checkpoint={path}", f"support={folders}/support", f"query={folders}/flat")
    assert status == 1
    assert "its settings are of another version" in error


def test_ctrl_c_is_one_word(checkpoint, folders, capsys, monkeypatch):
    def interrupt(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(learner.Learner, "fit", interrupt)
    status, _, error = classify(
        capsys, f"checkpoint={checkpoint('nearest')}", f"support={folders}/support", f"query={folders}/flat"
    )
    assert status == 130
    assert error.endswith("interrupted\n")


def test_names_in_brackets_are_not_taken_for_colours(checkpoint, folders, capsys):
    for folder in ("support", "query"):
        (folders / folder / "Klasse 0é").rename(folders / folder / "[red] [")
        (folders / folder / "[red] [" / "]").mkdir()
        (folders / folder / "[red] [" / "0_0.png").rename(folders / folder / "[red] [" / "]" / "[blue]0.png")
    status, printed, _ = classify(
        capsys, f"checkpoint={checkpoint('nearest')}", f"support={folders}/support", f"query={folders}/query"
    )
    assert status == 0
    assert "[red] [: 1.0000 (1 of 1)" in printed  # the first folder is the class
    assert "[red] [/]/[blue]0.png" in printed


def test_a_sorted_folder_is_not_cut_into_pieces_of_one_class(monkeypatch):
    """Where BatchNorm sees the batch, such a piece would be normalised by its own class."""
    monkeypatch.setattr(fitted_learner, "AT_ONCE", 10)
    pieces = []

    def remember(state, x):
        pieces.append(x[:, 0, 0, 0])
        return Prediction(torch.eye(4)[x[:, 0, 0, 0].long()] * 50, x)

    sorted_by_class = torch.arange(4.0).repeat_interleave(10).view(40, 1, 1, 1)
    fit = fitted_learner.FittedLearner(list("abcd"), [Predictor(remember, {})], lambda x: x, lambda x: x)
    assert fit(sorted_by_class) == list("a" * 10 + "b" * 10 + "c" * 10 + "d" * 10)
    assert [len(piece) for piece in pieces] == [10] * 4
    assert all(len(piece.unique()) > 1 for piece in pieces)


def test_usage_does_not_wait_for_torch():
    code = "import sys; from fewshot.classify import main; main(['--help']); print(sorted(sys.modules))"
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: python -m fewshot.classify")
    assert "'torch'" not in done.stdout
    assert "'numpy'" not in done.stdout


def test_neither_labels_nor_learners_need_hydra(checkpoint, folders):
    code = (
        "import sys, fewshot; from fewshot.classify import main; print(main(sys.argv[1:])); "
        "print([name for name in sys.modules if name.startswith('hydra')])"
    )
    given = [f"checkpoint={checkpoint('protonet')}", f"support={folders}/support", f"query={folders}/flat"]
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": "", "HOME": str(folders), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, *given], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-2:] == ["0", "[]"], done.stdout + done.stderr


def test_the_first_folder_is_the_class(checkpoint, folders, capsys):
    """Whatever lies between the folder of a class and its images; in the query folder too."""
    for top in ("support", "query"):
        for folder in list((folders / top).iterdir()):
            for place, file in enumerate(sorted(folder.iterdir())):
                (folder / f"202{place}").mkdir()
                file.rename(folder / f"202{place}" / file.name)
    status, printed, error = classify(
        capsys, f"checkpoint={checkpoint('nearest')}", f"support={folders}/support", f"query={folders}/query"
    )
    assert status == 0, error
    assert "accuracy 1.0000 (9 of 9)" in printed
    assert "Klasse 1é: 1.0000 (2 of 2)" in printed


def test_one_name_in_two_unicode_forms_is_one_class(checkpoint, folders, capsys):
    for folder in list((folders / "query").iterdir()):
        folder.rename(folder.with_name(unicodedata.normalize("NFD", folder.name)))
    status, printed, error = classify(
        capsys, f"checkpoint={checkpoint('nearest')}", f"support={folders}/support", f"query={folders}/query"
    )
    assert status == 0, error
    assert "accuracy 1.0000 (9 of 9)" in printed


def test_images_in_a_folder_of_no_class_are_labelled_and_not_counted(checkpoint, folders, capsys, caplog):
    (folders / "query/unknown").mkdir()
    Image.new("L", (28, 28), "white").save(folders / "query/unknown/new.png")
    output = folders / "labels.csv"
    status, printed, _ = classify(
        capsys, f"checkpoint={checkpoint('nearest')}", f"support={folders}/support", f"query={folders}/query",
        f"output={output}",
    )  # fmt: skip
    assert status == 0
    assert "accuracy 1.0000 (9 of 9)" in printed
    assert "not counted: unknown" in caplog.text
    assert "unknown/new.png" in [row["file"] for row in csv.DictReader(output.open())]


def test_names_that_are_not_utf8_have_one_form_everywhere(checkpoint, folders, capsys):
    for top in ("support", "query"):
        os.rename(os.fsencode(folders / top / "Klasse 0é"), os.fsencode(folders / top) + b"/caf\xe9")
    os.rename(
        os.fsencode(folders / "query") + b"/caf\xe9/0_0.png", os.fsencode(folders / "query") + b"/caf\xe9/b\xfc.png"
    )
    output = folders / "labels.csv"
    status, printed, error = classify(
        capsys, f"checkpoint={checkpoint('nearest')}", f"support={folders}/support", f"query={folders}/query",
        f"output={output}",
    )  # fmt: skip
    assert status == 0, error
    assert "accuracy 1.0000 (9 of 9)" in printed
    assert "caf\\xe9: 1.0000 (1 of 1)" in printed
    row = next(row for row in csv.DictReader(output.open(encoding="utf-8")) if "xfc" in row["file"])
    assert (row["file"], row["predicted"]) == ("caf\\xe9/b\\xfc.png", "caf\\xe9")
    assert "caf\\xe9" in (folders / "labels_confusion.csv").read_text(encoding="utf-8")
    assert (folders / "labels_confusion.png").is_file()


def test_names_reach_neither_the_terminal_raw_nor_a_spreadsheet_as_formulas(checkpoint, folders, capsys):
    names = {"Klasse 0é": "=SUM(A1)", "Klasse 1é": "\x1b[31mred\n", "Klasse 2é": "@cmd", "Klasse 3é": "+1 2"}
    for top in ("support", "query"):
        for old, new in names.items():
            (folders / top / old).rename(folders / top / new)
    output = folders / "labels.csv"
    status, printed, error = classify(
        capsys, f"checkpoint={checkpoint('nearest')}", f"support={folders}/support", f"query={folders}/query",
        f"output={output}",
    )  # fmt: skip
    assert status == 0
    assert "\x1b" not in printed + error
    assert "\\x1b[31mred\\n: 1.0000" in printed
    for file in (output, folders / "labels_confusion.csv"):
        cells = [cell for row in csv.reader(file.open(newline="")) for cell in row]
        assert "'=SUM(A1)" in cells
        assert not [cell for cell in cells if cell.startswith(("=", "@", "+"))]


def test_a_class_of_a_columns_name_has_a_column_of_its_own(checkpoint, folders, capsys):
    for old, new in {"Klasse 0é": "probability", "Klasse 1é": "file", "Klasse 2é": "class file"}.items():
        (folders / "support" / old).rename(folders / "support" / new)
    output = folders / "labels.csv"
    assert classify(capsys, f"checkpoint={checkpoint('nearest')}", f"support={folders}/support",
                    f"query={folders}/flat", f"output={output}")[0] == 0  # fmt: skip
    header = output.read_text().splitlines()[0].split(",")
    assert header[:4] == ["file", "predicted", "probability", "knownness"]
    assert len(set(header)) == len(header) == 4 + WAYS
    assert {"class probability", "class file", "class class file"} == {
        name for name in header if name.startswith("class")
    }


def test_folders_of_the_home_folder(checkpoint, folders, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(folders))
    given = [f"checkpoint={checkpoint('nearest')}", "support=~/support", "query=~/flat", "output=~/labels.csv"]
    assert classify(capsys, *given)[0] == 0
    assert (folders / "labels.csv").is_file()


@pytest.mark.thorough
def test_seven_hundred_classes(checkpoint, folders, capsys):
    """Labels and accuracy come first; the picture of the confusion matrix is of bounded size."""
    random = np.random.default_rng(0)
    for number in range(700):
        image = Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8))
        for top in ("many", "ask"):
            folder = folders / top / f"class {number:03}"
            folder.mkdir(parents=True)
            image.save(folder / "0.png")
    status, printed, _ = classify(
        capsys, f"checkpoint={checkpoint('nearest')}", f"support={folders}/many", f"query={folders}/ask",
        f"output={folders}/labels.csv",
    )  # fmt: skip
    assert status == 0
    assert printed.index("accuracy 1.0000 (700 of 700)") < printed.index("labels_confusion.png")
    assert "and 660 more classes" in printed
    with Image.open(folders / "labels_confusion.png") as picture:
        assert picture.width * picture.height < 20_000_000


def test_figures_come_after_the_labels(checkpoint, folders, capsys, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("fewshot.label_folder.confusion_matrix.draw_counts", fail)
    with pytest.raises(MemoryError):
        main([f"checkpoint={checkpoint('nearest')}", f"support={folders}/support", f"query={folders}/query",
              f"output={folders}/labels.csv"])  # fmt: skip
    assert "accuracy 1.0000" in capsys.readouterr().out
    assert (folders / "labels.csv").is_file()


def test_every_image_is_decoded_once(checkpoint, folders, capsys, monkeypatch):
    decoded = []
    real = images.decode_file
    monkeypatch.setattr(images, "decode_file", lambda path, decoding: [decoded.append(path), real(path, decoding)][1])
    classify(capsys, f"checkpoint={checkpoint('nearest')}", f"support={folders}/support", f"query={folders}/flat")
    assert len(decoded) == len(set(decoded)) == 18


def test_a_log_has_no_bars(checkpoint, folders, capsys):
    files = sorted((folders / "flat").iterdir())
    predict = fewshot.load(checkpoint("nearest")).fit(files, [file.name[0] for file in files])
    for file in files:
        predict([file])
    assert capsys.readouterr().err == ""


def test_the_stored_setting_decides_about_ink(checkpoint, folders):
    path = checkpoint("nearest")
    content = torch.load(path)
    assert "invert: true" in content["settings"]
    content["settings"] = content["settings"].replace("invert: true", "invert: false")
    torch.save(content, path)
    assert fewshot.load(path).invert is False
