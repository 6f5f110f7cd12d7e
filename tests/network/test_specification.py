"""Backbones by name: torchvision's, timm's, and those of a plug-in, with their arguments."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import vpns_lightning as vpns
from reference.toy_networks import ToyNet
from vpns_lightning.base import trust
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier, specify
from vpns_lightning.network.timm_weights import timm_weights_file

SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2}
VIT = {"class_path": "timm/vit_tiny_patch16_224", "init_args": SMALL}
NETS = '''
"""Networks of a user: a CIFAR ResNet, and one of a number of classes of its own."""
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x):
        return (x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()


class ResNet(nn.Module):
    def __init__(self, num_classes=10, width=4, blocks=2):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.layer1 = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.linear = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.linear(self.layer1(self.conv1(x)).mean((2, 3)))


def resnet20(width=4, **options):
    return ResNet(width=width, blocks=3, **options)


def fixed():
    return ResNet(num_classes=12)


def no_module():
    return 3
'''


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the name of a plug-in that is imported and trusted, as --plugins does."""
    (tmp_path / "toy_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("toy_nets")
    monkeypatch.setattr(trust, "_named", {"toy_nets"})
    yield "toy_nets"
    sys.modules.pop("toy_nets")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("resnet18", "resnet18"),
        ("torchvision.models.resnet18", "resnet18"),
        ({"class_path": "resnet18"}, "resnet18"),
        ({"class_path": "resnet18", "init_args": {}}, "resnet18"),
        ({"class_path": "vit_b_16", "init_args": {"image_size": 32}}, "vit_b_16(image_size=32)"),
        ({"class_path": "vit_b_16", "image_size": 32}, "vit_b_16(image_size=32)"),
        ("timm/resnet10t", "timm/resnet10t"),
    ],
)
def test_a_backbone_is_known_by_its_name_and_arguments(given: Any, name: str) -> None:
    assert str(specify(given)) == name


def test_a_network_of_timm_is_built_with_its_arguments() -> None:
    network = PromptedClassifier(VIT, 3, source_classes=5)
    assert network.backbone_name.startswith("timm/vit_tiny_patch16_224(depth=1, embed_dim=8,")
    assert "blocks.0.attn.qkv" in network.prunable()
    assert network.source_classes == 5
    assert network(torch.rand(2, 3, 16, 16)).shape == (2, 3)


def test_the_classifier_is_the_one_that_timm_names() -> None:
    network = PromptedClassifier("timm/test_resnet", 3, mapping=vpns.LinearHead())
    assert network.backbone.get_classifier().out_features == 3


@pytest.mark.parametrize("given", ["resnet20", "toy_nets.resnet20", "toy_nets.ResNet"])
def test_a_class_or_function_of_a_plug_in_is_built_by_name(given: str, nets: str) -> None:
    network = PromptedClassifier({"class_path": given, "init_args": {"width": 6}}, 7)
    assert network.backbone_name == f"{given}(width=6)"
    assert network.backbone.conv1.out_channels == 6
    assert network(torch.rand(2, 3, 8, 8)).shape == (2, 7)
    assert PromptedClassifier(given, 7).backbone.conv1.out_channels == 4


def test_a_plug_in_may_have_a_number_of_classes_of_its_own(nets: str) -> None:
    assert PromptedClassifier("fixed", 7).source_classes == 12
    assert PromptedClassifier("fixed", 7, mapping=vpns.LinearHead()).source_classes == 7
    given = {"class_path": "resnet20", "init_args": {"num_classes": 9}}
    assert PromptedClassifier(given, 7).source_classes == 9


