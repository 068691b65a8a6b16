"""The report as a page, its figures of several runs, published numbers beside ours, LaTeX, calibration."""

import base64
import csv
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from test_report import HIGH, LOW, make_failure, make_run, table_of
from torchmetrics.classification import MulticlassCalibrationError

from fewshot.calibration import Bins, pooled, read_bins
from fewshot.callbacks import Scores
from fewshot.errors import UserError
from fewshot.figures.captions import CAPTIONS
from fewshot.figures.learning_curves import read_metrics
from fewshot.report import collect, csv_text, markdown
from fewshot.report import published as literature
from fewshot.report.build import report
from fewshot.report.charts import accuracies, episode_scatter, mean_curve, reliability, validation_curves
from fewshot.report.formats import latex
from fewshot.result import write_calibration

ROOT = Path(__file__).parents[2]
EVIL = "<script>alert(1)</script> & \"co\" 'x'"


class Page(HTMLParser):
    """What a browser would find: elements with their attributes, text by element, rows of tables."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag  # every element is closed, in order

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> str:
        return "\n".join(text for name, text in self.texts if name == tag)


def image(source: str) -> Image.Image:
    head, _, content = source.partition(",")
    assert head == "data:image/png;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    picture.load()
    assert picture.format == "PNG"
    return picture


def png(file: Path, colour: str = "red") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 15), colour).save(file)


def curves(folder: Path, accuracy: tuple[float, ...], seconds: float = 10.0) -> None:
    """A metrics.csv as Lightning writes it: training and validation in rows of their own."""
    lines = ["step,episodes,seconds,train/loss,val/accuracy"]
    for number, value in enumerate(accuracy):
        step = 100 * number + 99
        lines += [f"{step},{32 * step},{seconds * (number + 1)},1.0,", f"{step},,,,{value}"]
    (folder / "metrics.csv").write_text("\n".join(lines))


def bins(seed: int = 0, n: int = 500) -> Bins:
    generator = np.random.default_rng(seed)
    return Bins.from_predictions(generator.uniform(0.2, 0.99, n), generator.uniform(size=n) < 0.7)


def calibration_error(of: Bins) -> float:
    """The mean over predictions of their bin's |accuracy - confidence|."""
    return float(np.nansum(of.count * abs(of.accuracy - of.confidence)) / of.count.sum())


