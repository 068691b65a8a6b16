"""The experiment that draws what MetaGAN does to a decision boundary."""

import numpy as np
from test_run import environment, result, run  # noqa: F401


def test_one_command_trains_both_and_draws_them_side_by_side(run, tmp_path):  # noqa: F811
    sweep = tmp_path / "sweep"
    few = ("trainer.max_steps=4", "trainer.val_check_interval=2", "trainer.log_every_n_steps=2", "task.meta_batch=2")
    few = (*few, "task.val_episodes=4", "task.test_episodes=8")
    done = run("experiment=metagan_2d", *few, f"hydra.sweep.dir={sweep}", small=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [result(sweep / str(number))["method"] for number in (0, 1)] == ["maml", "metagan"]
    for number in (0, 1):
        for name in ("boundary.png", "boundary.npz", "learning_curves.png"):
            assert (sweep / str(number) / "figures" / name).is_file()
    assert (sweep / "boundaries.png").is_file()
    without, with_fakes = (np.load(sweep / str(number) / "figures/boundary.npz") for number in (0, 1))
    assert set(with_fakes) - set(without) == {"real", "generated"}
    for name in ("support_x", "support_y", "query_x", "query_y"):
        assert np.array_equal(without[name], with_fakes[name])  # the same tasks
    assert with_fakes["real"].shape == with_fakes["probabilities"].shape[:3]
    assert ((with_fakes["generated"] >= 0) & (with_fakes["generated"] <= 1)).all()
