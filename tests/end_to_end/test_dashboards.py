"""What a run logs: metrics.csv, W&B and TensorBoard, afresh, resumed and without a server."""

import base64
import csv
import hashlib
import json
import logging
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only

from fewshot import loggers
from fewshot.errors import UserError
from fewshot.loggers import CSV, TensorBoard, Wandb, weights_and_biases
from fewshot.loggers.hparams import sortable
from run_server import RunServer

ROOT = Path(__file__).parents[2]
SMALL = ("trainer.max_steps=6", "trainer.val_check_interval=3", "trainer.log_every_n_steps=2", "backbone.width=8",
         "task.test_episodes=20", "task.val_episodes=8", "task.meta_batch=2", "task.queries=3")  # fmt: skip
HIDDEN = ("FEWSHOT_DATA", "HYDRA_FULL_ERROR", "WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_DATA_DIR")


def started(
    server: RunServer, folder: Path, cache: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    environment = kept | {"FEWSHOT_CACHE": str(cache), "OMP_NUM_THREADS": "1", "HOME": str(cache)} | variables
    flags = [argument for argument in arguments if argument.startswith("-")]
    typed = [argument for argument in arguments if argument not in flags]
    return server.run([*flags, *SMALL, *typed], folder, environment)


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.getbasetemp().parent / "fewshot-cache"


@pytest.fixture(scope="session")
def sweep(run_server, cache, tmp_path_factory) -> Path:
    """A sweep of a run that ends well and of one that diverges, in both dashboards."""
    folder = tmp_path_factory.mktemp("dashboards")
    done = started(run_server, folder, cache, "-m", "logger=[csv,wandb,tensorboard]", "method.optimizer.lr=0.001,1e30",
                   "logger.wandb.log_model=true", "hydra.sweep.dir=rates")  # fmt: skip
    assert "not finite" in done.stdout, done.stdout + done.stderr
    return folder / "rates"


class Stored:
    """What is in the ``.wandb`` file of a run: records in the format of LevelDB's log."""

    def __init__(self, file: Path) -> None:
        from wandb.proto import wandb_internal_pb2 as protobuf

        self.file, self.records, content, at, record = file, [], file.read_bytes(), 7, b""
        assert content.startswith(b":W&B")
        while at + 7 <= len(content):
            if (room := 32768 - at % 32768) < 7:  # the end of a block
                at += room
                continue
            _, length, kind = struct.unpack("<IHB", content[at : at + 7])
            record += content[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # whole, or the last part
                self.records.append(protobuf.Record.FromString(record))
                record = b""

    def of(self, kind: str) -> list:
        return [getattr(record, kind) for record in self.records if record.WhichOneof("record_type") == kind]

    @property
    def run(self):
        return self.of("run")[0]

    @property
    def config(self) -> dict:
        return {item.key: json.loads(item.value_json) for record in self.of("config") for item in record.update}

    @property
    def history(self) -> dict[int, dict]:
        """The rows by their step, without what W&B adds to them."""
        rows = {}
        for record in self.of("history"):
            row = {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.item}
            rows[row["_step"]] = {name: value for name, value in row.items() if not name.startswith("_")}
        return rows

    @property
    def summary(self) -> dict:
        return {
            (item.key or "/".join(item.nested_key)): json.loads(item.value_json)
            for record in self.of("summary")
            for item in record.update
        }

    @property
    def artifacts(self) -> dict[str, list]:
        return {record.type: list(record.manifest.contents) for record in self.of("artifact")}


def stored(folder: Path) -> list[Stored]:
    """Of all attempts of a run, in their order."""
    import wandb

    wandb.teardown()  # the file is written by another process
    return [Stored(file) for file in sorted((folder / "wandb").glob("*run-*/run-*.wandb"))]


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


# What a run leaves in W&B


def test_wandb_holds_what_sorts_and_groups_runs(sweep):
    (done,) = stored(sweep / "0")
    assert (done.run.project, done.run.run_group, list(done.run.tags)) == (
        "fewshot", "rates", ["protonet", "glyphs", "5w1s"])  # fmt: skip
    assert done.run.display_name == "protonet glyphs 5w1s seed 0"
    flat = {"method": "protonet", "data": "glyphs", "task": "5w1s", "backbone": "conv4_pool", "engine": "vmap",
            "seed": 0, "ways": 5, "shots": 1, "bn": "running"}  # fmt: skip
    assert {name: done.config[name] for name in flat} == flat
    assert done.config["settings"]["method"]["optimizer"]["lr"] == 0.001
    told = json.loads((sweep / "0/result.json").read_text())
    expected = {f"test/{name}": value for name, value in told["test"].items()}
    expected |= {name: told["train"][name] for name in ("steps", "episodes", "seconds")}
    expected |= {"parameters": told["parameters"], "val/accuracy": told["val"]["accuracy"]}
    assert {name: done.summary[name] for name in expected} == pytest.approx(expected)
    metrics = {record.name or record.glob_name: record for record in done.of("metric")}
    assert metrics["val/accuracy"].summary.max
    assert {metrics[name].step_metric for name in ("train/*", "val/*", "val/accuracy")} == {"episodes"}
    assert done.of("exit")[0].exit_code == 0


def test_wandb_and_metrics_csv_hold_the_same_rows(sweep):
    (done,) = stored(sweep / "0")
    expected: dict[int, dict] = {}
    for row in read(sweep / "0/metrics.csv"):
        # Lightning counts steps from 0; the test scores follow the last one.
        step = int(row.pop("step")) + 1
        values = {name: float(value) for name, value in row.items() if value}
        expected.setdefault(step, {"episodes": 2.0 * min(step, 6)}).update(values)
    logged = {
        step: {name: value for name, value in row.items() if not name.startswith(("figures/", "test/per_episode"))}
        for step, row in done.history.items()
    }
    assert list(logged) == [2, 3, 4, 6, 7]
    assert logged == {step: pytest.approx(row) for step, row in expected.items()}


def test_wandb_holds_images_the_table_and_the_checkpoint(sweep):
    (done,) = stored(sweep / "0")
    files, last = done.file.parent / "files", done.history[7]
    for name in ("test_episodes", "learning_curves"):
        (shown,) = last[f"figures/{name}/filenames"]
        assert (files / shown).read_bytes() == (sweep / f"0/figures/{name}.png").read_bytes()
    table = json.loads((files / last["test/per_episode/path"]).read_text())
    assert table["columns"] == ["episode", "accuracy", "fingerprint"]
    episodes = [(int(row["episode"]), float(row["accuracy"]), row["fingerprint"])
                for row in read(sweep / "0/episodes.csv")]  # fmt: skip
    assert [tuple(row) for row in table["data"]] == episodes
    (model,) = done.artifacts["model"]
    best = sweep / "0/checkpoints/best.ckpt"
    assert (model.path, Path(model.local_path)) == ("best.ckpt", best)
    assert base64.b64decode(model.digest) == hashlib.md5(best.read_bytes()).digest()
    assert all(Path(entry.local_path).is_relative_to(sweep) for kind in done.artifacts.values() for entry in kind)


def test_each_run_of_a_sweep_is_its_own_and_a_failed_one_says_so(sweep):
    (good,), (failed,) = stored(sweep / "0"), stored(sweep / "1")
    assert good.run.run_id != failed.run.run_id
    assert failed.run.run_group == "rates"
    assert failed.config["settings"]["method"]["optimizer"]["lr"] == 1e30
    assert failed.of("exit")[0].exit_code == 1


def test_tensorboard_holds_the_metrics_images_and_settings(sweep):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(sweep / "0/tensorboard"))
    events.Reload()
    columns: dict[str, list[tuple[int, float]]] = {}
    for row in read(sweep / "0/metrics.csv"):
        step = int(row.pop("step"))
        for name, value in row.items():
            if value:
                columns.setdefault(name, []).append((step, float(value)))
    logged = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert logged.keys() == columns.keys()
    for name, points in columns.items():
        assert [step for step, _ in logged[name]] == [step for step, _ in points]
        assert [value for _, value in logged[name]] == pytest.approx([value for _, value in points])
    drawn = {f"figures/{file.stem}" for file in (sweep / "0/figures").glob("*.png")}
    assert set(events.Tags()["images"]) == drawn >= {"figures/test_episodes", "figures/learning_curves"}
    plugin = HParamsPluginData.FromString(events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content)
    settings = plugin.session_start_info.hparams
    assert settings["method"].string_value == "protonet"
    assert settings["settings/method/optimizer/lr"].number_value == 0.001


@pytest.mark.thorough
def test_without_wandb_nothing_of_it_is_imported(cache, tmp_path):
    code = (
        "import runpy, sys; sys.argv = ['run.py', 'method=nearest', 'figures=false', 'name=plain', *sys.argv[1:]];"
        f"runpy.run_path({str(ROOT / 'run.py')!r}, run_name='__main__');"
        "print('wandb' in sys.modules, 'tensorboard' in sys.modules)"
    )
    environment = os.environ | {"FEWSHOT_CACHE": str(cache), "HOME": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *SMALL]
    plain = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert plain.stdout.splitlines()[-1] == "False False", plain.stdout + plain.stderr


# Configs


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("csv", ["csv"]),
        ("wandb", ["csv", "wandb"]),
        ("tensorboard", ["csv", "tensorboard"]),
        ("[csv,wandb]", ["csv", "wandb"]),
        ("[wandb,tensorboard]", ["csv", "wandb", "tensorboard"]),
    ],
)
def test_any_loggers_may_be_combined(typed, expected):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert list(compose("config", overrides=[f"logger={typed}"]).logger) == expected


