"""What is typed replaces what a recipe or a checkpoint says."""

import pytest
from omegaconf import OmegaConf

from fewshot.command.settings import apply_typed_budget, replace_typed
from fewshot.errors import UserError


@pytest.mark.parametrize(
    ("typed", "budget"),
    [
        (["trainer.max_time=1"], (-1, "recipe")),
        (["trainer.max_steps=20"], (500, None)),
        (["trainer.max_steps=20", "trainer.max_time=1"], (500, "recipe")),
        (["seed=1"], (500, "recipe")),
    ],
)
def test_a_typed_budget_replaces_the_recipes(typed, budget):
    cfg = OmegaConf.create({"trainer": {"max_steps": 500, "max_time": "recipe"}})
    apply_typed_budget(cfg, typed)
    assert (cfg.trainer.max_steps, cfg.trainer.max_time) == budget


STORED = {
    "task": {"ways": 5, "shots": 1, "train_ways": 20, "meta_batch": 3},
    "backbone": {"width": 64},
    "method": {"rate": 0.4, "ways": "${task.ways}"},
    "choices": {"task": "5w1s", "method": "maml", "backbone": "conv4"},
}
COMPOSED = {
    "task": {"ways": 20, "shots": 5, "train_ways": "${task.ways}", "meta_batch": 8},
    "backbone": {"width": 32},
    "method": {"rate": 0.1, "ways": "${task.ways}"},
}


def merged(choices: dict[str, str], *overrides: str):
    return replace_typed(OmegaConf.create(STORED), OmegaConf.create(COMPOSED), choices, overrides)


def test_nothing_typed_is_the_checkpoints_settings():
    cfg = merged({"task": "20w5s"}, "checkpoint=x")
    assert {key: value for key, value in cfg.items() if key != "checkpoint"} == OmegaConf.create(STORED)


def test_a_typed_group_replaces_the_task_but_not_the_training_numbers():
    cfg = merged({"task": "20w5s"}, "task=20w5s", "method.rate=0.1")
    assert (cfg.task.ways, cfg.task.shots, cfg.task.train_ways, cfg.task.meta_batch) == (20, 5, 20, 3)
    assert (cfg.method.rate, cfg.method.ways, cfg.choices.task) == (0.1, 20, "20w5s")


@pytest.mark.parametrize(
    ("choices", "typed"),
    [({"method": "protonet"}, "method=protonet"), ({"backbone": "mlp"}, "backbone=mlp"), ({}, "backbone.width=32")],
)
def test_another_method_or_network_contradicts(choices, typed):
    with pytest.raises(UserError, match="contradicts the checkpoint"):
        merged(choices, typed)


def test_the_same_method_typed_again_is_fine():
    assert merged({"method": "maml"}, "method=maml").method.rate == 0.4
