"""Backbones by name, and weights from files that nobody vouches for."""

import os
import urllib.error
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier, build_backbone, classifier_names
from vpns_lightning.network.downloads import file_sha256

NAME = "squeezenet1_1"  # the smallest of torchvision's; its classifier is a convolution
IMAGES = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))


class Payload:
    """Creates a folder when unpickled."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.flag),)


@pytest.fixture(scope="module")
def pretrained() -> nn.Module:
    return torchvision.models.get_model(NAME, num_classes=7).eval()


def saved(path: Path, state: dict[str, Tensor], shape: str) -> str:
    match shape:
        case "safetensors":
            save_file(state, path)
        case "state dict":
            torch.save(state, path)
        case "data parallel":
            torch.save({f"module.{key}": value for key, value in state.items()}, path)
        case "nested":
            torch.save({"epoch": 3, "state_dict": state}, path)
        case "nested data parallel":
            torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, path)
        case _:
            raise AssertionError(shape)
    return str(path)


@pytest.mark.parametrize(
    "shape", ["safetensors", "state dict", "data parallel", "nested", "nested data parallel"]
)
def test_weights_load_from_every_usual_file(
    tmp_path: Path, pretrained: nn.Module, shape: str
) -> None:
    suffix = ".safetensors" if shape == "safetensors" else ".pth"
    path = saved(tmp_path / f"weights{suffix}", pretrained.state_dict(), shape)
    backbone = build_backbone(NAME, path, 3).eval()
    assert torch.equal(backbone(IMAGES), pretrained(IMAGES))


def test_the_file_decides_the_source_classes(tmp_path: Path, pretrained: nn.Module) -> None:
    path = saved(tmp_path / "weights.pt", pretrained.state_dict(), "state dict")
    assert PromptedClassifier(NAME, 3, weights=path).source_classes == 7


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_weights_of_another_network_are_refused_by_key(
    tmp_path: Path, pretrained: nn.Module, change: str
) -> None:
    state = dict(pretrained.state_dict())
    key = "features.3.squeeze.weight"
    if change == "missing":
        del state[key]
    elif change == "unknown":
        key = "features.99.weight"
        state[key] = torch.ones(1)
    else:
        state[key] = state[key][:1]
    path = saved(tmp_path / "weights.pth", state, "state dict")
    with pytest.raises(UserError, match=rf"not of {NAME}: key '{key}' is "):
        build_backbone(NAME, path, 7)


def test_weights_without_the_classifier_are_refused_by_key(
    tmp_path: Path, pretrained: nn.Module
) -> None:
    path = saved(tmp_path / "weights.pth", pretrained.state_dict(), "state dict")
    with pytest.raises(UserError, match=r"not of resnet18: key 'fc\.weight' is missing"):
        build_backbone("resnet18", path, 7)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_a_file_that_is_cut_off_is_refused(
    tmp_path: Path, pretrained: nn.Module, suffix: str, share: float
) -> None:
    shape = "safetensors" if suffix == ".safetensors" else "state dict"
    path = Path(saved(tmp_path / f"weights{suffix}", pretrained.state_dict(), shape))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError, match=r"weights\..* is (damaged|no plain state dict)"):
        build_backbone(NAME, str(path), 7)


@pytest.mark.parametrize("inside", ["alone", "in a state dict"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_and_never_executed(
    tmp_path: Path, inside: str, zipped: bool
) -> None:
    flag = tmp_path / "executed"
    content = Payload(flag) if inside == "alone" else {"a": torch.ones(1), "b": Payload(flag)}
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="is no plain state dict"):
        build_backbone(NAME, str(tmp_path / "weights.pth"), 7)
    assert not flag.exists()


@pytest.mark.parametrize("content", [[torch.ones(1)], torch.ones(1), {"a": 1}])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        build_backbone(NAME, str(tmp_path / "weights.pth"), 7)


def test_an_html_page_instead_of_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"weights\.pth is "):
        build_backbone(NAME, str(tmp_path / "weights.pth"), 7)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.pth does not exist"):
        build_backbone(NAME, str(tmp_path / "nowhere.pth"), 7)


@pytest.mark.parametrize(
    ("typo", "meant"), [("resnet81", "resnet18"), ("ResNet18", "resnet18"), ("vgg16bn", "vgg16_bn")]
)
def test_an_unknown_backbone_gives_the_nearest_name(typo: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"did you mean '{meant}'"):
        build_backbone(typo, None, 7)


def test_unknown_weights_give_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"did you mean 'IMAGENET1K_V1'.* or null"):
        build_backbone("resnet18", "IMAGENET_V1", 7)


def test_the_papers_backbones_are_known() -> None:
    assert {"resnet18", "resnet50", "vgg16", "vgg16_bn"} <= set(classifier_names())


def test_auxiliary_classifiers_are_dropped() -> None:
    backbone = build_backbone("googlenet", None, 5)
    assert backbone.train()(torch.rand(2, 3, 64, 64)).shape == (2, 5)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where torchvision's weights of squeezenet1_1 would lie; nothing is downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    url = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url
    path = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    return path


def test_a_tampered_file_in_the_cache_is_refused_unopened(cached: Path, tmp_path: Path) -> None:
    flag = tmp_path / "executed"
    torch.save(Payload(flag), cached)
    with pytest.raises(
        UserError, match=r"SHA-256 .*, expected .*cut off or was changed; delete it"
    ):
        build_backbone(NAME, "IMAGENET1K_V1", 7)
    assert not flag.exists()


def test_a_file_changed_since_its_first_use_is_refused(
    tmp_path: Path, pretrained: nn.Module, monkeypatch: pytest.MonkeyPatch, cached: Path
) -> None:
    torch.save(pretrained.state_dict(), cached)
    digest = file_sha256(cached)
    named = cached.with_name(f"net-{digest[:8]}.pth")
    cached.rename(named)
    entry = type("Entry", (), {"url": f"https://example.org/{named.name}"})
    monkeypatch.setattr(
        torchvision.models,
        "get_model_weights",
        lambda _: type("W", (), {"__members__": {"A": entry}}),
    )
    backbone = build_backbone(NAME, "A", 7).eval()
    assert torch.equal(backbone(IMAGES), pretrained(IMAGES))
    record = named.with_name(f"{named.name}.sha256")
    assert record.read_text().strip() == digest
    record.write_text(digest[:8] + "0" * 56)  # a file of the same eight digits, but another one
    with pytest.raises(UserError, match="cut off or was changed"):
        build_backbone(NAME, "A", 7)


def test_weights_that_cannot_be_downloaded_say_where_to_put_them(
    cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(url: str, *args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match=f"no route to host.* put it at {cached}"):
        build_backbone(NAME, "IMAGENET1K_V1", 7)
