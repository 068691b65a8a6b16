"""The recipes of the blog and of the notebook: networks counted by hand, padding, first weights, settings."""

import math
import os
import re
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy import stats
from torch import nn

from fewshot import checkpoint
from fewshot.data import EpisodeData, EpisodeSampler, Task
from fewshot.engines import VmapEngine
from fewshot.errors import UserError
from fewshot.methods import MAML
from fewshot.networks import Generator, conv4, keras_metagan, l2l_omniglot
from fewshot.networks.norm_layers import batch_norms
from synthetic_data import synthetic_split

ROOT = Path(__file__).parents[2]
NOTEBOOK = ("notebook_maml_cnn", "notebook_fomaml_cnn", "notebook_fomaml_fc")
RECIPES = ("blog_metagan", *NOTEBOOK)


def composed(experiment: str):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=[f"experiment={experiment}"])


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def conv(before: int, after: int, kernel: int = 3) -> int:
    return before * after * kernel**2 + after


def dense(before: int, after: int) -> int:
    return before * after + after


# Networks


def test_networks_have_the_published_sizes():
    metagan = instantiate(composed("blog_metagan").method)
    norms = 4 * 2 * 64
    assert parameters(metagan.host) == conv(1, 64) + 3 * conv(64, 64) + norms + dense(2 * 2 * 64, 5) == 113_221
    widths = [1, 64, 64, 128, 128, 256, 256]
    convs = sum(conv(a, b) for a, b in pairwise(widths))
    assert parameters(metagan.encoder) == convs + dense(4 * 4 * 256, 256) == 2_193_088
    convs = conv(256, 128, 5) + conv(128, 64, 5) + conv(64, 1, 5)
    assert parameters(metagan.generator) == dense(100 + 256, 7 * 7 * 256) + convs == 5_504_001
    cnn = conv(1, 128) + 2 * conv(128, 128) + 3 * 2 * 128 + dense(128, 5)
    for recipe in NOTEBOOK[:2]:
        assert parameters(instantiate(composed(recipe).method)) == cnn == 297_861
    widths = [784, 256, 128, 64, 64]
    fc = sum(dense(a, b) + 2 * b for a, b in pairwise(widths)) + dense(64, 5)
    assert parameters(instantiate(composed("notebook_fomaml_fc").method)) == fc == 247_621


@pytest.mark.parametrize(
    ("side", "stride", "wanted"),
    [
        # Of 3x3 ones over the numbers 0, 1, 2, ...: an even side has its zeros right and below only,
        (4, 2, [[0 + 1 + 2 + 4 + 5 + 6 + 8 + 9 + 10, 2 + 3 + 6 + 7 + 10 + 11],
                [8 + 9 + 10 + 12 + 13 + 14, 10 + 11 + 14 + 15]]),
        # an odd side on all sides,
        (3, 2, [[0 + 1 + 3 + 4, 1 + 2 + 4 + 5], [3 + 4 + 6 + 7, 4 + 5 + 7 + 8]]),
        # and so has every side at stride 1.
        (2, 1, [[6, 6], [6, 6]]),
    ],
)  # fmt: skip
def test_padding_is_that_of_tensorflow(side, stride, wanted):
    layer = keras_metagan.SameConv2d(1, 1, 3, stride)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    assert layer(torch.arange(float(side**2)).view(1, 1, side, side)).tolist() == [[wanted]]


def test_the_classifier_sees_the_first_corner_not_the_last():
    """With its zeros right and below, the first filter sits on the first pixels; padding by 1 would shift it."""
    body = keras_metagan.classifier_body(1, 28)
    first = body.layers[0]
    with torch.no_grad():
        first.weight.zero_()
        first.weight[:, :, 0, 0] = 1
    x = torch.rand(1, 1, 28, 28)
    assert torch.equal(first(x)[0, 0], x[0, 0, ::2, ::2])
    assert body(x).shape == (1, 256)


