"""What cannot work is said in one line that names what was given and what to do."""

import os
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import yaml

import vpns_lightning as vpns
from toy_config import laid
from toy_folder import finished_network, write_folder
from toy_run import Parts
from vpns_lightning import cli
from vpns_lightning.base.files import write_text
from vpns_lightning.runs.folder import RunFolder
from vpns_lightning.runs.handoff import read_about
from vpns_lightning.runs.metrics import read_metrics
from vpns_lightning.training.connecting import connect
from vpns_lightning.training.machine import Machine

BROKEN_PARTS = """\
import lightning.pytorch as pl
class Built(pl.Callback):
    def __init__(self): raise ValueError('no luck')
class Hooked(pl.Callback):
    def setup(self, trainer, module, stage): raise KeyError('gone')
class Logs(pl.loggers.CSVLogger):
    def __init__(self, save_dir): raise ConnectionError('no server')
"""


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one line that a refused command ends with."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("vpns: error: ")]
    assert "Traceback" not in said
    assert "Union subtypes" not in line
    return line


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump(laid("network.weights", None)))
    return f"--config={path}"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--find.optimizer=Adam", "--find.optimizer.lr=abc"), "lr is a number, got 'abc'"),
        (("--tune.optimizer={class_path: SGD, init_args: {lr: [1]}}",), "a number, got [1]"),
        (("--find.optimizer.lr=0.1",), "give --find.optimizer NAME before it"),
        (("--find.optimizer=Adam", "--find.optimizer.lr=1e38"), "from 0 to 1,000,000, got 1e+38"),
        (("--tune.optimizer=SGD", "--tune.optimizer.lr=1e400"), "got inf"),
        (("--find.prompt_lr=-1",), "find, prompt: a learning rate must be from 0"),
        (("--find.epochs=100000000000000000000",), "at most 1,000,000"),
        (("--trainer.devices=-2",), "trainer.devices -2 is no number of devices"),
        (("--trainer.accelerator=tpu",), "not one of auto, cpu, gpu, cuda, mps"),
        (("--trainer.val_check_interval=0",), "val_check_interval must be above 0"),
        (
            ("--trainer.accelerator=cpu", "--trainer.devices=many"),
            "trainer.devices many is no number",
        ),
        (
            ("--trainer.accelerator=cpu", "--trainer.devices=[a]"),
            "trainer.devices [a] is no number",
        ),
        (("--trainer.profiler=foo",), "trainer.profiler 'foo' is not one of simple, advanced"),
        (("--trainer.logger=7",), "trainer.logger names a class, got 7"),
        (("--trainer.callbacks=[7]",), "trainer.callbacks names a class, got [7]"),
        (("--trainer.default_root_dir=" + "x" * 300,), "File name too long"),
        (("--network.weights=" + "x" * 300 + ".pth",), "File name too long"),
        (("--network.backbone=resnet18", "--data.batch_size=1"), "on a batch of one image"),
    ],
)
def test_options_that_cannot_work(
    config: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refusal(capsys, "fit", config, "--trainer.default_root_dir=run", *options)


LOGGERS = ("CSVLogger", "CometLogger", "MLFlowLogger", "TensorBoardLogger", "WandbLogger")
SUMMARY = "[LearningRateMonitor, {class_path: ModelSummary, init_args: {%s: x}}]"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("trainer.logger=NeptuneLogger", "'NeptuneLogger' is unknown; allowed: "),
        ("trainer.logger=Wandb", "unknown (did you mean 'WandbLogger'?); allowed: "),
        ("trainer.logger=[WandbLogger, NeptuneLogger]", "'NeptuneLogger' is unknown; allowed: "),
        ("trainer.logger=[CSVLogger]", "CSVLogger needs save_dir under init_args"),
        ("trainer.callbacks=" + SUMMARY % "depth", "no option 'depth' (did you mean 'max_depth'?)"),
        ("trainer.callbacks=" + SUMMARY % "max_depth", "callbacks.max_depth is a whole number"),
        ("trainer.plugins=foo", "trainer.plugins: 'foo' is unknown; allowed: AsyncCheckpointIO, "),
        ("trainer.plugins=7", "trainer.plugins names a class, got 7; allowed: "),
        ("trainer.plugins=[7]", "trainer.plugins names a class, got [7]; allowed: "),
        ("trainer.plugins=true", "trainer.plugins names a class, got True; allowed: "),
        ("trainer.plugins=lightning.pytorch.plugins.Nope", "Nope' is unknown; allowed: "),
        (
            "trainer.plugins={class_path: HalfPrecision, init_args: {x: 1}}",
            "HalfPrecision has no option 'x'; allowed: precision",
        ),
        ("trainer.precision=17", "one of 32-true, bf16-mixed, 16-mixed or null, got 17"),
        ("find.pruner=[OMP]", "find.pruner names one class, got ['OMP']; allowed: BiP"),
        ("tune.loss=foo", "tune.loss: 'foo' is unknown; allowed: BCELoss"),
        ("tune.average=foo", "tune.average: 'foo' is unknown; allowed: EMA, SWA"),
        (
            "tune.lr_scheduler={class_path: MultiStepLR, init_args: {milestones: 3}}",
            "milestones is a list, each a whole number, got 3",
        ),
        ("network.exclude={a: 1}", "network.exclude is a list, each a text, got {'a': 1}"),
        ("seed_everything=1.5", "seed_everything is a whole number, got 1.5"),
        ("log_artifacts=3", "log_artifacts is true or false, got 3"),
    ],
)
def test_a_value_that_a_key_does_not_take_is_told_from_those_it_takes(
    config: str, capsys: pytest.CaptureFixture[str], option: str, said: str
) -> None:
    line = refusal(capsys, "fit", config, f"--{option}")
    assert said in line
    # beside those that plug-ins have defined
    assert "logger" not in option or "allowed" not in said or all(n in line for n in LOGGERS)
    assert "Parser key" not in line
    assert "Dummy" not in line
    assert "MetricsCSV" not in line