def test_weights_decide_the_classes_of_a_plug_in(nets: str, tmp_path: Path) -> None:
    source = sys.modules[nets].resnet20(num_classes=9)
    torch.save({"net": {f"module.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "w")
    network = PromptedClassifier("resnet20", 7, weights=str(tmp_path / "w"))
    assert network.source_classes == 9
    assert torch.equal(network.backbone.conv1.weight, source.conv1.weight)


REFUSED: dict[str, tuple[Any, str]] = {
    "typo": ("resnt18", r"no torchvision classifier \(did you mean 'resnet18'\?\)"),
    "plug-in's typo": ("resnet_20", "did you mean 'resnet20'"),
    "typo of timm": ("timm/resnet10", r"no classifier of timm \(did you mean 'resnet10t'"),
    "tag": ("timm/resnet18.a1_in1k", r"write timm/resnet18, and the tag as network\.weights: a1"),
    "missing": ("toy_nets.resnet21", r"toy_nets has no class or function 'resnet21' \(did you"),
    "stranger": ("os.system", r"not of code that you named: add --plugins os"),
    "no module": ("no_module", "returns a int, not a torch module"),
    "argument": (
        {"class_path": "resnet20", "init_args": {"wdth": 3}},
        "resnet20 refuses its init_args: .*wdth",
    ),
    "torchvision's argument": (
        {"class_path": "vit_b_16", "init_args": {"image_size": 33}},
        "vit_b_16 refuses its init_args: .*indivisible",
    ),
    "pretrained": (
        {"class_path": "timm/resnet10t", "init_args": {"pretrained": True}},
        r"init_args\.pretrained is set elsewhere: .*network\.weights",
    ),
    "checkpoint": (
        {"class_path": "timm/resnet10t", "init_args": {"checkpoint_path": "x.pth"}},
        r"init_args\.checkpoint_path is set elsewhere",
    ),
    "classes": (
        {"class_path": "resnet18", "init_args": {"num_classes": 3}},
        r"num_classes is set elsewhere: .*network\.source_classes",
    ),
    "key": ({"class": "resnet18"}, "is a name, or class_path with a name and init_args"),
    "number": ({"class_path": 3}, "is a name, or class_path with a name"),
    "hub": ("timm/hf-hub:someone/model", "no classifier of timm"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_built_is_refused_in_one_line(case: str, nets: str) -> None:
    given, words = REFUSED[case]
    with pytest.raises(UserError, match=words) as caught:
        PromptedClassifier(given, 4)
    assert "\n" not in str(caught.value)


def test_functions_of_packages_that_are_only_there_are_not_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called = []
    monkeypatch.setattr("posixpath.join", lambda *_, **__: called.append(1))
    with pytest.raises(UserError, match="not of code that you named"):
        PromptedClassifier({"class_path": "posixpath.join", "init_args": {"a": "x"}}, 4)
    assert not called


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpns_lightning.network.specification.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r'pip install "vpns-lightning\[timm\]"'):
        PromptedClassifier("timm/resnet10t", 4)


def test_a_file_of_timm_is_read(tmp_path: Path) -> None:
    source = timm.create_model("test_resnet", num_classes=6)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    network = PromptedClassifier("timm/test_resnet", 5, weights=str(tmp_path / "model.safetensors"))
    assert network.source_classes == 6
    same = network.backbone.state_dict()
    assert all(torch.equal(same[key], value) for key, value in source.state_dict().items())
    # folders as timm itself writes them for the Hugging Face Hub
    for safe, file in ((True, "model.safetensors"), (False, "pytorch_model.bin")):
        folder = tmp_path / file.partition(".")[2]
        timm.models.save_for_hf(source, str(folder), safe_serialization=safe)
        assert {path.name for path in folder.iterdir()} == {"config.json", file}
        read = PromptedClassifier("timm/test_resnet", 5, weights=str(folder))
        assert torch.equal(read.backbone.state_dict()["conv1.0.weight"], same["conv1.0.weight"])


@pytest.mark.parametrize("keeps_head", [True, False])
def test_a_file_for_another_size_of_images_goes_through_timm(
    keeps_head: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = timm.create_model("vit_tiny_patch16_224", num_classes=6, **SMALL | {"img_size": 32})
    state = dict(source.state_dict())
    if not keeps_head:
        state = {key: value for key, value in state.items() if not key.startswith("head.")}
    save_file(state, tmp_path / "model.safetensors")
    network = PromptedClassifier(
        VIT,
        5,
        weights=str(tmp_path / "model.safetensors"),
        mapping=None if keeps_head else vpns.LinearHead(),
    )
    assert "converted by timm" in capsys.readouterr().out
    made = network.backbone.state_dict()
    assert made["pos_embed"].shape == (1, 5, 8)
    assert state["pos_embed"].shape == (1, 17, 8)
    assert torch.equal(made["blocks.0.attn.qkv.weight"], state["blocks.0.attn.qkv.weight"])
    assert network(torch.rand(1, 3, 16, 16)).shape == (1, 5)


def test_a_file_of_another_network_of_timm_is_refused_by_key(tmp_path: Path) -> None:
    source = timm.create_model("test_resnet", num_classes=6)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(
        UserError, match=r"are not of timm/vit_tiny.*: key 'head\.weight' is missing"
    ):
        PromptedClassifier(VIT, 5, weights=str(tmp_path / "model.safetensors"))


def test_timms_pretrained_weights_are_had_by_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = timm.create_model("test_resnet", num_classes=1000)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    asked = []

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    for tag in ("r160_in1k", "DEFAULT"):
        network = PromptedClassifier("timm/test_resnet", 5, weights=tag)
        assert torch.equal(network.backbone.conv1[0].weight, source.conv1[0].weight)
    assert asked == 2 * [("timm/test_resnet.r160_in1k", "model.safetensors")]
    with pytest.raises(UserError, match=r"did you mean 'r160_in1k'.*allowed: DEFAULT, r160_in1k"):
        timm_weights_file(specify("timm/test_resnet"), "r160in1k")


def test_weights_of_timm_that_cannot_be_had_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(repository: str, name: str) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(UserError, match=r"no route to host.*fetch its model\.safetensors"):
        PromptedClassifier("timm/test_resnet", 5, weights="DEFAULT")


def test_weights_are_loaded_into_a_module_too(tmp_path: Path) -> None:
    torch.save(ToyNet(seed=5).state_dict(), tmp_path / "w.pth")
    network = PromptedClassifier(ToyNet(), 4, weights=str(tmp_path / "w.pth"))
    assert torch.equal(network.backbone.conv1.weight, ToyNet(seed=5).conv1.weight)
    with pytest.raises(UserError, match="known for this module"):
        PromptedClassifier(ToyNet(), 4, weights="IMAGENET1K_V1")


def test_depthwise_convolutions_are_pruned_in_place() -> None:
    network = PromptedClassifier("mobilenet_v2", 4)
    depthwise = [m for m in network.backbone.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert len(depthwise) == 17
    assert all(hasattr(layer, "mask") for layer in depthwise)
    assert not network.dense_weights()
    plain = torchvision.models.mobilenet_v2(num_classes=4)
    assert len(network.prunable()) == sum(
        isinstance(m, nn.Conv2d | nn.Linear) for m in plain.modules()
    )
