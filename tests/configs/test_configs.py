"""Check that every config composes, and builds the method that its name says."""

import re
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

import fewshot.command.run_folder  # noqa: F401 - resolvers of conf/config.yaml
from fewshot.data import Task
from fewshot.engines import VmapEngine
from fewshot.methods import ProtoNet
from methods_table import METHODS, build
from settings_of import choosing

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"


def names(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def composed(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


@pytest.mark.parametrize("method", names("method"))
@pytest.mark.parametrize("data", ["glyphs", "omniglot"])
def test_methods_build_on_every_data_set(method, data):
    cfg = composed(f"method={method}", f"data={data}")
    built = instantiate(cfg.method)
    assert type(built) is type(build(method, VmapEngine()))
    if METHODS[method].host:
        assert type(built.host) is type(build(METHODS[method].host, VmapEngine()))
    x = torch.rand(5, cfg.data.channels, cfg.data.image_size, cfg.data.image_size)
    network = built.network.backbone if hasattr(built.network, "backbone") else built.network
    assert network(x).shape == (5, built.features if METHODS[method].trains else x[0].numel())


# transformers lies apart from the other packages: tests/unit/test_transformers_backbone.py
@pytest.mark.parametrize("backbone", [name for name in names("backbone") if name != "transformers"])
@pytest.mark.parametrize("method", ["maml", "protonet", "matching"])
def test_backbones_fit_methods(backbone, method):
    named = ["backbone.name=mobilenetv3_small_050", "backbone.weights=null"] if backbone == "timm" else []
    assert instantiate(composed(f"method={method}", f"backbone={backbone}", *named).method).features > 0


@pytest.mark.parametrize("task", names("task"))
@pytest.mark.parametrize("method", names("method"))
def test_tasks_are_valid(task, method):
    cfg = composed(f"task={task}", f"method={method}")
    numbers = Task(**cfg.task)
    assert numbers.name == task == f"{numbers.ways}w{numbers.shots}s"
    assert (numbers.queries, numbers.test_episodes, numbers.val_episodes) == (15, 1000, 200)


@pytest.mark.parametrize("data", names("data"))
def test_data_sets_build(data):
    cfg = composed(*choosing(data))
    assert callable(instantiate(cfg.data.dataset).load)
    assert cfg.data.name == data


@pytest.mark.parametrize("experiment", names("experiment"))
def test_experiments_compose_and_build(experiment):
    cfg = composed(f"experiment={experiment}")
    assert instantiate(cfg.method).features > 0
    assert callable(instantiate(cfg.data.dataset).load)
    Task(**cfg.task)


def parts(file: str) -> tuple[str, str, str]:
    """Return the data set, the task and the method that the name of a tuned file is made of."""
    (data,) = (name for name in names("data") if file.startswith(f"{name}_"))
    task, method = file.removeprefix(f"{data}_").split("_", 1)
    return data, task, method


def test_names_of_tuned_files_with_underscores_are_understood():
    assert parts("cifar_fs_5w5s_metagan_protonet") == ("cifar_fs", "5w5s", "metagan_protonet")
    assert parts("mini_imagenet_5w1s_maml") == ("mini_imagenet", "5w1s", "maml")


@pytest.mark.parametrize("file", names("tuned"))
def test_tuned_files_are_found_by_the_plain_command(file):
    data, task, method = parts(file)
    cfg = composed(f"data={data}", f"task={task}", f"method={method}")
    own = OmegaConf.load(CONF / "tuned" / f"{file}.yaml")
    for key in ("task", "method", "trainer"):
        for name, value in (own.get(key) or {}).items():
            if not OmegaConf.is_dict(value):
                assert cfg[key][name] == value, f"{key}.{name}"


def test_recipes_differ_from_maml_in_one_option():
    maml = OmegaConf.to_container(composed("method=maml", "task=20w5s").method)
    for recipe, change in (
        ("fomaml", {"second_order": False}), ("anil", {"adapt": "head"}),
        ("boil", {"adapt": "body"}), ("meta_sgd", {"learn_rates": True}),
    ):  # fmt: skip
        assert OmegaConf.to_container(composed(f"method={recipe}", "task=20w5s").method) == maml | change


def test_the_host_of_metagan_is_chosen_by_config():
    by_group = composed("method=metagan", "method@method.host=protonet", "task=20w5s")
    by_recipe = composed("method=metagan_protonet", "task=20w5s")
    assert by_group.method.host == by_recipe.method.host
    assert by_group.task == by_recipe.task
    assert isinstance(instantiate(by_group.method).host, ProtoNet)


def test_folders_are_named_by_date_or_by_name():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain = compose("config", return_hydra_config=True)
        named = compose("config", overrides=["name=abc"], return_hydra_config=True)
    assert re.fullmatch(r"outputs/\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", plain.hydra.run.dir)
    assert re.fullmatch(r"multirun/\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", plain.hydra.sweep.dir)
    assert (named.hydra.run.dir, named.hydra.sweep.dir) == ("outputs/abc", "multirun/abc")


def test_typed_values_win_over_recipes():
    cfg = composed("method=protonet", "task.train_ways=7", "backbone=conv4", "method.optimizer.lr=0.5")
    assert (cfg.task.train_ways, cfg.backbone.stride, cfg.method.optimizer.lr) == (7, True, 0.5)
    assert composed("method=protonet", "train_task=same").task.train_ways == 5


def test_nearest_neighbour_takes_the_backbone_where_it_comes_trained_and_pixels_otherwise():
    assert composed("method=nearest", "backbone.width=8").method.backbone is None
    assert composed("method=nearest", "data=gaussians").method.backbone is None
    pretrained = composed("method=nearest", "backbone=efficientnet_lite0").method.backbone
    assert pretrained._target_ == "fewshot.networks.efficientnet_lite0"