@pytest.mark.parametrize(
    ("make", "factor"),
    [(keras_metagan.generator, 0.3 * 0.3), (Generator, 0.2 * 0.2 * 0.2)],  # the blog's dense layer is linear
)
def test_what_the_generator_does_to_a_negative_number(make, factor):
    generator = make(1, 8, condition=1, noise=1, width=1)
    with torch.no_grad():
        for layer in (generator.dense, *generator.convs):
            layer.weight.zero_()
            layer.bias.zero_()
        generator.dense.weight[:, 0] = -2.0
        for layer in generator.convs:
            layer.weight[0, 0, 2, 2] = 1.0
        image = generator(torch.tensor([[0.7]]), torch.zeros(1))
    torch.testing.assert_close(image, torch.full((1, 1, 8, 8), math.tanh(-2.0 * 0.7 * factor)))


def test_the_task_encoder_is_a_mean_over_images():
    encoder = keras_metagan.task_encoder(1, 28)
    x = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(encoder(x), torch.stack([encoder(one[None]) for one in x]).mean(0))
    sizes = []
    for layer in encoder.layers:
        x = layer(x)
        sizes += [tuple(x.shape[1:])] if isinstance(layer, nn.Conv2d) else []
    assert sizes == [(64, 28, 28), (64, 14, 14), (128, 14, 14), (128, 7, 7), (256, 7, 7), (256, 4, 4)]
    slopes = [layer.negative_slope for layer in encoder.layers if isinstance(layer, nn.LeakyReLU)]
    assert slopes == [0.3] * 7


# First weights


def assert_glorot(layer: nn.Module) -> None:
    weight = layer.weight.detach()
    taps = math.prod(weight.shape[2:])
    limit = math.sqrt(6 / (taps * (weight.shape[0] + weight.shape[1])))
    assert 0.95 * limit < float(weight.abs().max()) <= limit * (1 + 1e-6)
    assert float(weight.std()) == pytest.approx(limit / math.sqrt(3), rel=0.1)
    assert not layer.bias.any()


def test_the_blog_starts_as_keras_does():
    metagan = instantiate(composed("blog_metagan").method)
    for layer in (layer for layer in metagan.modules() if isinstance(layer, nn.Conv2d | nn.Linear)):
        assert_glorot(layer)
    assert [norm.eps for norm in batch_norms(metagan)] == [1e-3] * 4
    assert all((norm.weight == 1).all() and not norm.bias.any() for norm in batch_norms(metagan))


@pytest.mark.parametrize("recipe", NOTEBOOK[:2])
def test_the_notebooks_cnn_starts_as_learn2learn_does(recipe):
    learner = instantiate(composed(recipe).method).classifier
    for layer in learner.backbone.modules():
        if isinstance(layer, nn.Conv2d):
            assert_glorot(layer)
    scales = torch.cat([norm.weight.detach() for norm in batch_norms(learner)])
    assert stats.kstest(scales.numpy(), "uniform").pvalue > 1e-3
    assert {norm.eps for norm in batch_norms(learner)} == {1e-5}
    assert stats.kstest(learner.head.weight.detach().flatten().numpy(), "norm").pvalue > 1e-3
    assert not learner.head.bias.any()


def test_the_notebooks_fc_starts_as_learn2learn_does():
    learner = instantiate(composed("notebook_fomaml_fc").method).classifier
    cut = stats.truncnorm(-2, 2, scale=0.01)
    layers = [layer for layer in learner.modules() if isinstance(layer, nn.Linear)]
    for layer in layers:
        assert float(layer.weight.detach().abs().max()) <= 0.02
        assert stats.kstest(layer.weight.detach().flatten()[:5000].numpy(), cut.cdf).pvalue > 1e-3
        assert not layer.bias.any()
    assert len(layers) == 5
    assert {norm.eps for norm in batch_norms(learner)} == {1e-3}
    assert all((norm.weight == 1).all() for norm in batch_norms(learner))


