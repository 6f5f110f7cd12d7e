"""What W&B, TensorBoard and others are told of a run, read back from what they wrote."""

import json
import shutil
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.loggers import Logger
from PIL import Image
from safetensors.torch import load_file

import vpns_lightning as vpns
from toy_run import KillAt, Killed, Parts
from vpns_lightning import cli
from vpns_lightning.runs.folder import RunFolder
from vpns_lightning.stages import STAGES as ALL_STAGES
from vpns_lightning.training.dashboards.facts import flat
from vpns_lightning.training.dashboards.pictures import example_pictures, prompt_picture
from vpns_lightning.training.loggers import logger_arguments, wandb_arguments
from vpns_lightning.training.machine import Machine
from wandb_file import Written, runs_below

STAGES = ["warmup", "find", "tune"]
PRUNED = 0.8


def machine(run: Path, kind: str = "WandbLogger", **init_args: Any) -> Machine:
    """A machine as the command line builds it, with one logger."""
    from lightning.pytorch import loggers

    def parts(stage: str) -> dict[str, Any]:
        given = logger_arguments(f"lightning.pytorch.loggers.{kind}", init_args, run, stage)
        return {"logger": getattr(loggers, kind)(**given)}

    RunFolder(run).make()
    options = {"accelerator": "cpu", "enable_progress_bar": False}
    return Machine(options, parts, loggers_of_stage=True)


def fit(run: Path, kind: str = "WandbLogger", *, log_artifacts: bool = False, **init: Any) -> Any:
    toy = Parts(sparsity=PRUNED)
    return vpns.fit_stages(
        toy.network,
        toy.data,
        warmup=toy.warmup,
        find=toy.find,
        tune=toy.tune,
        run_dir=str(run),
        trainer=machine(run, kind, **init),
        seed=3,
        log_artifacts=log_artifacts,
    )


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_CONSOLE", raising=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wandb") / "run"
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("WANDB_MODE", "offline")
        patch.delenv("WANDB_CONSOLE", raising=False)
        warnings.simplefilter("error", UserWarning)
        fit(folder, log_artifacts=True, project="vpns", tags=["mine"])
    return folder


@pytest.fixture(scope="module")
def told(run: Path) -> dict[str, Written]:
    return {name.partition("-")[2]: each for name, each in runs_below(run).items()}


def test_every_stage_is_a_run_to_filter_and_group_by(told: dict[str, Written]) -> None:
    assert sorted(told) == sorted(STAGES)
    for stage, each in told.items():
        assert each.run.job_type == stage
        assert each.run.run_group == "run"
        assert set(each.run.tags) == {"mine", "VPNs", "Stripes", "ToyNet", "PadPrompt"}


def test_every_key_of_the_config_is_there_and_flat(run: Path, told: dict[str, Written]) -> None:
    stored = flat(yaml.safe_load((run / "config.yaml").read_text()))
    assert stored["network/prompt/init_args/pad_size"] == 2
    for each in told.values():
        assert stored.items() <= each.config.items()
        assert each.config["method"] == "VPNs"
        assert each.config["dataset"] == "Stripes"


def test_the_last_stage_s_summary_holds_the_result(run: Path, told: dict[str, Written]) -> None:
    result = json.loads((run / "result.json").read_text())
    plain = {k: v for k, v in result.items() if isinstance(v, (int, float, str))}
    assert {"backbone", "effective_sparsity", "macs", "dense_accuracy"} <= plain.keys()
    assert plain.items() <= told["tune"].summary.items()
    seconds = result["stages"]["find"]["seconds"]
    assert told["tune"].summary["stages/find/seconds"] == seconds
    for stage in ("warmup", "find"):
        reached = result["stages"][stage]["accuracy"]["test_accuracy"]
        assert told[stage].summary["test_accuracy"] == reached
        assert told[stage].summary["backbone"] == "ToyNet"


