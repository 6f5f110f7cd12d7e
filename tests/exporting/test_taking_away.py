"""What other tools take: plain layers, ONNX with named dimensions, a folder for the Hub."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrize, prune

import vpns_lightning as vpns
from test_cli import refusal
from toy_folder import SIDE, finished_network, write_folder
from vpns_lightning import cli
from vpns_lightning.sparsity import masked_layers, sparsity_report

RESULT = {"method": "VPNs", "test_accuracy": 0.8125, "test_accuracy_plain": 0.625}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taking") / "run"
    return write_folder(folder, finished_network(), **RESULT, test_images=360)


@pytest.fixture(scope="module")
def published(run: Path) -> Path:
    folder = run.parent / "published"
    cli.main(["export", "--run", str(run), "--output", f"{folder}/"])
    return folder


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_layers_are_plain_unless_masked_ones_are_asked_for(run: Path) -> None:
    plain, masked = vpns.load(run), vpns.load(run, masked=True)
    assert not list(masked_layers(plain.backbone))
    assert torch.equal(plain(images()), masked(images()))
    zeros = sum(int((m.weight == 0).sum()) for m in plain.modules() if isinstance(m, nn.Conv2d))
    report = sparsity_report(masked.backbone)
    assert sparsity_report(plain.backbone).kept == report.kept
    assert zeros >= report.total - report.kept > 0


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*jit.*is deprecated", "ignore::torch.jit.TracerWarning")
def test_a_loaded_network_is_traced_and_pruned_further(run: Path) -> None:
    network = vpns.load(run)
    expected = network(images())
    assert not any(parametrize.is_parametrized(module) for module in network.modules())
    traced = torch.jit.trace(network, images(2))
    torch.testing.assert_close(traced(images()), expected)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    held = [(layer, "weight") for layer in convolutions]
    prune.global_unstructured(held, pruning_method=prune.L1Unstructured, amount=0.95)
    for layer in convolutions:
        prune.remove(layer, "weight")
    weights = torch.cat([layer.weight.flatten() for layer in convolutions])
    assert float((weights == 0).float().mean()) == pytest.approx(0.95, abs=1e-4)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_a_loaded_network_is_quantised_by_torchao_and_keeps_its_zeros(tmp_path: Path) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    network = finished_network("shufflenet_v2_x0_5", sparsity=0.3)
    loaded = vpns.load(write_folder(tmp_path / "run", network, **RESULT, test_images=360))
    head = loaded.backbone.get_submodule("fc")
    zeros, expected = head.weight == 0, loaded(images())
    assert 0 < int(zeros.sum()) < zeros.numel()
    quantization.quantize_(loaded, quantization.Int8WeightOnlyConfig())
    assert type(head.weight) is not nn.Parameter
    assert bool((head.weight.dequantize()[zeros] == 0).all())
    largest = float(expected.abs().max())
    assert 0 < float((loaded(images()) - expected).abs().max()) < 0.05 * largest


def test_a_loaded_network_is_exported_like_the_run(run: Path, tmp_path: Path) -> None:
    one = vpns.export(vpns.load(run), tmp_path / "plain.safetensors", input_size=SIDE)
    other = vpns.export(vpns.load(run, masked=True), tmp_path / "b.safetensors", input_size=SIDE)
    state, expected = load_file(one), load_file(other)
    assert all(torch.equal(value, expected[name]) for name, value in state.items())
    levels = []
    for path in (one, other):
        with safe_open(path, framework="pt") as file:
            levels.append(float(file.metadata()["sparsity"]))
    assert levels[0] == pytest.approx(levels[1], abs=1e-3)


@pytest.mark.parametrize("opset", [None, 18, 20])
def test_onnx_has_a_dimension_called_batch_and_the_opset_asked_for(
    run: Path, tmp_path: Path, opset: int | None
) -> None:
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "net.onnx"
    vpns.export(vpns.load(run), path, input_size=SIDE, opset=opset)
    model = onnx.load(path)
    for value in (model.graph.input[0], model.graph.output[0]):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    if opset:
        assert {each.domain: each.version for each in model.opset_import}[""] == opset


def test_an_opset_belongs_to_onnx(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", "--run", str(run), "--opset", "18", "--output"]
    assert "only an .onnx file" in refusal(capsys, *arguments, str(tmp_path / "net.pt2"))
    assert "of single files" in refusal(capsys, *arguments, f"{tmp_path}/folder/")
    assert not list(tmp_path.iterdir())


@torch.no_grad()
def test_a_folder_for_the_hub_gives_its_weights_to_another_run(
    run: Path, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = vpns.PromptedClassifier("squeezenet1_1", 10, weights=str(published))
    line = capsys.readouterr().out
    assert "read from model.safetensors" in line
    assert "masks multiplied in (sparsity 0.9" in line
    theirs = vpns.load(run)
    shown = torch.rand(2, 3, SIDE, SIDE)
    torch.testing.assert_close(network.backbone.eval()(shown), theirs.backbone(shown))


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
def test_a_folder_for_the_hub_is_read_back(run: Path, published: Path, masked: bool) -> None:
    files = {"model.safetensors", "config.json", "README.md"}
    assert {path.name for path in published.iterdir()} == files
    network = vpns.load(published, masked=masked)
    assert torch.equal(network(images()), vpns.load(run, masked=masked)(images()))
    assert bool(list(masked_layers(network.backbone))) == masked


def test_pruned_weights_are_zero_in_the_folder_s_file(published: Path) -> None:
    state = load_file(published / "model.safetensors")
    masks = {key: value for key, value in state.items() if key.endswith(".mask")}
    assert masks
    for key, mask in masks.items():
        assert not state[key.removesuffix("mask") + "weight"][~mask].any()


def test_the_card_s_header_is_what_the_hub_reads(published: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard.load(published / "README.md").data
    assert data.library_name == "vpns_lightning"
    assert data.pipeline_tag == "image-classification"
    (measured,) = data.eval_results
    assert (measured.dataset_name, measured.metric_value) == ("Digits", 0.8125)
    _, header, text = (published / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(header)["tags"] == ["pruning", "sparsity", "visual-prompting"]
    assert 'vpns.load("' in text


def test_no_path_of_this_machine_is_published(run: Path, published: Path) -> None:
    config = json.loads((published / "config.json").read_text())
    assert config["id2label"]["3"] == "3"
    assert "root" not in config["data"]["init_args"]
    assert str(run.parent) not in (published / "config.json").read_text()


def test_a_folder_names_no_class_of_another_package(published: Path, tmp_path: Path) -> None:
    for path in published.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["network"]["prompt"]["class_path"] = "subprocess.Popen"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(vpns.UserError, match=r"config\.json|subprocess"):
        vpns.load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(vpns.UserError, match=r"config\.json was not written by vpns export"):
        vpns.load(tmp_path)


def test_a_run_folder_is_not_overwritten(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "export", "--run", str(run), "--output", f"{run}/")
    assert "is a run folder" in said