def test_a_head_starts_near_zero_unless_a_recipe_says_otherwise():
    backbone = partial(l2l_omniglot.omniglot_fc, 1, 8, (400,))
    settings = {"inner_rate": 0.1, "steps": 1, "test_steps": 1, "engine": VmapEngine(), "bn": "transductive"}
    assert float(MAML(backbone(), 5, **settings).classifier.head.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    ones = MAML(backbone(), 5, head_init=nn.init.ones_, **settings)
    assert (ones.classifier.head.weight == 1).all()


# Settings


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_name_their_command_and_folder(recipe):
    lines = (ROOT / f"conf/experiment/{recipe}.yaml").read_text().splitlines()
    assert lines[:2] == ["# @package _global_", f"# python run.py experiment={recipe}"]
    assert composed(recipe).name == recipe


def test_the_blogs_numbers():
    cfg = composed("blog_metagan")
    task, method = Task(**cfg.task), instantiate(cfg.method)
    assert (cfg.data.split, cfg.data.resize, cfg.data.rotations, cfg.data.eval_rotations) == (
        "background", "bilinear", "random", False,
    )  # fmt: skip
    assert (task.train_ways, task.train_shots, task.train_queries, task.meta_batch) == (5, 5, 15, 32)
    assert (task.ways, task.shots, task.queries, task.test_episodes, task.val_episodes) == (5, 5, 15, 659 // 5, 0)
    assert (task.train_draw, task.draw) == ("passes", "in_order")
    assert cfg.trainer.max_steps == 100 * (964 // 5 // 32)
    host = method.host
    assert (host.inner_rate, host.steps, host.test_steps, host.second_order) == (0.1, 5, 5, False)
    assert (method.bn, method.sum_tasks, host.sum_tasks, method.generator_loss) == (
        "transductive", True, True, "feature_matching",
    )  # fmt: skip
    assert (method.inner_real, method.inner_fake, method.outer_real, method.outer_fake) == (1, 1, 1, 1)
    assert (method.inner_fakes, method.outer_fakes, method.inner_from, method.generator_every) == (None, 75, 0, 1)
    assert (method.fake_head, method.generator.noise, method.encoder.features) == (None, 100, 256)
    for optimizer in method.configure_optimizers():
        assert type(optimizer) is torch.optim.Adam
        settings = optimizer.defaults
        assert (settings["lr"], tuple(settings["betas"]), settings["eps"]) == (1e-3, (0.5, 0.9), 1e-7)
    assert [schedule(300, 0.5) for schedule in method.schedules()] == [1, 1]


def test_the_blogs_images_are_dark_strokes_on_white_in_minus_one_to_one():
    data = composed("blog_metagan").data
    split = synthetic_split()
    split.images[:] = torch.tensor([0, 51, 255, 255], dtype=torch.uint8).repeat(16).view(8, 8)  # ink
    x = EpisodeSampler(split, 5, 5, 5, seed=0, mean=data.mean, std=data.std)(torch.arange(1)).query_x
    on_white = 255 - split.images[0].float()
    torch.testing.assert_close(x[0, 0], (on_white - 127.5) / 127.5)


@pytest.mark.parametrize(
    ("recipe", "second_order", "steps", "backbone"),
    [
        ("notebook_maml_cnn", True, 120, "omniglot_cnn"),
        ("notebook_fomaml_cnn", False, 120, "omniglot_cnn"),
        ("notebook_fomaml_fc", False, 1000, "omniglot_fc"),
    ],
)
def test_the_notebooks_numbers(recipe, second_order, steps, backbone):
    cfg = composed(recipe)
    task, method = Task(**cfg.task), instantiate(cfg.method)
    assert cfg.backbone._target_.rpartition(".")[2] == backbone
    assert (cfg.data.split, cfg.data.resize, cfg.data.rotations, cfg.data.eval_rotations) == (
        "random", "lanczos", "random", "random",
    )  # fmt: skip
    assert (cfg.data.mean, cfg.data.std) == (0, 1)
    assert (task.train_ways, task.train_shots, task.train_queries, task.meta_batch) == (5, 5, 5, 32)
    assert (task.ways, task.shots, task.queries, task.test_episodes, task.val_episodes) == (5, 5, 5, 1000, 0)
    assert (task.train_draw, task.draw, task.train_distinct) == ("independent", "independent", 5000)
    assert (method.inner_rate, method.steps, method.test_steps, method.second_order) == (0.1, 1, 1, second_order)
    assert (method.bn, method.sum_tasks, cfg.trainer.max_steps) == ("transductive", True, steps)
    (optimizer,) = method.configure_optimizers()
    assert type(optimizer) is torch.optim.Adam
    assert (optimizer.defaults["lr"], optimizer.defaults["eps"]) == (0.01, 1e-8)
    assert method.schedule(60, 0.5) == 1


def test_first_order_continues_from_the_second_order_run():
    first, second = composed("notebook_maml_cnn"), composed("notebook_fomaml_cnn")
    assert second.weights == f"outputs/{first.name}/checkpoints/last.ckpt"
    assert second.seed != first.seed  # else it would see the same tasks again
    assert composed("notebook_fomaml_fc").weights is None


# What the recipes need of the rest


class _MadeUp:
    def load(self):
        return {"train": synthetic_split(), "test": synthetic_split(name="made/test", seed=1)}


@pytest.mark.filterwarnings("ignore")
def test_an_outer_loss_that_is_a_sum_moves_as_many_times_further(tmp_path):
    task = Task(5, 1, 2, 5, 1, 2, meta_batch=3, test_episodes=2, val_episodes=0)
    moved = []
    for sum_tasks in (False, True):
        torch.manual_seed(0)
        method = MAML(
            conv4(1, 8, width=4, depth=2), 5, 0.1, 1, 1, engine=VmapEngine(), bn="transductive",
            optimizer=partial(torch.optim.SGD, lr=1e-3), sum_tasks=sum_tasks,
        ).double()  # fmt: skip
        before = method.classifier.head.weight.detach().clone()
        torch.set_default_dtype(torch.float64)
        try:
            trainer = pl.Trainer(max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                                 enable_model_summary=False, limit_val_batches=0, accelerator="cpu",
                                 default_root_dir=tmp_path)  # fmt: skip
            trainer.fit(method, datamodule=EpisodeData(_MadeUp(), task, 0, 1))
        finally:
            torch.set_default_dtype(torch.float32)
        moved.append(method.classifier.head.weight.detach() - before)
    assert moved[0].abs().max() > 1e-6
    torch.testing.assert_close(moved[1], 3 * moved[0])


def test_data_without_validation_classes_needs_a_run_without_validation():
    numbers = {"ways": 5, "shots": 1, "queries": 2, "train_ways": 5, "train_shots": 1, "train_queries": 2}
    EpisodeData(_MadeUp(), Task(**numbers, meta_batch=2, val_episodes=0), 0, 1).setup()
    with pytest.raises(UserError, match=r"task.val_episodes=8.*no validation classes.*val_episodes=0") as caught:
        EpisodeData(_MadeUp(), Task(**numbers, meta_batch=2, val_episodes=8), 0, 1).setup()
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_there_say_what_to_do():
    path = "outputs/notebook_maml_cnn/checkpoints/none.ckpt"
    with pytest.raises(
        UserError, match=f"^weights={re.escape(path)}: no such file; run .* first, or give weights=null$"
    ):
        checkpoint.read(path, "weights")


@pytest.mark.thorough
def test_a_checkpoint_does_not_go_back_to_the_weights_that_it_started_from(tmp_path, tmp_path_factory):
    """Its settings name them: here a file that is gone, so that looking for it would show."""
    typed = ["method=fomaml", "backbone.width=4", "task.val_episodes=0", "task.test_episodes=20", "figures=false",
             f"weights={tmp_path}/gone.ckpt"]  # fmt: skip
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=typed)
    OmegaConf.set_struct(cfg, False)
    cfg.choices = {"method": "fomaml", "backbone": "conv4"}
    content = {"state_dict": instantiate(cfg.method).state_dict(), "recipe": OmegaConf.to_yaml(cfg)}
    torch.save(content, tmp_path / "own.ckpt")
    cache = str(tmp_path_factory.getbasetemp().parent / "fewshot-cache")
    command = [sys.executable, str(ROOT / "run.py"), f"checkpoint={tmp_path}/own.ckpt", "train=false",
               f"hydra.run.dir={tmp_path}/out"]  # fmt: skip
    environment = os.environ | {"FEWSHOT_CACHE": cache, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out/result.json").exists()
