"""Settings that no run can use are refused in one line, before anything runs."""

from copy import deepcopy

import pytest

from fewshot.command.check_settings import check_settings
from fewshot.errors import UserError
from settings_of import choosing, names, places, resolved_settings


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("method.inner_rate=fast", "method.inner_rate=fast: must be a number"),
        ("method.inner_rate=-0.1", "method.inner_rate=-0.1: must be a number of at least 0"),
        ("method.optimizer.lr=fast", "method.optimizer.lr=fast: must be a number"),
        ("method.optimizer.lr=-1", "method.optimizer.lr=-1: must be a number of at least 0"),
        ("method.optimizer.lr=nan", "method.optimizer.lr=nan: must be a number of at least 0"),
        ("method.optimizer.lr=null", "method.optimizer.lr=null: must be a number of at least 0"),
        ("method.optimizer.lr=true", "method.optimizer.lr=true: must be a number of at least 0"),
        ("+method.optimizer.betas=[0.9]", r"method.optimizer.betas=\[0.9\]: must be a list of 2 numbers from 0 to 1"),
        ("+method.optimizer.momentum=0.9", "method.optimizer.momentum: Adam has no such setting"),
        ("+method.optimizer.betas=[0.9,1]", "method.optimizer: Invalid beta parameter at index 1: 1"),
        ("method.steps=1.5", "method.steps=1.5: must be a whole number from 1"),
        ("method.steps=true", "method.steps=true: must be a whole number from 1"),
        ("method.clip_norm=-1", "method.clip_norm=-1: must be a number above 0, or null"),
        ("method.engine=null", "method.engine=null: must be the settings of a Engine"),
        ("method.second_order=maybe", "method.second_order=maybe: must be true or false"),
        ("+method.stepz=3", "method.stepz: MAML has no such setting"),
        ("backbone.width=wide", "^backbone.width=wide: must be a whole number"),
        ("backbone.width=[8,0]", r"^backbone.width=\[8, 0\]: must be a whole number"),
        ("trainer.devices=[]", r"trainer.devices=\[\]: must be a number of at least 1"),
        ("engine.chunk=all", "^engine.chunk=all: must be a whole number of at least 1, or null"),
        ("engine.chunk=1.5", "^engine.chunk=1.5: must be a whole number of at least 1, or null"),
        ("seed=-1", "^seed=-1: must be a whole number from 0 to 4294967295"),
        ("seed=4294967296", "^seed=4294967296: must be a whole number from 0 to 4294967295"),
        ("seed=1.5", "^seed=1.5: must be a whole number"),
        ("seed=abc", "^seed=abc: must be a whole number"),
        ("seed=null", "^seed=null: must be a whole number"),
        ("figures=3", "^figures=3: must be true or false"),
        ("+sead=1", "^sead: there is no such setting"),
        ("task.test_seed=1.5", "task.test_seed=1.5: must be a whole number"),
        ("task.ways=true", "task.ways=true: must be a whole number"),
        ("+task.nways=3", "task.nways: Task has no such setting"),
        ("data.mean=inf", "data.mean=inf: must be a number from -1000000 to 1000000"),
        ("data.std=0", "data.std=0: must not be 0"),
        ("data.rotations=3", "^data.rotations=3: must be true or false, or a text"),
        ("data.image_size=100000", "^data.image_size=100000: must be a whole number from 1 to 1024"),
        ("data.label_fraction=0", "data.label_fraction=0: must be a number above 0 to 1"),
        ("trainer.precision=16-true", "trainer.precision=16-true: choose one of 32-true, bf16-mixed"),
        ("trainer.precision=64-true", "trainer.precision=64-true: choose one of 32-true, bf16-mixed"),
        ("trainer.precision=64", "trainer.precision=64: choose one of 32-true, bf16-mixed"),
        ("trainer.devices=0", "trainer.devices=0: must be a number of at least 1, -1 for all"),
        ("trainer.devices=abc", "trainer.devices=abc: must be a whole number"),
        ("trainer.devices={}", r"trainer.devices=\{\}: must be "),
        ("+method.optimizer.betas={a: 1}", r"method.optimizer.betas=\{a: 1\}: must be a list of 2 numbers"),
        ("trainer.devices=[0,0]", r"trainer.devices=\[0, 0\]: must be a number of at least 1"),
        ("trainer.max_steps=1.5", "trainer.max_steps=1.5: must be a whole number"),
        ("trainer.max_steps=0", r"trainer.max_steps=0: must be at least 1 \(train=false trains nothing\)"),
        ("trainer.max_steps=-1", "training would never end: give it a budget, trainer.max_steps=5000 or trainer.max_t"),
        ("trainer.max_time=00:00:00:00", "trainer.max_time=00:00:00:00: must be above 0"),
        ("trainer.max_time=20", "trainer.max_time=20: must be DD:HH:MM:SS"),
        ("trainer.max_time=later", "trainer.max_time=later: must be DD:HH:MM:SS, such as 00:00:20:00"),
        ("trainer.val_check_interval=0", "trainer.val_check_interval=0: must be a whole number from 1"),
        ("trainer.val_check_interval=0.5", "trainer.val_check_interval=0.5: must be a whole number from 1"),
        ("trainer.log_every_n_steps=0", "trainer.log_every_n_steps=0: must be a whole number from 1"),
        ("logger.csv=null", "logger.csv=null: must be the settings of a class"),
    ],
)
def test_a_value_that_no_run_can_use_is_one_line(typed, message):
    with pytest.raises(UserError, match=message) as refused:
        check_settings(resolved_settings("method=maml", typed))
    assert "\n" not in str(refused.value)


