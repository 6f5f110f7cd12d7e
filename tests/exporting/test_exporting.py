"""Exported files answer as the network does, and wrong ones never appear."""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from vpns_lightning.base.errors import UserError
from vpns_lightning.exporting import checked, export, formats
from vpns_lightning.network import (
    ExpansivePrompt,
    FixPrompt,
    FrequencyMapping,
    IdentityMapping,
    IterativeMapping,
    LabelMapping,
    LinearHead,
    LowRankPrompt,
    PadPrompt,
    Prompt,
    PromptedClassifier,
    RandomMapping,
    RandomPrompt,
)
from vpns_lightning.pruners import DepGraph
from vpns_lightning.sparsity import bake, get_masks, masked_layers, sparsity_report, unmask_layers


class Tiny(nn.Module):
    """Two convolutions, batch normalisation and a linear head for images of any size."""

    def __init__(self, classes: int = 7) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 6, 3, stride=2)
        self.head = nn.Linear(6, classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.conv2(self.bn(self.conv1(images)).relu()).relu()
        logits: Tensor = self.head(hidden.mean((2, 3)))
        return logits


def finished(
    prompt: Prompt | None = None,
    mapping: LabelMapping | None = None,
    *,
    backbone: str | nn.Module | None = None,
    source: int = 7,
    sparsity: float = 0.6,
) -> PromptedClassifier:
    """Return a network of 4 classes as a run hands it back: pruned, prompted and mapped."""
    torch.manual_seed(1)
    network = PromptedClassifier(
        backbone or Tiny(source), 4, source_classes=source, prompt=prompt, mapping=mapping
    )
    with torch.no_grad():
        for parameter in [] if prompt is None else prompt.parameters():
            parameter.normal_()
        for mask in get_masks(network.backbone).values():
            mask.copy_(torch.rand(mask.shape) >= sparsity)
    network.fit_mapping(torch.randint(9, (source, 4)) if network.mapping.needs_counts else None)
    return network.eval()


def images(size: int, count: int = 3) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(7))


def skip_without_packages(suffix: str) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime") if suffix == ".onnx" else ():
        pytest.importorskip(name, reason=f"{name} comes with the extra [export]")


def read_pt2(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(path).module()


def read_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == ["images"]
    return lambda batch: torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0])


READERS = {".pt2": read_pt2, ".onnx": read_onnx}


def faulty_unmask(backbone: nn.Module) -> nn.Module:
    """Forget the masks instead of folding them."""
    for _, layer in masked_layers(backbone):
        layer.mask = torch.ones_like(layer.mask)
    return unmask_layers(backbone)


PROMPTS: list[tuple[Prompt | None, int]] = [
    (PadPrompt(12, 3), 8),
    (None, 10),
    (RandomPrompt(12, 5), 8),
    (FixPrompt(12, 5, squash="sigmoid"), 12),
    (ExpansivePrompt(12, 6), 6),
    (LowRankPrompt(12, 2), 12),
]


@pytest.mark.parametrize(
    ("suffix", "prompt", "size"),
    [*((".pt2", *each) for each in PROMPTS), *((".onnx", *each) for each in PROMPTS[:4:2])],
)
def test_a_graph_answers_as_the_network_with_its_prompt(
    suffix: str, prompt: Prompt | None, size: int, tmp_path: Path
) -> None:
    skip_without_packages(suffix)
    network = finished(prompt, IterativeMapping())
    answer = READERS[suffix](export(network, tmp_path / f"net{suffix}", input_size=size))
    for count in (1, 4):
        batch = images(size, count)
        with torch.no_grad():
            torch.testing.assert_close(answer(batch), network(batch))


def test_an_onnx_keeps_every_zero_and_adds_none(tmp_path: Path) -> None:
    skip_without_packages(".onnx")
    import onnx

    network = finished(sparsity=0.8)
    model = onnx.load(export(network, tmp_path / "net.onnx", input_size=10))
    stored = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    for name, sparsity in sparsity_report(network.backbone).per_layer.items():
        weight = stored[f"backbone.{name}.weight"]
        assert (weight == 0).sum() / weight.size == pytest.approx(sparsity, abs=1e-6)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["classes"] == "4"


