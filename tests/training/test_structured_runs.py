"""Runs that cut channels: their folder, their result, killed and resumed, and in two processes."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from test_iterative_runs import Terminate
from test_pipeline import assert_same
from test_processes import CONFIG, VPNS, assert_same_network, signal_at
from torch import Tensor, nn

import vpns_lightning as vpns
from toy_data import noise
from toy_run import KillAt, KillAtEnd, Killed, Parts
from vpns_lightning import cli
from vpns_lightning.exporting import export
from vpns_lightning.runs.handoff import load_network
from vpns_lightning.runs.loading import load_run
from vpns_lightning.runs.metrics import read_metrics

METHODS: dict[str, Callable[[], vpns.Pruner]] = {
    "structured_vpns": vpns.StructuredVPNs,
    "slim": vpns.Slim,
    "depgraph": vpns.DepGraph,
    "one shot": lambda: vpns.DepGraph(sparse_learning=False),
}
NAMES = {
    "structured_vpns": "VPNs (structured)",
    "slim": "VPNs w. Slim",
    "depgraph": "VPNs w. DepGraph",
    "one shot": "VPNs w. DepGraph (no sparse learning)",
}
Wholes = dict[str, tuple[Parts, dict[str, Any], Path]]


def new(method: str) -> Parts:
    return Parts(pruner=METHODS[method](), sparsity=0.5)


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> Wholes:
    """Return an uninterrupted run of every method."""
    runs: Wholes = {}
    for method in METHODS:
        parts, folder = new(method), tmp_path_factory.mktemp("whole")
        runs[method] = parts, parts.fit(folder), folder
    return runs


class Flattened(nn.Module):
    """Takes images of 12 px and of no other size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6)
        self.head = nn.Linear(6 * 25, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.bn(self.conv(images)).relu().flatten(1))


@pytest.mark.parametrize("warmup", [0, 1])
def test_without_a_prompt_channels_are_followed_at_the_datas_own_size(
    tmp_path: Path, warmup: int
) -> None:
    parts = Parts(pruner=vpns.DepGraph(sparse_learning=False), sparsity=0.5)
    network = vpns.PromptedClassifier(Flattened(), 4, mapping=vpns.IdentityMapping())
    parts.network = parts.find.network = parts.tune.network = network
    parts.warmup = vpns.SubnetworkTuning(network, epochs=1, name="warmup") if warmup else None
    parts.tune.epochs = 0
    parts.fit(tmp_path)
    assert network.backbone.head.weight.shape == (4, 3 * 25)


def test_channels_that_cannot_go_are_refused_before_the_warm_up(tmp_path: Path) -> None:
    parts = Parts(pruner=vpns.Slim(scope="global", min_keep=8), sparsity=0.9)
    with pytest.raises(vpns.UserError, match="cannot be removed when every group keeps 8"):
        parts.fit(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", METHODS)
def test_the_result_counts_channels_and_costs_before_and_after(wholes: Wholes, method: str) -> None:
    parts, result, _ = wholes[method]
    assert result["method"] == NAMES[method]
    assert result["structured"] is True
    assert result["channels"] == {"conv1": 8, "conv2": 8}
    assert result["channels_kept"] == {"conv1": 4, "conv2": 4}
    assert (result["sparsity_requested"], result["sparsity"]) == (0.5, 0.5)
    # 3 x 3 convolutions of 3, 8 and 8 channels on 16 and 8 px, and a head of 4 classes
    assert result["macs"] == 256 * 216 + 64 * 576 + 32
    assert result["effective_macs"] == 256 * 108 + 64 * 144 + 16
    assert result["weights_prunable"] == 216 + 576 + 32
    assert result["weights_kept"] == 108 + 144 + 16
    assert result["parameters"] == 824 + 4 * 8 + 8 + 4
    stored = sum(p.numel() for p in parts.network.backbone.parameters())
    assert result["parameters_kept"] == stored == 268 + 4 * 4 + 4 + 4
    assert "multiply-accumulates" in result["macs_unit"]
    find = 0 if method == "one shot" else 2
    assert [stage["epochs"] for stage in result["stages"].values()] == [2, find, 2]


def test_an_unstructured_run_says_so(tmp_path: Path) -> None:
    result = Parts(epochs=1).fit(tmp_path)
    assert result["structured"] is False
    assert "channels" not in result
    assert not [key for key in load_file(tmp_path / "masks.safetensors") if "cuts" in key]


def test_gates_are_logged_while_they_are_learned(wholes: Wholes) -> None:
    rows = read_metrics(wholes["structured_vpns"][2] / "metrics.csv")
    values = {row["metric"]: row["value"] for row in rows if row["stage"] == "find"}
    assert values["sparsity"] == 0.5
    assert "mask_churn" in values
    assert values["prompt_norm"] > 0


@pytest.mark.parametrize("method", METHODS)
def test_masks_and_history_are_in_the_files(wholes: Wholes, method: str) -> None:
    parts, _, folder = wholes[method]
    stored = load_file(folder / "masks.safetensors")
    assert stored["mask.conv2"].shape == parts.network.backbone.conv2.weight.shape == (4, 4, 3, 3)
    for layer in ("conv1", "conv2"):
        kept = stored[f"cuts.{layer}.channels"]
        assert (kept.dtype, tuple(kept.shape), int(kept.sum())) == (torch.bool, (8,), 4)
    fresh = new(method)
    load_network(folder / "handoff.safetensors", fresh.network)
    images = torch.rand(3, 3, 12, 12)
    assert torch.equal(fresh.network.eval()(images), parts.network.eval()(images))


def test_masks_of_a_cut_network_are_no_transfer(wholes: Wholes) -> None:
    pruner = vpns.Stored(str(wholes["slim"][2] / "masks.safetensors"))
    with pytest.raises(vpns.UserError, match="network whose channels were cut"):
        pruner.attach(Parts().network, 0.5)


@pytest.mark.parametrize("suffix", ["safetensors", "pt2", "onnx"])
def test_exports_answer_as_the_cut_network(wholes: Wholes, tmp_path: Path, suffix: str) -> None:
    # export itself compares what it reads back with the network, at three batch sizes
    path = export(wholes["depgraph"][0].network, tmp_path / f"net.{suffix}")
    if suffix == "safetensors":
        assert load_file(path)["conv2.weight"].shape == (4, 4, 3, 3)


# the contract kills every pruner in its first epoch of both stages
PLACES = [
    ("slim", ("find", 1, 1)),
    ("structured_vpns", ("tune", 1, -1)),
    *(
        pytest.param(method, place, marks=pytest.mark.slow)
        for method, place in [
            *((m, ("tune", 1, -1)) for m in ("slim", "depgraph", "one shot")),
            *((m, ("find", 1, -1)) for m in ("structured_vpns", "depgraph")),
        ]
    ),
]


@pytest.mark.parametrize(("method", "place"), PLACES, ids=str)
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(
    wholes: Wholes, tmp_path: Path, method: str, place: tuple[str, int, int]
) -> None:
    KillAt.fired = False
    with pytest.raises(Killed):
        new(method).fit(tmp_path, KillAt(*place))
    assert not (tmp_path / "result.json").exists()
    resumed = new(method)
    result = resumed.fit(tmp_path)
    assert_same(resumed, wholes[method][0])
    assert result["channels_kept"] == wholes[method][1]["channels_kept"]
    assert result["macs"] == wholes[method][1]["macs"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["structured_vpns", "slim"])
def test_killed_between_the_last_checkpoint_and_the_cut(
    wholes: Wholes, tmp_path: Path, method: str
) -> None:
    with pytest.raises(Killed):
        new(method).fit(tmp_path, KillAtEnd("find"))
    resumed = new(method)
    resumed.fit(tmp_path)
    assert_same(resumed, wholes[method][0])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["structured_vpns", "depgraph"])