def test_a_right_value_is_not_blamed_for_a_wrong_one(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--trainer.profiler=simple", "--trainer.logger=false", "--find.epochs=x")
    assert "find.epochs is a whole number, got 'x'" in refusal(capsys, "fit", config, *options)


@pytest.mark.parametrize("given", ["find: {epochs: 1}\nfind: {}", "find: {epochs: 1, epochs: 2}"])
def test_a_key_that_a_config_gives_twice_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(given)
    said = refusal(capsys, "fit", f"--config={file}")
    assert (
        f"config file {file} is no YAML: the key '{'epochs' if ',' in given else 'find'}'" in said
    )


@pytest.mark.parametrize("content", ["", "text", "[1, 2]"])
def test_a_config_without_keys_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content)
    assert f"config file {file} " in refusal(capsys, "fit", f"--config={file}")
    assert f"{tmp_path} is a folder" in refusal(capsys, "fit", f"--config={tmp_path}")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("callbacks=[broken_parts.Built]", "trainer.callbacks: Built raised ValueError (no luck)"),
        ("callbacks=[broken_parts.Hooked]", "trainer.callbacks: Hooked raised KeyError ('gone')"),
        (
            "logger={class_path: broken_parts.Logs, init_args: {save_dir: x}}",
            "trainer.logger: Logs raised ConnectionError (no server)",
        ),
    ],
)
def test_a_part_of_the_trainer_that_raises_is_named(
    config: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
    said: str,
) -> None:
    parts = tmp_path / "broken_parts.py"
    parts.write_text(BROKEN_PARTS)
    root = f"--trainer.default_root_dir={tmp_path / 'run'}"
    command = ("fit", config, root, f"--plugins={parts}", f"--trainer.{option}")
    assert said in refusal(capsys, *command)
    monkeypatch.setenv("VPNS_DEBUG", "1")
    with pytest.raises(vpns.UserError) as raised:
        cli.main(command)
    assert raised.value.__cause__ is not None


def test_what_is_no_file_is_never_written_over(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to(pipe)
    for path in (pipe, link, tmp_path):
        with pytest.raises(vpns.UserError, match="is no file but a folder or device"):
            write_text(path, "text")
    assert pipe.is_fifo()
    assert link.is_symlink()


def test_metrics_that_no_run_wrote_are_named_and_cost_no_more_than_their_curves(
    tmp_path: Path,
) -> None:
    metrics = tmp_path / "run" / "metrics.csv"
    metrics.parent.mkdir()
    metrics.write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(vpns.UserError, match=r"metrics\.csv holds what no run wrote .* delete it"):
        Parts(epochs=1).fit(metrics.parent)
    assert not (metrics.parent / "warmup").exists()
    metrics.unlink()
    Parts(epochs=1).fit(metrics.parent)
    assert {row["stage"] for row in read_metrics(metrics)} == {"warmup", "find", "tune"}


def test_a_file_that_may_not_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(write_folder(tmp_path / "run", finished_network()))

    def closed(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", closed)
    monkeypatch.setattr(Path, "read_bytes", closed)
    for read in (lambda: read_about(run.handoff), run.read_config):
        with pytest.raises(vpns.UserError, match="cannot be read: Permission denied") as refused:
            read()
        assert "delete" not in str(refused.value)


class BreaksThePrompt(pl.Callback):
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.network.prompt.delta.data.fill_(torch.nan)


def test_weights_that_the_last_step_broke_are_not_handed_on(tmp_path: Path) -> None:
    parts = Parts(epochs=1)
    parts.warmup = None
    with pytest.raises(vpns.UserError, match=r"prompt\.delta holds NaN or infinite values"):
        parts.fit(tmp_path / "run", BreaksThePrompt())
    assert not (tmp_path / "run" / "handoff.safetensors").exists()


def test_a_slurm_job_without_srun_does_not_wait_for_processes_that_never_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch_step = {
        **{"SLURM_JOB_ID": "5", "SLURM_JOB_NAME": "sparse", "SLURM_NODELIST": "localhost"},
        **{"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"},
        **{"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"},
    }
    for name, value in batch_step.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    machine = Machine.of({"accelerator": "cpu", "devices": 2, "strategy": "ddp"})
    with pytest.raises(vpns.UserError, match=r"2 processes, .*: put srun before the command"):
        connect(machine)