@pytest.mark.parametrize(
    "mapping",
    [FrequencyMapping(), IterativeMapping(), RandomMapping(slice_head=False), LinearHead()],
)
def test_a_safetensors_backbone_answers_target_classes_directly(
    mapping: LabelMapping, tmp_path: Path
) -> None:
    network = finished(mapping=mapping)
    plain = Tiny(4).eval()
    plain.load_state_dict(load_file(export(network, tmp_path / "net.safetensors", input_size=10)))
    batch = images(10)
    with torch.no_grad():
        torch.testing.assert_close(plain((batch - network.mean) / network.std), network(batch))


def test_a_safetensors_file_loads_strictly_into_torchvision(tmp_path: Path) -> None:
    network = finished(PadPrompt(32, 4), backbone="resnet18", source=9, sparsity=0.9)
    path = export(network, tmp_path / "net.safetensors")
    plain = torchvision.models.resnet18(num_classes=4).eval()
    plain.load_state_dict(load_file(path))
    assert network.prompt is not None
    with torch.no_grad():
        prompted = (network.prompt(images(32)) - network.mean) / network.std
        torch.testing.assert_close(plain(prompted), network(images(32)))
    for name, mask in get_masks(network.backbone).items():
        assert not plain.get_parameter(f"{name}.weight")[~mask].any()


def test_dropped_convolution_biases_are_written_as_zeros(tmp_path: Path) -> None:
    network = PromptedClassifier("squeezenet1_1", 4, mapping=IdentityMapping(), drop_conv_bias=True)
    network.fit_mapping()
    state = load_file(export(network, tmp_path / "net.safetensors", input_size=32))
    torchvision.models.squeezenet1_1(num_classes=4).load_state_dict(state)
    assert not state["features.0.bias"].any()


def test_metadata_names_backbone_classes_prompt_and_measured_sparsity(tmp_path: Path) -> None:
    network = finished(PadPrompt(12, 2))
    with safe_open(export(network, tmp_path / "net.safetensors"), framework="pt") as file:
        facts = file.metadata()
    assert (facts["backbone"], facts["classes"], facts["prompt"]) == ("Tiny", "4", "PadPrompt")
    assert json.loads(facts["mean"]) == [0.485, 0.456, 0.406]
    measured = sparsity_report(network.backbone).sparsity
    assert float(facts["sparsity"]) == pytest.approx(measured, abs=1e-7)


@pytest.mark.parametrize(
    ("prompt", "expected"), [(None, "224"), (PadPrompt(12, 2), "12"), (ExpansivePrompt(12, 6), "6")]
)
def test_the_input_size_follows_the_prompt_where_none_is_given(
    prompt: Prompt | None, expected: str, tmp_path: Path
) -> None:
    with safe_open(export(finished(prompt), tmp_path / "n.safetensors"), framework="pt") as file:
        assert file.metadata()["input_size"] == expected


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2"])
def test_the_network_is_left_untouched(suffix: str, tmp_path: Path) -> None:
    network = finished(PadPrompt(12, 2), RandomMapping(slice_head=False))
    bake(network.backbone)
    network.train()
    network.backbone.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    drawn = torch.get_rng_state()
    export(network, tmp_path / f"net{suffix}")
    assert list(before) == list(network.state_dict())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert modes == [module.training for module in network.modules()]
    assert all(layer.baked for _, layer in masked_layers(network.backbone))
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(drawn, torch.get_rng_state())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2"])
def test_a_file_that_answers_otherwise_never_appears(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked, "unmask_layers", faulty_unmask)
    path = tmp_path / f"net{suffix}"
    path.write_text("before")
    with pytest.raises(RuntimeError, match="differ from the network's"):
        export(finished(), path, input_size=10)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_lost_zeros_never_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked, "unmask_layers", faulty_unmask)
    monkeypatch.setattr(checked, "_check_answers", lambda expected, answers: None)
    with pytest.raises(RuntimeError, match="pruned weights"):
        export(finished(), tmp_path / "net.pt2", input_size=10)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2", ".onnx"])