def test_layers_are_one_table_and_one_chart(run: Path, told: dict[str, Written]) -> None:
    for stage, each in told.items():
        assert not [key for row in each.history for key in row if "/sparsity/" in key]
        assert f"_wandb.visualize.{stage}/density" in each.config
    table = sorted(run.glob("wandb/*-find/files/media/table/find/density_table_*.json"))[-1]
    content = json.loads(table.read_text())
    assert content["columns"] == ["layer", "density"]
    sparsity = json.loads((run / "result.json").read_text())["sparsity_per_layer"]
    assert {name: 1 - density for name, density in content["data"]} == pytest.approx(sparsity)
    # the record of the run keeps them all
    assert "sparsity/conv1" in (run / "metrics.csv").read_text()


def test_prompt_examples_and_summary_are_pictures(run: Path, told: dict[str, Written]) -> None:
    find = [f for f in told["find"].files if f.startswith("media/images/find/")]
    # one prompt an epoch of two, eight examples at the end
    assert sum("/prompt_" in file for file in find) == 2
    assert sum("/examples_" in file for file in find) == 8
    (captions,) = (
        row["find/examples.captions"]
        for row in told["find"].history
        if "find/examples.count" in row
    )
    assert all(caption.startswith(("right: ", "wrong: says ")) for caption in captions)
    (picture,) = run.glob("wandb/*-tune/files/media/images/summary*.png")
    with Image.open(picture) as there, Image.open(run / "summary.png") as here:
        assert there.size == here.size


def test_changes_of_masks_are_a_curve(told: dict[str, Written]) -> None:
    churn = [row["find/mask_churn"] for row in told["find"].history if "find/mask_churn" in row]
    assert len(churn) == 2
    assert all(0 <= fraction <= 1 for fraction in churn)


def test_nothing_of_the_console_or_the_machine_is_kept(told: dict[str, Written]) -> None:
    for each in told.values():
        assert not {"output_raw", "output", "environment"} & each.kinds.keys()
        assert not [file for file in each.files if not file.startswith("media/")]


def test_files_are_an_artifact_where_asked(run: Path, told: dict[str, Written]) -> None:
    assert not [name for name in told["find"].artifacts if name.startswith("subnetwork")]
    (name,) = (name for name in told["tune"].artifacts if name.startswith("subnetwork"))
    entries = {e.path for e in told["tune"].artifacts[name].manifest.contents}
    assert entries == {"masks.safetensors", "network.safetensors", "network.md", "config.yaml"}
    assert load_file(run / "export" / "network.safetensors")


def test_a_run_ends_the_same_with_and_without(run: Path, tmp_path: Path) -> None:
    Parts(sparsity=PRUNED).fit(tmp_path / "plain", enable_progress_bar=False)
    for file in ("handoff.safetensors", "masks.safetensors"):
        ours, plain = load_file(run / file), load_file(tmp_path / "plain" / file)
        assert all(torch.equal(ours[name], plain[name]) for name in plain)
    assert (run / "metrics.csv").read_text() == (tmp_path / "plain" / "metrics.csv").read_text()


def kill(run: Path, built: Machine, *, epoch: int) -> None:
    """Begin a run that ends in the midst of an epoch of tuning."""
    KillAt.fired = False
    killing = Machine(
        built.options,
        lambda stage: {**built.parts(stage), "callbacks": [KillAt("tune", epoch, 1)]},
        loggers_of_stage=True,
    )
    toy = Parts(sparsity=PRUNED)
    stages = {"warmup": toy.warmup, "find": toy.find, "tune": toy.tune}
    with pytest.raises(Killed):
        vpns.fit_stages(toy.network, toy.data, **stages, run_dir=str(run), trainer=killing, seed=3)


