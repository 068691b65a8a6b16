"""Labels without a run: a pretrained network, a few photographs of each class, and a folder to label."""

import csv
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import fewshot
from fewshot.classify import main, parse
from fewshot.errors import UserError

KNOWN, FOREIGN = ("ferry", "llama", "watch"), "minaret"


@pytest.fixture(scope="module")
def folders(photos, tmp_path_factory) -> Path:
    """Return support images of three classes, and query images of four."""
    top = tmp_path_factory.mktemp("own")
    for name in (*KNOWN, FOREIGN):
        files = sorted((photos / name).iterdir())
        for place, part in ((slice(0, 4), "support"), (slice(4, 10), "query"), (slice(0, 1), "one")):
            if name == FOREIGN and part != "query":
                continue
            (top / part / name).mkdir(parents=True)
            for file in files[place]:
                shutil.copy(file, top / part / name)
    return top


def classify(capsys, *arguments: object) -> tuple[int, str, str]:
    status = main([f"{argument}" for argument in arguments])
    return status, *capsys.readouterr()


def test_a_folder_is_labelled_without_a_run(folders, tmp_path, capsys):
    output = tmp_path / "labels.csv"
    status, printed, error = classify(
        capsys, "backbone=efficientnet_lite0", f"support={folders}/support", f"query={folders}/query",
        f"output={output}", "unknown=0.1",
    )  # fmt: skip
    assert status == 0, error
    rows = list(csv.DictReader(output.open(encoding="utf-8")))
    by_class = {name: [row for row in rows if row["file"].startswith(name)] for name in (*KNOWN, FOREIGN)}
    right = sum(row["predicted"] == name for name in KNOWN for row in by_class[name])
    assert right >= 15
    assert f"({right} of 18)" in printed
    assert sum(row["predicted"] == "unknown" for row in by_class[FOREIGN]) >= 5
    known = [float(row["knownness"]) for name in KNOWN for row in by_class[name]]
    assert max(float(row["knownness"]) for row in by_class[FOREIGN]) < sorted(known)[9]
    page = (tmp_path / "labels.html").read_text(encoding="utf-8")
    assert page.count("<figure") == 24
    assert page.count('alt="support image of ferry"') == 4
    assert "images of no class: " in page
    assert re.search(r"<figcaption>(ferry|llama|watch)\? \d+%", page)
    assert "unknown" in (tmp_path / "labels_confusion.csv").read_text(encoding="utf-8").splitlines()[0]

    learner = fewshot.pretrained("efficientnet_lite0")
    files = sorted((folders / "support").glob("*/*"))
    predict = learner.fit(files, [file.parent.name for file in files], unknown=0.1)
    asked = [folders / "query" / row["file"] for row in rows]
    assert predict(asked) == [row["predicted"] for row in rows]


def test_other_methods(folders):
    """On features, which one pass gives for all methods."""
    learner = fewshot.pretrained("efficientnet_lite0")
    support, asked = (sorted((folders / part).glob("[flw]*/*")) for part in ("support", "query"))
    features = learner.method.backbone.encode(learner.read([*support, *asked]))
    for method in ("ridge", "logistic", "protonet"):
        other = fewshot.pretrained("efficientnet_lite0", method=method, weights=None)
        other = replace(other, channels=1280, image_size=1, values=True)
        predict = other.fit(features[: len(support)], [file.parent.name for file in support])
        assert predict.trust.left_out == 12
        found = predict(features[len(support) :])
        assert sum(label == file.parent.name for label, file in zip(found, asked, strict=True)) >= 16


def test_one_image_a_class_is_not_calibrated(folders, tmp_path, capsys, caplog):
    given = [
        "backbone=efficientnet_lite0",
        f"support={folders}/one",
        f"query={folders}/one",
        f"output={tmp_path}/a.csv",
    ]
    status, _, error = classify(capsys, *given, "page=false")
    assert status == 0, error
    assert "the probabilities are not calibrated" in caplog.text
    assert not (tmp_path / "a.html").exists()
    status, _, error = classify(capsys, *given, "unknown=0.05")
    assert status == 1
    assert "give two images of a class or more" in error


def test_the_csv_grows_while_images_are_labelled(folders, tmp_path, capsys, monkeypatch):
    output = tmp_path / "labels.csv"
    monkeypatch.setattr("fewshot.label_folder.CHUNK", 7)
    sizes = []
    add = fewshot.label_folder.Tally.add

    def remember(*arguments):
        sizes.append(len(output.read_text(encoding="utf-8").splitlines()))
        return add(*arguments)

    monkeypatch.setattr("fewshot.label_folder.Tally.add", remember)
    assert classify(capsys, "backbone=efficientnet_lite0", f"support={folders}/support", f"query={folders}/query",
                    f"output={output}")[0] == 0  # fmt: skip
    assert sizes == [1, 8, 15, 22]
    assert len(output.read_text(encoding="utf-8").splitlines()) == 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["backbone=efficientnet_lite"], "there is no such network; the nearest names are efficientnet_lite0"),
        (["backbone=efficientnet_lite0", "method=magic"], "method=magic: choose one of simpleshot, ridge"),
        (["backbone=efficientnet_lite0", "weights=a.pth"], "weights=a.pth: efficientnet_lite0 has its own"),
        (["backbone=resnet18", "weights=missing.pth"], "error: weights=missing.pth: no such file"),
    ],
)
def test_unknown_names_are_one_line(arguments, message, folders, capsys):
    status, _, error = classify(capsys, *arguments, f"support={folders}/support", f"query={folders}/query")
    assert status == 1
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["backbone=a", "checkpoint=b"], "give one of both"),
        ([], "backbone=NAME or checkpoint=PATH must be given"),
        (["backbone=a", "unknown=2"], "unknown=2: a rate between 0 and 1, such as 0.05"),
        (["backbone=a", "unknown=nan"], "unknown=nan: a rate between 0 and 1"),
        (["backbone=a", "bn=running"], "bn= goes with checkpoint=, not with backbone="),
        (["checkpoint=a", "method=ridge"], "method= goes with backbone=, not with checkpoint="),
        (["backbone=a", "page=labels.csv"], "page=labels.csv: give a name that ends in .html"),
    ],
)
def test_mixtures_are_refused(arguments, message):
    with pytest.raises(UserError) as refused:
        parse([*arguments, "support=s", "query=q"])
    assert message in str(refused.value)


def test_a_class_named_unknown_is_refused(folders):
    files = sorted((folders / "one").glob("*/*"))
    with pytest.raises(UserError, match="a class has the name 'unknown' already"):
        fewshot.pretrained("efficientnet_lite0").fit([*files, *files], ["a", "unknown", "b"] * 2, unknown=0.05)