def test_equal_collapsed_layers_are_exported(suffix: str, tmp_path: Path) -> None:
    skip_without_packages(suffix)
    layers = [nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(3)]
    network = finished(backbone=nn.Sequential(*layers, nn.Flatten(), nn.Linear(48, 7)))
    for name in ("0", "1"):
        get_masks(network.backbone)[name].fill_(False)
    assert export(network, tmp_path / f"net{suffix}", input_size=4).is_file()


@pytest.mark.parametrize(("name", "hint"), [("net.onx", "'.onnx'"), ("net", "got 'net'")])
def test_another_suffix_is_refused(name: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"one of .safetensors, .pt2, .onnx.*{hint}"):
        export(finished(), tmp_path / name)


def test_a_network_with_scores_is_refused(tmp_path: Path) -> None:
    network = finished()
    _, layer = next(masked_layers(network.backbone))
    layer.scores = nn.Parameter(torch.ones_like(layer.weight))
    with pytest.raises(UserError, match="'conv1' still learns its mask"):
        export(network, tmp_path / "net.pt2")


def test_an_unfitted_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mapping is not fitted"):
        export(PromptedClassifier(Tiny(), 4), tmp_path / "net.pt2")


@pytest.mark.parametrize(
    ("prompt", "size", "match"),
    [
        (PadPrompt(12, 2), 13, "do not fit the prompt's canvas"),
        (ExpansivePrompt(12, 6), 8, "needs images of that size"),
        (None, 0, "at least 1 px, got 0"),
        (None, 1, "images of 1 px cannot be shown to Tiny"),
    ],
)
def test_images_that_do_not_fit_are_refused(
    prompt: Prompt | None, size: int, match: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=match):
        export(finished(prompt), tmp_path / "net.safetensors", input_size=size)
    assert not list(tmp_path.iterdir())


def test_a_backbone_that_cannot_be_traced_is_refused(tmp_path: Path) -> None:
    class Branching(Tiny):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images if float(images.sum()) > 0 else -images)

    with pytest.raises(UserError, match="Branching cannot be exported in this format"):
        export(finished(backbone=Branching()), tmp_path / "net.pt2", input_size=10)
    assert not list(tmp_path.iterdir())


def test_an_onnx_that_could_not_be_checked_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        formats, "find_spec", lambda name: None if name == "onnxruntime" else object()
    )
    with pytest.raises(UserError, match=r'onnxruntime.*pip install "vpns-lightning\[export\]"'):
        export(finished(), tmp_path / "net.onnx")


@lru_cache(maxsize=1)
def lively(backbone: str, pruned: str = "masked") -> PromptedClassifier:
    """Return a prompted torchvision network whose logits neither vanish nor explode.

    Args:
        backbone: Its name.
        pruned: "masked", or "cut": half of the channels of every group are gone.
    """
    network = finished(PadPrompt(32, 4), backbone=backbone, source=9, sparsity=0.8)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for module in network.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 2, generator=draw)
                module.running_mean.normal_(0, 0.1, generator=draw)
        for _, layer in masked_layers(network.backbone):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=draw)
            layer.weight.mul_(0.2**-0.5 if pruned == "masked" else 2**0.5)
    if pruned == "cut":
        dense = sum(weight.numel() for weight in network.parameters())
        DepGraph(sparse_learning=False, input_size=32).finish(network, 0.5)
        assert sum(weight.numel() for weight in network.parameters()) < dense / 2
        network.eval()
    return network


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize("pruned", ["masked", "cut"])
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "vgg16"])
def test_graphs_of_the_paper_s_backbones_answer_for_any_batch(
    suffix: str, backbone: str, pruned: str, tmp_path: Path
) -> None:
    skip_without_packages(suffix)
    network = lively(backbone, pruned)
    answer = READERS[suffix](export(network, tmp_path / f"net{suffix}", input_size=32))
    for count in (1, 2, 5):
        batch = images(32, count)
        with torch.no_grad():
            expected = network(batch)
            logits = answer(batch)
        assert float(expected.std()) > 0.01
        scale = max(1.0, float(expected.abs().max()))
        assert float((logits - expected).abs().max()) < 1e-4 * scale
        assert torch.equal(logits.argmax(1), expected.argmax(1))
