"""MetaGAN around every host trains on glyphs; what a user can get wrong about unlabelled images ends in one line."""

import pytest
from test_run import assert_one_line_error, environment, result, rows, run  # noqa: F401

from methods_table import METHODS, RECIPES

HOSTS = [name for name in RECIPES if METHODS[name].host]


@pytest.mark.thorough
def test_every_host_trains_on_one_shot_and_on_five(run, tmp_path):  # noqa: F811
    """On the same test episodes as its host, and with a record of what D makes of the fakes."""
    done = run("-m", f"method={','.join(HOSTS)}", "task=5w1s,5w5s", "figures=false", "task.test_episodes=4",
               "task.val_episodes=2", f"hydra.sweep.dir={tmp_path}")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    seen: dict[int, set] = {1: set(), 5: set()}
    for number in range(2 * len(HOSTS)):
        told = result(tmp_path / str(number))
        assert told["train"]["steps"] == 6
        seen[told["task"]["shots"]].add(tuple(row["fingerprint"] for row in rows(tmp_path / str(number))))
        header = (tmp_path / str(number) / "metrics.csv").read_text().splitlines()[0].split(",")
        assert {"train/real_accuracy", "train/fake_accuracy", "train/fake_diversity"} <= set(header)
    assert {shots: len(prints) for shots, prints in seen.items()} == {1: 1, 5: 1}


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["task.distractors=700"], ["700 distractors", "task.distractors"]),
        (["task.unlabeled=30"], ["30 images without labels", "task.unlabeled"]),
        (["data.label_fraction=0"], ["data.label_fraction=0", "must be a number above 0 to 1"]),
        (["data.label_fraction=1.5"], ["data.label_fraction=1.5"]),
        (["method=metagan", "method@method.host=nearest"], ["NearestNeighbour", "cannot be the host"]),
        (["method=soft_kmeans"], ["task.unlabeled"]),
    ],
)
def test_mistakes_about_unlabelled_images_and_hosts_are_named(run, tmp_path, typed, words):  # noqa: F811
    assert_one_line_error(run(*typed, folder=tmp_path / "out"), *words)