def test_stopped_within_an_epoch_goes_on_there(wholes: Wholes, tmp_path: Path, method: str) -> None:
    with pytest.raises(SystemExit):
        new(method).fit(tmp_path, Terminate(1, 1))
    resumed = new(method)
    resumed.fit(tmp_path)
    assert_same(resumed, wholes[method][0])


def run_vpns(*arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [VPNS, *arguments],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def options(folder: Path) -> list[str]:
    config = folder.parent / "config.yaml"
    config.write_text(CONFIG)
    short = ("--find.epochs=1", "--tune.epochs=1", "--trainer.limit_train_batches=2")
    root = f"--trainer.default_root_dir={folder}"
    return ["--config", str(config), root, "--find.pruner=StructuredVPNs", *short]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    return tmp_path / "run"


def test_test_predict_and_export_work_on_the_folder_of_a_cut_network(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["fit", *options(folder)])
    result = json.loads((folder / "result.json").read_text())
    assert sum(result["channels_kept"].values()) == sum(result["channels"].values()) // 2 == 1440
    capsys.readouterr()
    cli.main(["test", "--run", str(folder), "--accelerator", "cpu"])
    measured = json.loads(capsys.readouterr().out)
    assert measured["test_accuracy"] == result["test_accuracy"]
    assert measured["sparsity"] == 0.5
    images = tmp_path / "images"
    images.mkdir()
    noise(0, (20, 20)).save(images / "a.png")
    answers = tmp_path / "predictions.csv"
    shown = ("--images", str(images), "--output", str(answers), "--accelerator", "cpu")
    cli.main(["predict", "--run", str(folder), *shown])
    assert len(answers.read_text().splitlines()) == 2
    cli.main(["export", "--run", str(folder), "--output", str(tmp_path / "net.safetensors")])
    exported = load_file(tmp_path / "net.safetensors")
    assert exported["layer4.1.conv2.weight"].shape == (256, 256, 3, 3)
    plain = with_torchvision_alone(exported)
    shown = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = load_run(folder).network.backbone(shown)
        torch.testing.assert_close(plain(shown), expected, rtol=1e-4, atol=1e-5)


def with_torchvision_alone(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Put the smaller tensors of an exported cut network in torchvision's place."""
    net = torchvision.models.resnet18(num_classes=10)
    for name, value in state.items():
        owner, _, key = name.rpartition(".")
        layer = net.get_submodule(owner)
        if key in layer._parameters:
            value = torch.nn.Parameter(value)
        setattr(layer, key, value)
    return net.eval()


@pytest.mark.slow  # the contract does the same for every pruner on a toy network
def test_two_processes_agree_on_the_cut_and_resume_to_the_same_bits(
    folder: Path, tmp_path: Path
) -> None:
    ddp = ("--trainer.devices=2", "--trainer.strategy=ddp")
    run_vpns("fit", *options(folder), *ddp)
    result = json.loads((folder / "result.json").read_text())
    assert sum(result["channels_kept"].values()) == 1440
    measured = run_vpns("test", "--run", str(folder), "--accelerator", "cpu")
    assert f'"test_accuracy": {result["test_accuracy"]}' in measured
    again = tmp_path / "again" / "run"
    again.parent.mkdir()
    stop = signal_at(signal.SIGTERM, ("tune", 0, 0), tmp_path / "flag")
    run_vpns("fit", *options(again), *ddp, *stop, code=128 + signal.SIGTERM)
    run_vpns("fit", *options(again), *ddp, *stop)
    assert_same_network(again, folder)
