"""Lake's one-shot runs: one image a character and drawer, all of one alphabet, as files."""

import csv
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from experiments.lake_one_shot.write_runs import main, write_runs
from PIL import Image

from fewshot.errors import UserError


@pytest.fixture(scope="module")
def runs(omniglot_root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lake") / "runs"
    write_runs(omniglot_root, folder)
    return folder


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "runs.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_twenty_runs_of_twenty_characters_by_two_drawers(runs, omniglot_root):
    rows = table(runs)
    assert [row["run"] for row in rows] == [f"run{n:02}" for n in range(1, 21)]
    assert Counter(Counter(row["alphabet"] for row in rows).values()) == {2: 10}
    with zipfile.ZipFile(omniglot_root / "images_evaluation.zip") as archive:
        for row in rows:
            support, query = (
                {f.parent.name: f for f in (runs / row["run"] / part).glob("*/*")} for part in ("support", "query")
            )
            assert len(list((runs / row["run"]).rglob("*.png"))) == 40
            assert len(support) == 20
            assert set(support) == set(query)
            for part, files in (("support", support), ("query", query)):
                for character, file in files.items():
                    assert file.stem.split("_")[1] == row[f"{part}_drawer"]
                    member = f"images_evaluation/{row['alphabet']}/{character}/{file.name}"
                    assert file.read_bytes() == archive.read(member)
            assert Image.open(file).size == (105, 105)
    for alphabet in {row["alphabet"] for row in rows}:
        drawers = [
            row[key] for row in rows if row["alphabet"] == alphabet for key in ("support_drawer", "query_drawer")
        ]
        assert len(set(drawers)) == 4


def test_a_seed_names_the_runs(runs, omniglot_root, tmp_path, capsys):
    main([f"output={tmp_path / 'same'}", f"root={omniglot_root}"])
    assert "20 runs of 20 characters" in capsys.readouterr().out
    files = sorted(path.relative_to(runs) for path in runs.rglob("*.*"))
    assert files == sorted(path.relative_to(tmp_path / "same") for path in (tmp_path / "same").rglob("*.*"))
    write_runs(omniglot_root, tmp_path / "other", seed=1)
    assert table(tmp_path / "other") != table(runs)


def test_the_images_are_those_that_a_network_was_tested_on(runs, omniglot_root):
    """Decoded with ``invert`` they are Omniglot's pixels, strokes bright."""
    from fewshot.data.images import decode_all

    files = sorted((runs / "run01").rglob("*.png"))
    images, left_out = decode_all(files, 1, 28, invert=True)
    assert not left_out
    assert images.shape == (40, 1, 28, 28)
    assert 0.02 < np.mean(images / 255) < 0.25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "give output=DIR"), (["output=x", "sed=1"], "give output=DIR"), (["output=x", "seed=a"], "seed=NUMBER")],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(UserError, match=message):
        main(arguments)


def test_a_folder_in_use_and_a_missing_archive_are_refused(tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "a").touch()
    with pytest.raises(UserError, match="is not empty"):
        write_runs(tmp_path, tmp_path / "used")
    with pytest.raises(UserError, match="Omniglot is not there"):
        write_runs(tmp_path, tmp_path / "new", download=False)
