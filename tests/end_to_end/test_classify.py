"""Labels out: a checkpoint, a folder of a few images of each class, and a folder to label."""

import contextlib
import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

import fewshot
from fewshot import learner
from fewshot.classify import main
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
        torch.save({"state_dict": network.state_dict(), "recipe": OmegaConf.to_yaml(cfg)}, path)
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
    assert header[:3] == ["file", "predicted", "probability"]
    assert header[3:] == [f"Klasse {number}é" for number in range(WAYS)]
    assert [row[0] for row in rows] == sorted(file.name for file in (folders / "flat").iterdir())
    for row in rows:
        scores = [float(cell) for cell in row[3:]]
        assert sum(scores) == pytest.approx(1, abs=1e-5)
        assert float(row[2]) == max(scores)
        assert row[1] == header[3 + int(np.argmax(scores))]


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


def test_maml_keeps_its_ways_and_says_so(checkpoint, folders):
    files = sorted((folders / "flat").iterdir())[:2]
    with pytest.raises(UserError, match="the classifier has 5 outputs, but a task has 2 ways"):
        fewshot.load(checkpoint("maml")).fit(files, ["a", "b"])


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
    one, two, again = (learner.fit(support, labels, views=views).probabilities(flat) for views in (1, 2, 2))
    second = 2 * two - one
    assert torch.equal(two, again)
    assert (second - one).abs().max() > 1e-4
    assert second.min() > -1e-6
    torch.testing.assert_close(second.sum(1), torch.ones(len(flat)))
    backwards = learner.fit(support, labels, views=2).probabilities(flat[::-1])
    torch.testing.assert_close(backwards.flip(0), two, rtol=1e-4, atol=1e-5)
    fitted = learner.fit(support, labels, views=2)  # the second to other images than the first
    first, other = (predictor(learner.pixels(flat)).logits for predictor in fitted.predictors)
    assert (first - other).abs().max() > 1e-3


def test_the_csv_is_there_when_nobody_reads_the_table_to_its_end(checkpoint, folders, monkeypatch):
    def closed(*_):
        raise BrokenPipeError

    monkeypatch.setattr("fewshot.classify.show", closed)
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
    (folders / "strange" / "Klasse 0é").mkdir(parents=True)
    (folders / "strange" / "other").mkdir()
    for folder in ("Klasse 0é", "other"):
        Image.new("L", (9, 9)).save(folders / "strange" / folder / "a.png")
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
        ({"query": "{}/strange"}, "has the folder other, which is no class"),
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
    content["recipe"] = content["recipe"].replace("distance:", "metric:")
    torch.save(content, path)
    status, _, error = classify(capsys, f"checkpoint={path}", f"support={folders}/support", f"query={folders}/flat")
    assert status == 1
    assert "its settings are of another version" in error
    assert "metric" in error
    content["recipe"] = "a: [b"
    torch.save(content, path)
    status, _, error = classify(capsys, f"checkpoint={path}", f"support={folders}/support", f"query={folders}/flat")
    assert status == 1
    assert "its settings are of another version" in error


def test_ctrl_c_is_one_word(checkpoint, folders, capsys, monkeypatch):
    def interrupt(*arguments):
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
    assert "[red] [/]: 1.0000 (1 of 1)" in printed
    assert "[red] [/]/[blue]0.png" in printed


def test_a_sorted_folder_is_not_cut_into_pieces_of_one_class(monkeypatch):
    """Where BatchNorm sees the batch, such a piece would be normalised by its own class."""
    monkeypatch.setattr(learner, "AT_ONCE", 10)
    pieces = []

    def remember(state, x):
        pieces.append(x[:, 0, 0, 0])
        return Prediction(torch.eye(4)[x[:, 0, 0, 0].long()] * 50, x)

    sorted_by_class = torch.arange(4.0).repeat_interleave(10).view(40, 1, 1, 1)
    fit = learner.Classifier(list("abcd"), [Predictor(remember, {})], lambda x: x)
    assert fit(sorted_by_class) == list("a" * 10 + "b" * 10 + "c" * 10 + "d" * 10)
    assert [len(piece) for piece in pieces] == [10] * 4
    assert all(len(piece.unique()) > 1 for piece in pieces)