@pytest.mark.thorough
def test_the_overrides_of_a_wandb_sweep_compose():
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    written = yaml.safe_load((ROOT / "conf/wandb/sweep.yaml").read_text())
    assert (ROOT / written["program"]).is_file()
    assert written["command"][-1] == "${args_no_hyphens}"
    drawn = {
        name: {"value": space["value"] if "value" in space else space.get("min", space.get("values", [None])[0])}
        for name, space in written["parameters"].items()
    }
    overrides = create_sweep_command_args({"args": drawn})["args_no_hyphens"]
    fixed = [part for part in written["command"] if "=" in part and "oc.env" not in part]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=[*fixed, *overrides])
    assert (cfg.method.inner_rate, cfg.method.steps, cfg.method.optimizer.lr) == (0.01, 1, 0.0001)
    assert (cfg.trainer.max_steps, cfg.logger.wandb.project) == (1000, "fewshot")
    assert instantiate(cfg.method).inner_steps == 1
    assert written["metric"] == {"name": "val/accuracy", "goal": "maximize"}


def test_settings_of_runs_without_choices_stay_as_they_are():
    assert sortable({"rate": 1}) == {"settings": {"rate": 1}}


# metrics.csv of a run that resumes


class Counting(pl.LightningModule):
    """Logs how many steps it has taken."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1.0)

    def training_step(self, batch, batch_idx) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.weight.sum())
        optimizer.step()
        if (steps := self.trainer.global_step) % self.trainer.log_every_n_steps == 0:
            self.log("train/steps", float(steps))
            if steps > 5:
                self.log("train/late", 1.0)

    def validation_step(self, batch, batch_idx) -> None:
        self.log("val/steps", float(self.trainer.global_step))


class Death(Exception):
    pass


class Killed(pl.Callback):
    def __init__(self, after: int | None) -> None:
        self.after = after

    def on_train_batch_start(self, trainer, *_) -> None:
        if trainer.global_step == self.after:
            raise Death


def counted(folder: Path, every: int, validate: int, kill: int | None = None, resume: bool = False) -> None:
    """Ten steps of ``Counting``, or as many as it lives."""
    logger = CSV(str(folder), name="", version="", flush_logs_every_n_steps=1)
    last = folder / "last.ckpt"
    if resume:
        loggers.continue_from([logger], torch.load(last, weights_only=True)["global_step"])
    trainer = pl.Trainer(
        max_steps=10, val_check_interval=validate, check_val_every_n_epoch=None, log_every_n_steps=every,
        logger=logger, callbacks=[Killed(kill), ModelCheckpoint(folder, "last", enable_version_counter=False)],
        accelerator="cpu", devices=1, num_sanity_val_steps=0, limit_val_batches=1, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    data = torch.utils.data.DataLoader(torch.zeros(100, 1))
    with suppress(Death):
        trainer.fit(Counting(), data, data, ckpt_path=last if resume else None)


@pytest.mark.filterwarnings("ignore:Checkpoint directory|You're resuming")
@pytest.mark.parametrize(("every", "validate", "kill"), [(1, 2, 5), (2, 3, 5), (2, 3, 8), (1, 1, 3), (3, 3, 8)])
def test_metrics_csv_of_a_resumed_run_is_that_of_one_that_was_not_killed(tmp_path, every, validate, kill):
    counted(tmp_path / "whole", every, validate)
    counted(tmp_path / "killed", every, validate, kill)
    before = (tmp_path / "killed/metrics.csv").read_bytes()
    counted(tmp_path / "killed", every, validate, resume=True)
    whole = (tmp_path / "whole/metrics.csv").read_bytes()
    assert (tmp_path / "killed/metrics.csv").read_bytes() == whole != before


@pytest.mark.filterwarnings("ignore:Checkpoint directory|You're resuming")
def test_a_new_run_replaces_metrics_csv(tmp_path):
    counted(tmp_path, 2, 3, kill=8)
    counted(tmp_path, 2, 3, kill=3)
    assert [row["step"] for row in read(tmp_path / "metrics.csv")] == ["1", "2"]


def test_rows_are_on_disk_at_once_whatever_their_columns_and_cut_off_ones_go(tmp_path):
    file, logger = tmp_path / "metrics.csv", CSV(str(tmp_path), name="", version="", flush_logs_every_n_steps=1)
    for step, metrics in enumerate(({"b": 1.0}, {"a": 2.0, "b": 3.0}, {"c": 4.0})):
        logger.log_metrics(metrics, step)
        assert len(read(file)) == step + 1
    rows = [{"a": "", "b": "1.0", "c": "", "step": "0"}, {"a": "2.0", "b": "3.0", "c": "", "step": "1"},
            {"a": "", "b": "", "c": "4.0", "step": "2"}]  # fmt: skip
    assert read(file) == rows
    file.write_bytes(file.read_bytes()[:-5])  # killed while writing
    again = CSV(str(tmp_path), name="", version="", flush_logs_every_n_steps=1)
    again.continue_from(3)
    again.log_metrics({"c": 4.0}, 2)
    assert read(file) == rows


def test_tensorboard_hides_what_a_resumed_run_repeats(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, value in ((0, 1.0), (3, 2.0)):
        logger = TensorBoard(str(tmp_path), name="tensorboard", version="")
        if first:
            logger.continue_from(first)
        for step in range(first, 5):
            logger.log_metrics({"loss": value}, step)
        logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]  # fmt: skip


# W&B, resumed and without a server


@pytest.fixture
def wandb(monkeypatch, tmp_path) -> Iterator[Callable[..., Wandb]]:
    """Makes loggers of the run in ``tmp_path``, without a trace of the user's settings."""
    import wandb

    for name in HIDDEN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    made = []

    def make(**options) -> Wandb:
        wandb.teardown()  # settings are read once
        made.append(Wandb(str(tmp_path), project="fewshot", **options))
        return made[-1]

    yield make
    for logger in made:
        logger.finish()
    wandb.teardown()