def test_a_run_without_training_needs_no_budget():
    check_settings(resolved_settings("train=false", "trainer.max_steps=-1"))


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("data.shares.val=2x", "^data.shares.val=2x: must be a number of at least 0$"),
        ("data.shares.val=null", "^data.shares.val=null: must be a number of at least 0$"),
        ("data.dataset.least.train=[1,-5]", r"^data.dataset.least=.*: must be "),
        ("data.shares=3", r"^data.shares=3: must be a mapping \{KEY: VALUE\}"),
        ("data.root=3", "^data.root=3: must be a text"),
    ],
)
def test_a_wrong_value_in_a_mapping_is_named_as_typed(typed, message):
    with pytest.raises(UserError, match=message):
        check_settings(resolved_settings("data=folder", *([] if "root" in typed else ["data.root=a"]), typed))


@pytest.mark.parametrize("method", names("method"))
def test_every_method_passes(method):
    check_settings(resolved_settings(f"method={method}"))


@pytest.mark.parametrize("experiment", names("experiment"))
def test_every_experiment_passes(experiment):
    check_settings(resolved_settings(f"experiment={experiment}"))


@pytest.mark.parametrize(("group", "choice"), [(g, c) for g in ("backbone", "engine", "trainer") for c in names(g)])
def test_every_choice_passes(group, choice):
    check_settings(resolved_settings(f"{group}={choice}"))


@pytest.mark.parametrize("data", names("data"))
def test_every_data_set_passes(data):
    check_settings(resolved_settings(*choosing(data)))


def test_a_budget_in_time_and_all_loggers_pass():
    check_settings(resolved_settings("logger=[csv,tensorboard,wandb]", "trainer.max_time=00:00:01:00"))


def test_no_number_of_any_config_may_be_nan_or_infinite_or_text():
    """Also of configs that are new: each distinct key once, in the first recipe that has it."""
    recipes = [(f"method={method}",) for method in names("method")]
    recipes += [(f"backbone={backbone}",) for backbone in names("backbone")]
    recipes += [choosing(data) for data in names("data")]
    recipes += [(f"experiment={experiment}",) for experiment in names("experiment")]
    recipes += [("trainer=ddp",)]
    recipes += [("logger=[csv,tensorboard,wandb]", "trainer.max_time=00:00:01:00")]
    seen = set()
    for recipe in recipes:
        settings = resolved_settings(*recipe)
        for path in places(settings):
            if path[-1] in seen:
                continue
            seen.add(path[-1])
            for value in (float("nan"), float("inf"), "abc"):
                changed = deepcopy(settings)
                node = changed
                for key in path[:-1]:
                    node = node[key]
                node[path[-1]] = value
                with pytest.raises(UserError, match=r"must be|choose one of|Invalid"):
                    check_settings(changed)
    assert {"seed", "ways", "inner_rate", "lr", "width", "noise", "max_steps", "shots"} <= seen