@pytest.mark.slow
def test_a_killed_run_has_a_summary_and_goes_on_in_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    kill(run, machine(run, project="vpns"), epoch=0)
    (tune,) = (each for name, each in runs_below(run).items() if name.endswith("tune"))
    assert tune.summary["method"] == "VPNs"
    assert tune.config["sparsity_requested"] == PRUNED
    assert tune.run.job_type == "tune"
    before = set(runs_below(run))
    fit(run, project="vpns")
    told = runs_below(run)
    assert set(told) == before
    (tune,) = (each for name, each in told.items() if name.endswith("tune"))
    assert tune.summary["macs"] > 0
    # killed after its last hand-off, before its result
    (run / "result.json").unlink()
    shutil.rmtree(run / "wandb")
    fit(run, project="vpns")
    (name,) = runs_below(run)
    assert name in before
    assert runs_below(run)[name].summary["macs"] > 0


class Broken(Logger):
    """A logger that fails wherever it can."""

    name = version = "broken"  # type: ignore[assignment]  # properties of a logger

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        raise OSError("the disk is full")

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        raise OSError("the disk is full")

    def finalize(self, status: str) -> None:
        raise OSError("the disk is full")


class NeverStarts(Broken):
    """One that cannot even begin."""

    @property
    def experiment(self) -> Any:
        raise RuntimeError("the key is wrong")


@pytest.mark.parametrize(
    ("logger", "said"),
    [
        (Broken(), "Broken could not log metrics .the disk is full."),
        (NeverStarts(), "NeverStarts could not start, and is left out .the key is wrong."),
    ],
)
def test_a_logger_that_fails_changes_nothing(logger: Logger, said: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=said):
        result = Parts(sparsity=PRUNED).fit(tmp_path, logger=logger, enable_progress_bar=False)
    assert result["sparsity"] == pytest.approx(PRUNED, abs=0.01)


def test_a_run_is_resumed_and_checkpoints_do_not_forbid_going_offline(tmp_path: Path) -> None:
    given = {"project": "vpns", "offline": True, "log_model": True}
    arguments = wandb_arguments(given, tmp_path, "find")
    assert (arguments["resume"], arguments["mode"]) == ("allow", "offline")
    assert arguments["offline"] is False


@pytest.mark.slow
def test_tensorboard_writes_where_it_is_told_a_folder_a_stage(tmp_path: Path) -> None:
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    asked = tmp_path / "tb"
    result = fit(tmp_path / "run", "TensorBoardLogger", save_dir=str(asked))
    folders = {str(path.parent.relative_to(asked)) for path in asked.rglob("events.*")}
    assert folders == {f"run/{stage}" for stage in STAGES}
    found = loading.EventAccumulator(str(asked / "run" / "tune")).Reload()
    tags = found.Tags()
    assert {"tune/prompt", "tune/examples", "tune/density", "summary"} <= set(tags["images"])
    assert not [tag for tag in tags["scalars"] if "/sparsity/" in tag]
    (final,) = found.Scalars("final/test_accuracy")
    assert final.value == pytest.approx(result["test_accuracy"])
    assert "_hparams_/session_start_info" in found.summary_metadata


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of MLflow's own packages about each other
def test_an_interrupted_stage_goes_on_in_its_mlflow_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.chdir(tmp_path)  # where MLflow keeps artifacts
    run, store = tmp_path / "run", f"sqlite:///{tmp_path / 'mlflow.db'}"
    kill(run, machine(run, "MLFlowLogger", tracking_uri=store), epoch=1)
    client = tracking.MlflowClient(store)

    def told() -> dict[str, Any]:
        experiment = client.get_experiment_by_name("lightning_logs")
        found = client.search_runs([experiment.experiment_id])
        assert len(found) == len({each.info.run_name for each in found}) == 3
        return {each.data.tags["stage"]: each for each in found}

    before = told()
    assert before["tune"].info.status == "FAILED"
    result = fit(run, "MLFlowLogger", tracking_uri=store)
    after = told()
    assert after["tune"].info.run_id == before["tune"].info.run_id
    assert after["tune"].info.status == "FINISHED"
    assert after["tune"].data.metrics["final/test_accuracy"] == result["test_accuracy"]
    history = client.get_metric_history(after["tune"].info.run_id, "tune/loss")
    assert {point.step for point in history} == {2, 5}  # of both epochs, before and after
    # of another store there is nothing to go on with
    (run / "result.json").unlink()
    other = f"sqlite:///{tmp_path / 'other.db'}"
    fit(run, "MLFlowLogger", tracking_uri=other)
    client = tracking.MlflowClient(other)
    experiment = client.get_experiment_by_name("lightning_logs")
    (begun,) = client.search_runs([experiment.experiment_id])
    assert begun.data.params["find/sparsity"] == str(PRUNED)