def logged(logger: Wandb, *steps: int) -> None:
    for logger.steps in steps:
        logger.episodes = 4 * logger.steps
        logger.log_metrics({"train/loss": 1 / logger.steps})
        if logger.steps % 4 == 0:
            logger.log_metrics({"val/accuracy": logger.steps / 100})


def test_a_resumed_run_keeps_its_id_and_sends_no_row_twice(wandb, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    first = wandb()
    logged(first, 2, 4, 6, 8, 10)
    first.finish(1)
    second = wandb()
    loggers.continue_from([second], 4)
    logged(second, 6, 8, 10, 12)
    second.finish()
    one, two = stored(tmp_path)
    assert one.run.run_id == two.run.run_id == (tmp_path / "wandb/run_id.txt").read_text()
    assert list(one.history) == [2, 4, 6, 8, 10]
    assert list(two.history) == [10, 12]  # a row stays open till the next: it may lack what followed
    assert two.history[10] == one.history[10]
    assert two.history[12] == {"episodes": 48, "train/loss": pytest.approx(1 / 12), "val/accuracy": 0.12}
    assert "wandb: going on from step 4" in caplog.text


def test_a_server_out_of_reach_leaves_the_run_offline_at_once(run_server, cache, tmp_path):
    done = started(run_server, tmp_path, cache, "logger=wandb", "method=nearest", "hydra.run.dir=out", "figures=false",
                   "logger.wandb.timeout=3",
                   WANDB_MODE="online", WANDB_API_KEY="x" * 40, WANDB_BASE_URL="http://127.0.0.1:9")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    text = done.stdout + done.stderr
    assert "Traceback" not in text
    assert text.count("going on offline") == 1
    (folder,) = (tmp_path / "out/wandb").glob("*run-*-*")
    assert f"'wandb sync {folder}' sends this run later" in text
    (kept,) = stored(tmp_path / "out")
    assert kept.summary["test/accuracy"] == json.loads((tmp_path / "out/result.json").read_text())["test"]["accuracy"]
    assert "model" not in kept.artifacts  # which nobody asked for


class Server(BaseHTTPRequestHandler):
    """As much of W&B's server as lets a run begin."""

    def log_message(self, *_) -> None:
        pass

    def do_POST(self) -> None:
        body = (
            json.loads(self.rfile.read(int(self.headers["content-length"])) or b"{}") if "graphql" in self.path else {}
        )
        project = {"id": "p", "name": "fewshot", "entity": {"id": "e", "name": "me"}}
        run = {"id": "r", "name": (body.get("variables") or {}).get("name"), "config": "{}", "project": project}
        told = {"data": {"upsertBucket": {"bucket": run, "inserted": True}}} if "UpsertBucket" in str(body) else {}
        if "RunResumeStatus" in str(body):
            told = {"data": {"model": project | {"bucket": None}}}
        content = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def test_a_server_that_is_lost_costs_nothing_but_its_timeout(wandb, monkeypatch, tmp_path, caplog):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    logger = wandb(timeout=3)
    logged(logger, 2, 4)
    server.shutdown()
    server.server_close()
    logged(logger, 6, 8)
    logger.finish()
    (kept,) = stored(tmp_path)
    assert list(kept.history) == [2, 4, 6, 8]
    assert f"'wandb sync --include-online {kept.file.parent}' sends it" in caplog.text


def test_artifacts_that_a_lost_server_refuses_go_into_an_offline_run(wandb, tmp_path, caplog):
    from wandb.errors import CommError

    logger, refusals = wandb(offline=True), ["no server"]
    logged(logger, 2)
    logger.experiment.config.update({"rate": 1})

    def send() -> None:
        if refusals:
            raise CommError(refusals.pop())
        logger.log_metrics({"sent": 1.0})

    logger._with_server(send)
    logger.finish()
    one, two = stored(tmp_path)
    assert one.run.run_id == two.run.run_id
    assert (two.config["rate"], two.history[2]["sent"]) == (1, 1.0)
    assert "going on offline, since the server cannot be used: no server" in caplog.text


def test_mistakes_get_one_line(wandb, monkeypatch):
    with pytest.raises(UserError, match=r"logger.wandb.offline=false: no key found"):
        _ = wandb(offline=False).experiment
    with pytest.raises(UserError, match=r"logger=wandb: .*project"):
        _ = Wandb("unused", project="a/b", offline=True).experiment
    for module in ("tensorboard", "tensorboardX"):
        monkeypatch.setattr(f"lightning_fabric.loggers.tensorboard._{module.upper()}_AVAILABLE", False)
    with pytest.raises(UserError, match="logger=tensorboard: pip install tensorboard"):
        TensorBoard("unused")
    monkeypatch.setattr(weights_and_biases, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="logger=wandb: pip install wandb"):
        Wandb("unused")


def test_only_the_first_process_writes(monkeypatch, tmp_path):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    made = [CSV(str(tmp_path / "a"), name="", version=""), TensorBoard(str(tmp_path / "a")),
            Wandb(str(tmp_path / "a"), offline=True)]  # fmt: skip
    loggers.continue_from(made, 3)
    for logger in made:
        logger.log_hyperparams({"rate": 1})
        logger.log_metrics({"loss": 1.0}, 3)
        logger.finalize("success")
    assert not (tmp_path / "a").exists()


def test_settings_reach_the_logger_resolved():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(
            "config", overrides=["logger=wandb", "seed=3", "+choices={method: maml, data: glyphs, task: 5w5s}"]
        )
    cfg.logger.wandb.save_dir = cfg.logger.csv.save_dir = "unused"
    assert OmegaConf.to_container(cfg.logger.wandb, resolve=True)["name"] == "maml glyphs 5w5s seed 3"
