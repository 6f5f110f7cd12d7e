"""Kills, bad input and connections, as often as docs/trust.md says."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from toy_config import BASE, laid
from vpns_lightning import cli

pytestmark = pytest.mark.trust
Figures = dict[str, tuple[str, int, str, int]]
KILLS = 100


def test_a_kill_leaves_every_file_whole(tmp_path: Path, figures: Figures) -> None:
    memory = Path(tempfile.mkdtemp(dir="/dev/shm")) if Path("/dev/shm").is_dir() else tmp_path / "m"
    script = Path(__file__).with_name("kill_writers.py")
    try:
        printed = subprocess.run(
            [
                sys.executable,
                str(script),
                str(KILLS),
                str(tmp_path / "disk"),
                str(memory / "tmpfs"),
            ],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(script.parents[1])},
        ).stdout
    finally:
        shutil.rmtree(memory, ignore_errors=True)
    counted = json.loads(printed.splitlines()[-1])
    figures["kill -9 while checkpoint and hand-off are written, half on a tmpfs"] = (
        "kills",
        counted["kills"],
        "unloadable files or strays",
        counted["unloadable"] + counted["strays"],
    )
    assert counted == {"kills": KILLS, "unloadable": 0, "strays": 0}


WRONG_NUMBERS = ("many", "[1, 2]", "{a: 1}", "nan", "1e", "--", "")
COUNTS = (
    *("find.epochs", "tune.epochs", "warmup.epochs", "prompt_tuning.epochs", "seed_everything"),
    *("data.batch_size", "data.input_size", "data.num_workers", "network.prompt.pad_size"),
    *("network.prompt.canvas_size", "network.source_classes", "data.limit_per_class"),
)
WRONG_RATES = tuple(
    f"{{class_path: SGD, init_args: {{lr: {rate}}}}}" for rate in ("abc", "1e38", "-1", "[1]")
)
CHOICES = {
    "find.pruner": ("Hydar", "Adam", "os.system", "[Hydra]", "7", "{class_path: 7}"),
    "network.prompt": ("PadPromt", "Hydra", "os.system", "3.5", "{class_path: Digits}"),
    "network.mapping": ("Frequency", "Hydra", "torch.nn.Linear", "[]", "4"),
    "network.backbone": ("resnet81", "timm/", "os.system", "[resnet18]", "{init_args: 3}"),
    "network.weights": ("IMAGENET1K_V9", "nowhere.pth", "http://x/y.pth", "/dev/null"),
    "data": ("Digit", "Hydra", "7", "torch.utils.data.Dataset"),
    "tune.optimizer": ("Adamm", "torch.nn.Linear", "7", "{class_path: os.system}", *WRONG_RATES),
    "tune.lr_scheduler": ("Cosine", "torch.optim.Adam", "{class_path: os.system}"),
    "trainer.callbacks": ("[Nothing]", "[7]", "[{class_path: torch.optim.Adam}]"),
    "trainer.logger": ("[Nothing]", "[7]", "[{class_path: torch.optim.Adam}]"),
    "trainer.strategy": ("dpp", "{class_path: torch.optim.Adam}"),
    "trainer.accelerator": ("tpu", "gpus", "cuda:99"),
    "trainer.devices": ("-2", "0", "many", "[7]"),
    "trainer.val_check_interval": ("0", "-1", "often"),
    "trainer.precision": ("12", "16-true", "half"),
    "find.views": ("[promted]", "prompted", "[7]", "{a: b}"),
}


def bad_inputs(folder: Path) -> Iterator[list[str]]:
    """Yield options of fit, each of them wrong."""
    config = folder / "base.yaml"
    config.write_text(yaml.safe_dump(BASE))
    for key in COUNTS:
        for value in (*WRONG_NUMBERS, "-3", "1e20"):
            yield [f"--config={config}", f"--{key}={value}"]
    for value in ("1", "1.2", "-0.1", "nan", "inf", "2", "true", "half", "[0.5]"):
        yield [f"--config={config}", f"--find.sparsity={value}"]
    for key, values in CHOICES.items():
        for value in values:
            yield [f"--config={config}", f"--{key}={value}"]
    for section in ("find", "tune", "network", "trainer"):
        for typo in ("sparsty", "epoch", "optimiser", "pruners", "x.y"):
            yield [f"--config={config}", f"--{section}.{typo}=1"]
        for index, content in enumerate(("some text", 7, [1, 2])):
            file = folder / f"{section}{index}.yaml"
            file.write_text(yaml.safe_dump({**BASE, section: content}))
            yield [f"--config={file}"]
    unreadable: dict[str, bytes] = {
        "empty": b"",
        "list": b"[1]",
        "bytes": b"\xff\xfe",
        "tab": b"a:\t- {",
    }
    for name, content_of in unreadable.items():
        (folder / f"{name}.yaml").write_bytes(content_of)
        yield [f"--config={folder / name}.yaml"]
    yield [f"--config={folder}"]
    yield ["--config=nowhere.yaml"]
    yield [f"--config={'x' * 300}.yaml"]


def outcome(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str | None:
    """Return what is wrong with how a command refused, None where one line says it all."""
    try:
        cli.main(arguments)
    except SystemExit as stopped:
        lines = capsys.readouterr().err.strip().splitlines()
        errors = [line for line in lines if line.startswith("vpns: error: ")]
        fine = stopped.code == 2 and len(errors) == 1
        return None if fine else f"exit {stopped.code}: {lines[-1:]}"
    except Exception as error:
        capsys.readouterr()
        return f"{type(error).__name__}: {error}"
    capsys.readouterr()
    return "accepted"


def test_bad_input_is_refused_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    figures: Figures,
) -> None:
    monkeypatch.chdir(tmp_path)
    tried, wrong = 0, []
    for options in bad_inputs(tmp_path):
        root = f"--trainer.default_root_dir={tmp_path / f'run{tried}'}"
        said = outcome(["fit", *options, root], capsys)
        tried += 1
        if said is not None:
            wrong.append((options[-1], said))
    figures["bad input"] = ("given", tried, "not refused in one line", len(wrong))
    assert not wrong, "\n".join(map(str, wrong))
    assert tried >= 200


def test_a_run_asks_for_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Figures
) -> None:
    asked: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        asked.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(laid("network.weights", None)))
    cli.main(["fit", f"--config={config}", f"--trainer.default_root_dir={tmp_path / 'run'}"])
    cli.main(["test", f"--run={tmp_path / 'run'}", "--trainer.accelerator=cpu"])
    output = tmp_path / "net.safetensors"
    cli.main(["export", f"--run={tmp_path / 'run'}", f"--output={output}"])
    figures["fit, test and export offline"] = ("runs", 3, "connections", len(asked))
    assert not asked