def full_run(folder: Path, accuracy=LOW, **fields) -> Path:
    make_run(folder, accuracy, **fields)
    curves(folder, (0.3, 0.5, 0.6))
    write_calibration(folder, bins())
    png(folder / "figures/test_episodes.png")
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """The report of two settings of two seeds each, of another task, and of a run that failed."""
    folder = tmp_path_factory.mktemp("report")
    generator = np.random.default_rng(0)
    for seed in (0, 1):
        for number, method in enumerate(("maml", "protonet")):
            accuracy = np.clip(generator.normal(0.7 + 0.1 * number, 0.1, 60), 0, 1)
            full_run(
                folder / f"runs/{seed}{method}", accuracy, data="omniglot", method=method, seed=seed,
                test={"accuracy": float(accuracy.mean()), "ece": 0.05 * (seed + 1)},
                overrides=[f"method={method}", "data=omniglot", f"seed={seed}", f"name={EVIL}"], git_commit="c0ffee",
            )  # fmt: skip
    full_run(folder / "runs/5", task={"name": "5w5s", "ways": 5, "shots": 5}, method=EVIL)
    make_failure(folder / "runs/6", f"ValueError: {EVIL}", "- method=reptile\n")
    for step in (1, 2):
        png(folder / f"runs/0maml/figures/generated_step{step:06d}.png")
    report([folder / "runs"], folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def page(written) -> Page:
    return Page((written / "report.html").read_text(encoding="utf-8"))


# The page


def test_a_runs_own_figures_have_captions(page):
    """Each of the five runs left a sheet of test episodes."""
    text = [told for _, told in page.texts if CAPTIONS["test_episodes"] in told]
    assert len(text) == 5


def test_the_page_needs_nothing_else(written, page):
    text = (written / "report.html").read_text(encoding="utf-8")
    images = page.all("img")
    assert len(images) == 1 + 3 + 5  # accuracies, the three comparisons, one sheet a run
    for attributes in images:
        picture = image(attributes["src"])
        assert int(attributes["width"]) == round(picture.width * 96 / 150)
        assert attributes["alt"]
    without_images = re.sub(r'"data:image/png;base64,[^"]*"', "", text)
    assert "://" not in without_images
    assert not re.search(r"url\(|@import|\bsrc=(?!\s)", without_images.replace("src=", "src= "))
    assert not {"script", "link", "iframe", "object"} & {name for name, _ in page.elements}
    assert all(attributes["href"].startswith("#") for attributes in page.all("a"))
    assert page.open == []
    assert any(attributes.get("name") == "viewport" for attributes in page.all("meta"))


def test_the_page_has_the_figures_that_lie_beside_it(written, page):
    files = [written / "accuracies.png"]
    files += [written / "figures" / name for name in ("validation.png", "episodes.png", "calibration.png")]
    assert sorted(file.name for file in (written / "figures").iterdir()) == sorted(file.name for file in files[1:])
    embedded = [base64.b64decode(attributes["src"].partition(",")[2]) for attributes in page.all("img")]
    assert embedded[:4] == [file.read_bytes() for file in files]
    order = [text for name, text in page.texts if name == "h2"]
    assert order == [
        "Test accuracy", "Accuracies", "Learning curves", "Episode by episode", "Calibration", "Images of each run",
        "Notes", "Failures", "Commands",
    ]  # fmt: skip


def test_its_numbers_are_those_of_the_csv(written, page):
    with (written / "report.csv").open(newline="") as stream:
        records = {record["label"]: record for record in csv.DictReader(stream)}
    lines = [dict(zip(table[0], cells, strict=True)) for table in page.tables for cells in table[1:]]
    assert len(lines) == 3
    for line in lines:
        record = records[line["run"]]
        number = {name: 100 * float(value) for name, value in record.items() if re.fullmatch(r"-?[\d.]+", value)}
        assert line["accuracy"] == f"{number['accuracy']:.2f} ± {number['accuracy_ci95']:.2f}"
        if record["difference"]:
            assert line["difference"] == f"{number['difference']:+.2f} ± {number['difference_ci95']:.2f}"
            assert line["by seed"] == f"{number['by_seed_difference']:+.2f} ± {number['by_seed_ci95']:.2f}"
            assert line["verdict"] == record["verdict"]
        if record["published"]:
            assert line["published"].startswith(f"{number['published']:.4g}")
    assert [record["published"] for record in records.values()] == ["0.987", "0.988", "", ""]
    assert float(records["maml omniglot 5w1s"]["ece"]) == pytest.approx(0.075)


def test_what_a_user_typed_is_text(written, page):
    # In labels, errors, commands and folders.
    assert page.text("th").count("<script>alert(1)</script>") == 1
    assert EVIL in page.text("p")
    assert "python run.py method=maml data=omniglot seed=1" in page.text("pre")
    assert "<script>alert(1)</script>" in page.text("pre")
    assert "<script" not in (written / "report.html").read_text(encoding="utf-8")


def test_when_commit_and_device_are_told(page):
    facts = page.text("dd")
    assert "5 finished runs of 3 settings; 1 failed" in facts
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", facts)
    assert "c0ffee" in facts
    assert "cpu" in facts
    assert "omniglot 5w1s, glyphs 5w5s: maml, protonet" in page.text("h1")


def test_only_so_many_runs_have_their_images_in_the_page(tmp_path):
    for number in range(26):
        run = make_run(tmp_path / f"runs/{number}", overrides=[f"method.lr={number}"])
        png(run / "figures/test_episodes.png")
    report([tmp_path / "runs"], tmp_path / "out")
    page = Page((tmp_path / "out/report.html").read_text(encoding="utf-8"))
    assert len(page.all("details")) == 24
    assert "2 further runs" in page.text("p")


def test_a_report_in_a_run_s_own_folder_does_not_take_itself_for_its_images(tmp_path):
    run = make_run(tmp_path / "run")
    make_run(tmp_path / "run/other", HIGH, method="protonet")
    for _ in range(2):
        report([run], run)
        page = Page((run / "report.html").read_text(encoding="utf-8"))
        assert len(page.all("img")) == 2  # accuracies, episodes
        assert not page.all("details")


def test_figures_of_an_earlier_report_do_not_stay(tmp_path):
    for number, method in enumerate(("maml", "protonet")):
        full_run(tmp_path / f"runs/{number}", method=method)
    report([tmp_path / "runs"], tmp_path / "out")
    report([tmp_path / "runs/0"], tmp_path / "out")
    assert not (tmp_path / "out/figures/episodes.png").exists()  # one setting has no reference
    assert (tmp_path / "out/figures/validation.png").exists()


def test_a_sweep_that_only_failed_has_a_page(tmp_path):
    make_failure(tmp_path / "runs/0", "out of memory", "- method=maml\n")
    report([tmp_path / "runs"], tmp_path / "out")
    page = Page((tmp_path / "out/report.html").read_text(encoding="utf-8"))
    assert "out of memory" in page.text("p")
    assert page.tables == []
    assert "python run.py method=maml" in page.text("pre")


def test_a_damaged_image_of_a_run_is_named(tmp_path):
    run = make_run(tmp_path / "runs/0")
    (run / "figures").mkdir()
    (run / "figures/generated.png").write_bytes(b"no image")
    report([tmp_path / "runs"], tmp_path / "out")
    page = Page((tmp_path / "out/report.html").read_text(encoding="utf-8"))
    assert "generated.png: not a PNG image" in page.text("p")
    assert "1 finished run of 1 setting" in page.text("dd")


# Figures of several runs


def pixels(file: Path, colour: str) -> np.ndarray:
    """Where exactly this colour is."""
    with Image.open(file) as picture:
        array = np.asarray(picture.convert("RGB"))
    return (array == [int(colour[place : place + 2], 16) for place in (1, 3, 5)]).all(-1)


FIRST, SECOND = "#2166ac", "#d95f02"


def test_settings_close_together_are_shown_again_at_a_larger_scale(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"runs/maml{seed}", np.full(3, 0.90 + 0.01 * seed), seed=seed)
        make_run(tmp_path / f"runs/protonet{seed}", np.full(3, 0.92), seed=seed, method="protonet")
    accuracies(table_of(tmp_path / "runs"), tmp_path / "close.png")
    rows, columns = np.nonzero(pixels(tmp_path / "close.png", "#222222"))  # means and intervals
    bars = pixels(tmp_path / "close.png", "#92c5de").any(0)
    beside = columns > np.flatnonzero(bars).max() + 200
    upper = np.median(columns[beside & (rows < np.median(rows))])
    lower = np.median(columns[beside & (rows > np.median(rows))])
    assert lower - upper > 0.1 * np.ptp(columns)  # one and a half points of a hundred
    for seed in (0, 1):
        make_run(tmp_path / f"runs/nearest{seed}", np.full(3, 0.4), seed=seed, method="nearest")
    accuracies(table_of(tmp_path / "runs"), tmp_path / "far.png")
    with Image.open(tmp_path / "far.png") as far, Image.open(tmp_path / "close.png") as close:
        assert far.width < 0.8 * close.width


def test_curves_of_a_faster_method_end_earlier_in_seconds_only(tmp_path):
    for number, (method, seconds) in enumerate((("maml", 10.0), ("protonet", 40.0))):
        curves(
            make_run(tmp_path / f"runs/{number}", method=method),
            (0.3 + 0.1 * number, 0.5 + 0.1 * number, 0.6 + 0.1 * number),
            seconds,
        )
    assert validation_curves(table_of(tmp_path / "runs"), tmp_path / "curves.png")
    steps, seconds = (
        [np.ptp(np.nonzero(half.any(0))[0]) for half in np.array_split(pixels(tmp_path / "curves.png", c)[:450], 2, 1)]
        for c in (FIRST, SECOND)
    )
    (fast_steps, fast_seconds), (slow_steps, slow_seconds) = steps, seconds
    assert fast_steps == pytest.approx(slow_steps, abs=15)
    assert fast_seconds < 0.4 * slow_seconds  # 10 to 30 s, and 40 to 120 s


def test_a_validation_between_logged_rows_has_its_time(tmp_path):
    # Logged at steps 9 and 19, after 10 and 30 seconds; validated after 5, 10 and 15 steps of 20.
    lines = ["step,seconds,val/accuracy", "4,,0.1", "9,10,", "9,,0.2", "14,,0.3", "19,30,"]
    (tmp_path / "metrics.csv").write_text("\n".join(lines))
    columns, x_name = read_metrics(tmp_path / "metrics.csv", "seconds")
    x, y = columns["val/accuracy"]
    assert x == pytest.approx([5, 10, 20])
    assert y.tolist() == [0.1, 0.2, 0.3]
    assert x_name == "seconds"


def test_no_metrics_no_curves(tmp_path):
    make_run(tmp_path / "runs/0")
    assert not validation_curves(table_of(tmp_path / "runs"), tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_a_method_without_training_is_a_line_across_both_sides(tmp_path):
    curves(make_run(tmp_path / "runs/0"), (0.3, 0.5, 0.6))
    (make_run(tmp_path / "runs/1", method="nearest") / "metrics.csv").write_text("step,val/accuracy\n0,0.4\n")
    validation_curves(table_of(tmp_path / "runs"), tmp_path / "curves.png")
    line = pixels(tmp_path / "curves.png", SECOND)[:450]
    (level,) = np.flatnonzero(line.sum(1) > 0.7 * line.shape[1])[:1]
    assert all(half.sum() > 0.7 * half.size for half in np.array_split(line[level], 2))


def test_the_mean_of_seeds_by_hand():
    one = (np.array([1.0, 2.0, 3.0]), np.array([0.2, 0.4, 0.9]))
    two = (np.array([3.0, 6.0]), np.array([0.4, 0.8]))  # stopped before its third validation
    x, y = mean_curve([one, two])
    assert x.tolist() == [2, 4]
    assert y == pytest.approx([0.3, 0.6])


def test_episodes_against_the_reference_are_counted(tmp_path, monkeypatch):
    # Averaged over seeds: 0.3, 0.3, 0.6 against 0.2, 0.4, 0.6, the last up to rounding.
    seeds = {"maml": ((0.1, 0.5, 0.7), (0.3, 0.3, 0.5)), "protonet": ((0.2, 0.2, 0.6), (0.4, 0.4, 0.6))}
    for method, of_seeds in seeds.items():
        for seed, accuracy in enumerate(of_seeds):
            make_run(tmp_path / f"runs/{method}{seed}", accuracy, method=method, seed=seed)
    told = []
    monkeypatch.setattr("matplotlib.axes.Axes.text", lambda self, x, y, text, **style: told.append(text))
    assert episode_scatter(table_of(tmp_path / "runs"), tmp_path / "scatter.png")
    assert told == ["better on 1, worse 1, equal 1"]
    assert not episode_scatter(table_of(tmp_path / "runs/maml0"), tmp_path / "none.png")


def test_runs_without_bins_are_left_out_of_the_diagram(tmp_path):
    make_run(tmp_path / "runs/0")
    assert not reliability(table_of(tmp_path / "runs"), tmp_path / "calibration.png")
    full_run(tmp_path / "runs/1", method="protonet")
    assert reliability(table_of(tmp_path / "runs"), tmp_path / "calibration.png")
    with Image.open(tmp_path / "calibration.png") as one:
        narrow = one.width
    full_run(tmp_path / "runs/2", method="relation")
    reliability(table_of(tmp_path / "runs"), tmp_path / "calibration.png")
    with Image.open(tmp_path / "calibration.png") as two:
        assert two.width > 1.7 * narrow


def test_the_diagram_tells_the_stated_error(tmp_path, monkeypatch):
    for seed, ece in enumerate((0.05, 0.1, None)):
        full_run(tmp_path / f"runs/maml{seed}", seed=seed, test={"accuracy": np.mean(LOW), "ece": ece})
    full_run(tmp_path / "runs/protonet", method="protonet")  # an older run
    told = []
    monkeypatch.setattr("matplotlib.axes.Axes.text", lambda self, x, y, text, **style: told.append(text))
    assert reliability(table_of(tmp_path / "runs"), tmp_path / "calibration.png")
    assert told == ["ECE 7.5%"]


# Calibration


def test_bins_by_hand(tmp_path):
    # Edges are fifteenths: 0.45 and 0.46 are in [6/15, 7/15), 1/3 begins [5/15, 6/15), 1 ends the last bin.
    confidence = np.array([0.45, 0.46, 1 / 3, 0.95, 1.0])
    right = np.array([True, False, False, True, True])
    found = Bins.from_predictions(confidence, right)
    count = [0] * 15
    count[5], count[6], count[14] = 1, 2, 2
    assert found.count.tolist() == count
    assert found.confidence[[5, 6, 14]] == pytest.approx([1 / 3, 0.455, 0.975])
    assert found.accuracy[[5, 6, 14]] == pytest.approx([0, 0.5, 1])
    assert np.isnan(found.confidence[0])
    assert calibration_error(found) == pytest.approx((1 / 3 + 2 * 0.045 + 2 * 0.025) / 5)
    write_calibration(tmp_path, found)
    rows = list(csv.DictReader((tmp_path / "calibration.csv").read_text().splitlines()))
    assert rows[6] == {"low": "0.4", "high": "0.466667", "count": "2", "confidence": "0.455", "accuracy": "0.5"}
    assert rows[0]["accuracy"] == ""
    again = read_bins(tmp_path / "calibration.csv")
    for name in ("count", "confidence", "accuracy"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))


def test_scores_give_the_bins_of_their_calibration_error():
    generator = torch.Generator().manual_seed(0)
    scores = Scores()
    logits = 3 * torch.randn(40, 100, 5, generator=generator)
    labels = torch.randint(5, (40, 100), generator=generator)
    accuracy = (logits.argmax(-1) == labels).float().mean(-1)
    for start in (0, 25):  # two batches
        part = slice(start, start + (25 if start == 0 else 15))
        episodes = SimpleNamespace(fingerprint=torch.arange(40)[part], query_y=labels[part])
        outputs = {"episodes": episodes, "accuracy": accuracy[part], "loss": accuracy[part], "logits": logits[part]}
        scores.on_test_batch_end(None, None, outputs, None, 0)
    scores.on_test_epoch_end(None, None)
    truth = MulticlassCalibrationError(num_classes=5, n_bins=15)(logits.softmax(-1).flatten(0, 1), labels.flatten())
    assert calibration_error(scores.calibration()) == pytest.approx(float(truth), abs=1e-6)
    assert scores.summary().ece == pytest.approx(float(truth), abs=1e-6)
    assert scores.calibration().count.sum() == 4000


def test_pooled_bins_are_those_of_all_predictions():
    generator = np.random.default_rng(1)
    confidence, right = generator.uniform(0.3, 0.8, 300), generator.uniform(size=300) < 0.5
    parts = [Bins.from_predictions(confidence[part], right[part]) for part in (slice(0, 20), slice(20, 300))]
    together, whole = pooled(parts), Bins.from_predictions(confidence, right)
    for name in ("count", "confidence", "accuracy"):
        np.testing.assert_allclose(getattr(together, name), getattr(whole, name))


@pytest.mark.parametrize("content", ["", "count,confidence\n1,0.5\n", "count,confidence,accuracy\nmany,0.5,0.5\n",
                                     "count,confidence,accuracy\n1,0.5,0.5\n"])  # fmt: skip
def test_malformed_bins_are_named(tmp_path, content):
    (make_run(tmp_path / "0") / "calibration.csv").write_text(content)
    with pytest.raises(UserError, match=r"calibration\.csv: not"):
        collect([tmp_path])


# Published numbers


def told(tmp_path: Path, **fields) -> str:
    """The published cell of a run on Omniglot 5-way 1-shot, if the table has one."""
    folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
    header, _, line = markdown(table_of(make_run(folder, **{"data": "omniglot"} | fields))).splitlines()[:3]
    return dict(zip(header.split(" | "), line.split(" | "), strict=True)).get("published", "none")


def test_published_numbers_join_by_data_task_and_method(tmp_path):
    assert told(tmp_path) == "98.7 ± 0.4"
    assert told(tmp_path, method="protonet") == "98.8"
    assert told(tmp_path, method="metagan") == "99.1 ± 0.3‡"  # recalled
    assert told(tmp_path, task={"name": "20w1s", "ways": 20, "shots": 1}) == "95.8 ± 0.3"
    assert told(tmp_path, data="mini_imagenet") == "48.7 ± 1.84"
    assert told(tmp_path, data="glyphs") == "none"
    assert told(tmp_path, method="nearest") == "none"
    assert told(tmp_path, task={"name": "3w5s", "ways": 3, "shots": 5}) == "none"
    five = {"name": "5w5s", "ways": 5, "shots": 5}
    assert told(tmp_path, data="cifar_fs", task=five) == "71.5 ± 1‡; 73.6"


def test_another_experiment_has_other_numbers(tmp_path):
    assert told(tmp_path, overrides=["method=maml", "backbone=mlp"]) == "89.7 ± 1.1"
    assert told(tmp_path, method="protonet", overrides=["backbone=mlp"]) == "none"
    blog = {"method": "metagan_fomaml", "task": {"name": "5w5s", "ways": 5, "shots": 5}}
    assert told(tmp_path, **blog, overrides=["experiment=blog_metagan"]) == "62.86"
    assert told(tmp_path, **blog) == "none"


def test_few_labels_have_their_own_numbers(tmp_path):
    soft = {"method": "soft_kmeans"}
    assert told(tmp_path, **soft) == "none"
    assert told(tmp_path, **soft, label_fraction=0.1) == "97.45 ± 0.05‡"
    assert told(tmp_path, method="protonet", label_fraction=0.1) == "94.62 ± 0.09‡"
    assert told(tmp_path, **soft, label_fraction=0.5) == "none"
    task = {"name": "5w1s", "ways": 5, "shots": 1, "distractors": 5}
    assert told(tmp_path, **soft, label_fraction=0.1, task=task) == "none"


def test_the_label_fraction_is_the_stated_one(tmp_path):
    make_run(tmp_path / "0", label_fraction=0.1)
    make_run(tmp_path / "1", label_fraction=0.5, overrides=["data.label_fraction=0.1"])
    make_run(tmp_path / "2")  # an older run
    assert [run.label_fraction for run in collect([tmp_path])[0]] == [0.1, 0.5, 1.0]
    make_run(tmp_path / "3", label_fraction="few")
    with pytest.raises(UserError, match=r"result\.json: not the result of a run"):
        collect([tmp_path / "3"])


def test_sources_and_doubts_are_footnotes(tmp_path):
    make_run(tmp_path / "0", data="omniglot")
    make_run(tmp_path / "1", HIGH, data="omniglot", method="protonet")
    text = markdown(table_of(tmp_path))
    assert "protocols differ" in text
    assert "Finn et al. 2017: MAML (conv)" in text
    assert "Snell et al. 2017 (as a secondary source quotes it): Prototypical networks" in text
    assert "‡" not in text
    make_run(tmp_path / "2", HIGH, data="omniglot", method="metagan")
    assert markdown(table_of(tmp_path)).splitlines()[-1].startswith("‡ Recalled, not seen")
    records = list(csv.DictReader(csv_text(table_of(tmp_path)).splitlines()))
    assert [record["published_provenance"] for record in records] == ["paper", "secondary", "recalled"]
    assert (records[2]["published"], records[2]["published_ci95"]) == ("0.991", "0.003")


def test_every_published_number_is_whole():
    numbers = literature.numbers()
    assert len(numbers) > 60
    for number in numbers:
        assert 0.3 < number.value < 1, number
        assert math.isnan(number.half_width) or 0 < number.half_width < 0.03, number
        assert number.provenance in ("paper", "secondary", "recalled"), number
        assert re.search(r"\d{4}$|blog|learn2learn", number.source), number
        assert re.fullmatch(r"(5|20)w[15]s", number.task), number
    keys = [(n.data, n.task, n.method, n.label_fraction, n.typed, n.source) for n in numbers]
    assert len(set(keys)) == len(keys)
    for number in numbers:
        if number.typed:  # a recipe that exists, else nobody can type it
            group, _, choice = number.typed.partition("=")
            assert (ROOT / "conf" / group / f"{choice}.yaml").is_file(), number


def test_the_package_carries_its_data():
    text = (ROOT / "pyproject.toml").read_text()
    patterns = yaml.safe_load(re.search(r"^fewshot = (\[.*\])$", text, re.MULTILINE)[1])
    package = ROOT / "src/fewshot"
    carried = {file for pattern in patterns for file in package.glob(pattern)}
    assert {package / "report/published.yaml", package / "report/page.html"} <= carried


# LaTeX


def test_latex_by_letter(tmp_path):
    make_run(tmp_path / "0", HIGH, data="omniglot", bn="support", method="protonet")
    make_run(tmp_path / "1", LOW, data="omniglot", bn="transductive", method="metagan")
    text = latex(table_of(tmp_path))
    assert [line for line in text.splitlines() if line.endswith(r"\\")] == [
        r"run & accuracy & published & difference & p \\",
        r"protonet bn=support & 53.33 $\pm$ 57.37 & 98.8 & reference &  \\",
        r"metagan bn=transductive & 40.00 $\pm$ 49.68 & 99.1 $\pm$ 0.3$^\ddagger$ & $-$13.33 $\pm$ 28.68$^\dagger$ "
        r"& 0.184 \\",
    ]
    for command in ("toprule", "midrule", "bottomrule"):
        assert text.count(rf"\{command}") == 1
    assert r"\begin{tabular}{lrrrr}" in text
    assert r"\caption{Test accuracy: omniglot 5w1s}" in text


def test_latex_escapes_what_it_would_read(tmp_path):
    make_run(tmp_path / "0", LOW, method=r"a_b & 50% #1 $x$ {y} ~ ^ \end <z>")
    make_run(tmp_path / "1", HIGH, data="gl_yphs")
    text = latex(table_of(tmp_path))
    label = r"a\_b \& 50\% \#1 \$x\$ \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}end $<$z$>$ glyphs & "
    assert r"\raggedright " + label in text  # long, so it may wrap
    assert r"gl\_yphs 5w1s" in text
    assert text.isascii()
    # Two groups, each under its rule.
    assert text.count(r"\midrule") == 2