@pytest.mark.parametrize("there", [True, False], ids=["in the store", "not in the store"])
def test_a_stage_asks_mlflow_for_its_run_once_it_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    asked: list[Any] = []

    class Client:
        def __init__(self, store: str) -> None:
            asked.append(store)

        def get_experiment_by_name(self, name: str) -> Any:
            return SimpleNamespace(experiment_id=name, lifecycle_stage="active")

        def search_runs(self, experiments: list[str], filter_string: str, max_results: int) -> Any:
            asked.append(filter_string)
            return [SimpleNamespace(info=SimpleNamespace(run_id="r1"))] if there else []

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "mlflow.tracking", SimpleNamespace(MlflowClient=Client))
    path = "lightning.pytorch.loggers.MLFlowLogger"
    given = {"tracking_uri": "http://store", "experiment_name": "mine", "run_id": None}
    first = logger_arguments(path, given, tmp_path / "run", "find")
    assert not asked
    assert first["run_id"] is None
    again = logger_arguments(path, given, tmp_path / "run", "find")
    assert again["tags"] == first["tags"]
    assert again["run_id"] == ("r1" if there else None)
    assert asked == ["http://store", f"tags.vpns_run = '{first['tags']['vpns_run']}'"]
    own = logger_arguments(path, {**given, "run_id": "mine"}, tmp_path / "run", "tune")
    assert own["run_id"] == "mine"
    assert len(asked) == 2


def test_a_resumed_csv_keeps_what_was_written_before(tmp_path: Path) -> None:
    given = {"save_dir": str(tmp_path / "csv"), "name": "lightning_logs", "version": None}
    path = "lightning.pytorch.loggers.CSVLogger"
    first = logger_arguments(path, given, tmp_path / "run", "find")
    assert (first["save_dir"], first["name"], first["version"]) == (
        given["save_dir"],
        "run",
        "find",
    )
    (tmp_path / "csv" / "run" / "find").mkdir(parents=True)
    assert logger_arguments(path, given, tmp_path / "run", "find")["version"] == "find-2"


def test_the_page_names_every_stage_as_a_job_type() -> None:
    page = (Path(__file__).parents[2] / "docs" / "wandb.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith("| job type |"))
    assert row.split("`")[1::2] == list(ALL_STAGES)


def test_log_artifacts_needs_a_logger_that_keeps_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(__file__).parents[2]
    with pytest.raises(SystemExit) as left:
        cli.main(
            [
                *("fit", f"--config={root / 'configs' / 'quickstart.yaml'}"),
                *("--log_artifacts=true", f"--trainer.default_root_dir={tmp_path / 'run'}"),
            ]
        )
    assert left.value.code == 2
    assert "WandbLogger or MLFlowLogger" in capsys.readouterr().err


def test_the_prompt_is_shown_stronger_where_it_is_faint() -> None:
    toy = Parts()
    prompt = toy.network.prompt
    assert prompt is not None
    grey = prompt_picture(toy.network)
    assert grey is not None
    assert set(grey.pixels.flatten().tolist()) == {128}
    toy.data.prepare_data()
    for value, said in ((0.01, "; beside it prompt x100"), (0.5, ""), (0.0, "")):
        with torch.no_grad():
            prompt.delta.fill_(value)  # type: ignore[operator]  # a parameter of every region
        shown = example_pictures(toy.network, toy.data)
        assert len(shown) == 8
        assert all(picture.caption.endswith(f"%){said}") for picture in shown)
        height, width, _ = shown[0].pixels.shape
        assert (width > height) is bool(said)
    toy.network.prompt = None
    assert prompt_picture(toy.network) is None
