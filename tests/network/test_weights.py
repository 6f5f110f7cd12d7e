"""Weights as people have them on disk, each kind a real file of a small network."""

import argparse
import copy
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune

import vpns_lightning as vpns
from reference.toy_networks import ToyNet, ToyViT
from toy_run import Parts
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier, build_backbone
from vpns_lightning.network.weights import read_weights
from vpns_lightning.runs.handoff import save_network
from vpns_lightning.runs.record import RunSoFar

NAME = "squeezenet1_1"
IMAGES = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
Make = Callable[[nn.Module, Path], None]


class Module(pl.LightningModule):
    """What people write around a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.save_hyperparameters({"lr": 0.1, "name": "toy"})
        self.model = network
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(10))

    def training_step(self, batch: Tensor) -> Tensor:
        return self.model(batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def put(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{key}": value for key, value in state.items()}


def lightning(network: nn.Module, path: Path) -> None:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(
        Module(copy.deepcopy(network).train()), torch.utils.data.DataLoader(IMAGES, batch_size=2)
    )
    state = trainer.lightning_module.state_dict()
    state.update(put("model.", network.state_dict()))  # statistics move in training
    trainer.lightning_module.load_state_dict(state)
    trainer.save_checkpoint(path)


def torchvision_reference(network: nn.Module, path: Path) -> None:
    average = torch.optim.swa_utils.AveragedModel(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    torch.save(
        {
            "model": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1).state_dict(),
            "epoch": 3,
            "args": argparse.Namespace(lr=0.1, data_path="/data", model="resnet18", amp=False),
            "model_ema": average.state_dict(),
        },
        path,
    )


def pruned(network: nn.Module, path: Path) -> None:
    made = copy.deepcopy(network)
    prune.random_unstructured(made.conv1, "weight", 0.0)
    prune.random_unstructured(made.head, "bias", 0.0)
    torch.save(made.state_dict(), path)


def without(part: str) -> Make:
    def make(network: nn.Module, path: Path) -> None:
        torch.save({k: v for k, v in network.state_dict().items() if part not in k}, path)

    return make


def wrapped(*keys: str, prefix: str = "", **others: Any) -> Make:
    def make(network: nn.Module, path: Path) -> None:
        content: Any = put(prefix, network.state_dict())
        for key in reversed(keys):
            content = {"epoch": 7, key: content, **others}
        torch.save(content, path)

    return make


def compiled_inside(network: nn.Module, path: Path) -> None:
    names = {"conv2.": "conv2._orig_mod.", "bn1.": "bn1.module."}
    state = {}
    for key, value in network.state_dict().items():
        first = key.split(".")[0] + "."
        state[key.replace(first, names.get(first, first))] = value
    torch.save(state, path)


def safetensors_named_bin(network: nn.Module, path: Path) -> None:
    save_file(network.state_dict(), path)


def profiled(network: nn.Module, path: Path) -> None:
    extra = {"conv1.total_ops": torch.zeros(1), "total_params": torch.zeros(1)}
    torch.save(dict(network.state_dict()) | extra, path)


KINDS: dict[str, tuple[Make, str]] = {
    "state dict": (wrapped(), ""),
    "state_dict": (wrapped("state_dict"), "taken from 'state_dict'"),
    "model": (wrapped("model"), "taken from 'model'"),
    "model_state_dict": (wrapped("model_state_dict"), "taken from 'model_state_dict'"),
    "net": (wrapped("net", acc=95.1), "taken from 'net'"),
    "network": (wrapped("network"), "taken from 'network'"),
    "model_ema": (wrapped("model_ema"), "taken from 'model_ema'"),
    "ema": (wrapped("ema"), "taken from 'ema'"),
    "module": (wrapped("module"), "taken from 'module'"),
    "nested": (wrapped("state_dict", "model"), "taken from 'state_dict' > 'model'"),
    "data parallel": (wrapped(prefix="module."), "prefix 'module.' taken off"),
    "compiled": (wrapped(prefix="_orig_mod."), "prefix '_orig_mod.' taken off"),
    "of a module": (wrapped("state_dict", prefix="model."), "prefix 'model.' taken off"),
    "net.": (wrapped(prefix="net."), "prefix 'net.' taken off"),
    "backbone": (wrapped("state_dict", prefix="backbone."), "prefix 'backbone.' taken off"),
    "encoder": (wrapped(prefix="encoder."), "prefix 'encoder.' taken off"),
    "all of it": (
        wrapped("state_dict", prefix="module._orig_mod.model.backbone."),
        "prefix '_orig_mod.' taken off; prefix 'model.' taken off",
    ),
    "compiled inside": (compiled_inside, "'_orig_mod.' taken out of names"),
    "lightning": (lightning, "without criterion.weight"),
    "torchvision's scripts": (
        torchvision_reference,
        "taken from 'model'; not from 'model_ema', which is there too",
    ),
    "without counters": (without("num_batches_tracked"), "2 num_batches_tracked set to 0"),
    "torch's pruning": (pruned, r"masks multiplied in (sparsity 0.0000)"),
    "safetensors by another suffix": (safetensors_named_bin, ""),
    "profiled": (profiled, "without conv1.total_ops, total_params"),
}
QUIET = ["ignore:.*does not have many workers.*", "ignore:.*smaller than the logging interval.*"]


@pytest.mark.filterwarnings(*QUIET)
@pytest.mark.parametrize("kind", KINDS)
def test_one_state_dict_loads_from_every_wrapping_and_says_what_was_unwrapped(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, note = KINDS[kind]
    source = ToyNet(seed=5).eval()
    make(source, tmp_path / "weights.pth")
    capsys.readouterr()
    made = PromptedClassifier(ToyNet(seed=6), 4, weights=str(tmp_path / "weights.pth"))
    loaded = made.backbone.state_dict()
    same = {key: torch.equal(loaded[key], value) for key, value in source.state_dict().items()}
    assert all(same.values()), same
    lines = capsys.readouterr().out.splitlines()
    if note:
        (line,) = lines
        assert line.startswith(f"weights {tmp_path / 'weights.pth'}: ")
        assert note in line
    else:
        assert not lines


def test_masks_of_torchs_pruning_are_multiplied_in(tmp_path: Path) -> None:
    source = ToyNet(seed=5).eval()
    made = copy.deepcopy(source)
    prune.l1_unstructured(made.conv2, "weight", 0.75)
    torch.save(made.state_dict(), tmp_path / "weights.pth")
    state = read_weights(tmp_path / "weights.pth").state
    assert int((state["conv2.weight"] == 0).sum()) == 432
    assert torch.equal(state["conv2.weight"], made.conv2.weight)
    assert state.keys() == source.state_dict().keys()


def test_weights_of_an_average_are_read_where_nothing_else_is(tmp_path: Path) -> None:
    source = ToyNet(seed=5)
    average = torch.optim.swa_utils.AveragedModel(source)
    torch.save({"model_ema": average.state_dict()}, tmp_path / "ema.pth")
    network = ToyNet(seed=6)
    vpns.network.backbones.take_weights(network, str(tmp_path / "ema.pth"))
    assert torch.equal(network.conv1.weight, source.conv1.weight)


@pytest.mark.parametrize("kind", ["no head", "another head", "a head of several layers"])
def test_a_mapping_with_its_own_head_takes_weights_without_one(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ToyNet(seed=5).eval()
    state = {k: v for k, v in source.state_dict().items() if not k.startswith("head")}
    if kind == "another head":
        state = ToyNet(classes=3, seed=5).state_dict()
    elif kind == "a head of several layers":
        state |= {"head.0.weight": torch.ones(5, 8), "head.2.weight": torch.ones(3, 5)}
    torch.save(state, tmp_path / "weights.pth")
    weights = str(tmp_path / "weights.pth")
    capsys.readouterr()
    network = PromptedClassifier(ToyNet(), 25, weights=weights, mapping=vpns.LinearHead())
    # a classifier that would fit is no matter to speak of
    assert ("without head" in capsys.readouterr().out) == (kind == "a head of several layers")
    assert torch.equal(network.backbone.conv2.weight, source.conv2.weight)
    assert network(IMAGES).shape == (2, 25)
    if kind == "no head":
        with pytest.raises(
            UserError, match=r"'head\.weight' is missing; set network\.mapping to LinearHead"
        ):
            PromptedClassifier(ToyNet(), 4, weights=weights)


def test_a_torchvision_network_without_its_head_takes_a_linear_head(tmp_path: Path) -> None:
    source = torchvision.models.get_model(NAME)
    state = {k: v for k, v in source.state_dict().items() if not k.startswith("classifier")}
    torch.save({"state_dict": put("backbone.", state)}, tmp_path / "weights.pth")
    network = PromptedClassifier(
        NAME, 7, weights=str(tmp_path / "weights.pth"), mapping=vpns.LinearHead()
    )
    key = "features.3.squeeze.weight"
    assert torch.equal(network.backbone.state_dict()[key], source.state_dict()[key])
    assert network(torch.rand(1, 3, 40, 40)).shape == (1, 7)


def test_a_fresh_head_is_drawn_as_in_version_0_1_0(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(num_classes=9).state_dict(), tmp_path / "w.pth")
    torch.manual_seed(3)
    network = PromptedClassifier(
        "resnet18", 4, weights=str(tmp_path / "w.pth"), mapping=vpns.LinearHead()
    )
    torch.manual_seed(3)
    torchvision.models.resnet18(num_classes=9)
    assert torch.equal(network.backbone.fc.weight, nn.Linear(512, 4).weight)


def test_a_vision_transformer_keeps_its_own_encoder(tmp_path: Path) -> None:
    options = {"image_size": 32, "patch_size": 16, "num_layers": 1, "num_heads": 2}
    source = torchvision.models.VisionTransformer(**options, hidden_dim=8, mlp_dim=8, num_classes=5)
    older = {}
    for key, value in source.state_dict().items():  # as torchvision's own files are
        key = key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2.")
        older[f"module.{key}"] = torch.rand_like(value)
    torch.save(older, tmp_path / "weights.pth")
    network = PromptedClassifier(source, 5, weights=str(tmp_path / "weights.pth"))
    layer = "encoder.layers.encoder_layer_0"
    state = network.backbone.state_dict()
    assert torch.equal(state[f"{layer}.mlp.3.weight"], older[f"module.{layer}.mlp.linear_2.weight"])


def test_densenet_reads_torchvisions_own_names(tmp_path: Path) -> None:
    source = torchvision.models.densenet121(num_classes=3)
    pattern = r"(denselayer\d+)\.(norm|conv)(\d)\."
    older = {re.sub(pattern, r"\1.\2.\3.", key): v for key, v in source.state_dict().items()}
    assert older.keys() != source.state_dict().keys()
    torch.save(older, tmp_path / "weights.pth")
    made = build_backbone("densenet121", str(tmp_path / "weights.pth"), 9)
    for key, value in source.state_dict().items():
        assert torch.equal(made.state_dict()[key], value), key


@pytest.mark.parametrize(
    "file", ["folder", "handoff.safetensors", "tune/last.ckpt", "find/last.ckpt"]
)
def test_a_run_of_ours_gives_its_weights(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = Parts(pruner=vpns.OMP(), epochs=1)
    parts.fit(tmp_path / "run")
    if file == "find/last.ckpt":
        Parts(pruner=vpns.Hydra(), epochs=1).fit(tmp_path / "run2")
        path = tmp_path / "run2" / file
    else:
        path = tmp_path / "run" / ("" if file == "folder" else file)
    capsys.readouterr()
    network = PromptedClassifier(ToyNet(classes=4), 4, weights=str(path))
    line = capsys.readouterr().out
    assert "masks multiplied in (sparsity 0.7998)" in line
    zeros = sum(int((weight == 0).sum()) for weight in network.prunable().values())
    total = sum(weight.numel() for weight in network.prunable().values())
    assert zeros == int(0.8 * total) == 659
    if file == "folder":
        assert "read from handoff.safetensors" in line
        images = torch.rand(2, 3, 16, 16)
        trained = parts.network.backbone.eval()
        torch.testing.assert_close(network.backbone.eval()(images), trained(images))


def test_a_transformers_masks_in_a_run_are_multiplied_in(tmp_path: Path) -> None:
    network = PromptedClassifier(ToyViT(), 10, mapping=vpns.IdentityMapping())
    network.fit_mapping()
    for layer in network.backbone.modules():
        if hasattr(layer, "mask"):
            layer.mask[0] = False
    known = RunSoFar(seed=7, dataset="Digits", input_size=8)
    save_network(tmp_path / "handoff.safetensors", network, known, stage="tune", sparsity=0.1)
    made = PromptedClassifier(ToyViT(seed=1), 10, weights=str(tmp_path))
    weight = made.backbone.blocks[0].attention.in_proj.weight
    assert bool((weight[0] == 0).all())
    assert torch.equal(weight[1:], network.backbone.blocks[0].attention.in_proj.weight[1:])


def refused(path: Path, backbone: nn.Module | str = "", classes: int = 4, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        PromptedClassifier(backbone or ToyNet(), classes, weights=str(path), **options)
    text = str(caught.value)
    assert str(path) in text
    assert "weights_only" not in text
    assert "\n" not in text
    return text


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_a_program_is_refused_with_what_to_do(tmp_path: Path) -> None:
    network = ToyNet().eval()
    torch.jit.save(torch.jit.trace(network, IMAGES), tmp_path / "net.pt")
    assert "is a TorchScript program" in refused(tmp_path / "net.pt")
    assert ".state_dict()" in refused(tmp_path / "net.pt")
    torch.export.save(torch.export.export(network, (IMAGES,)), tmp_path / "net.pt2")
    assert "exported by torch.export" in refused(tmp_path / "net.pt2")


def test_a_whole_pickled_model_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.save(torchvision.models.get_model(NAME), tmp_path / "model.pth")
    text = refused(tmp_path / "model.pth")
    assert "torchvision.models.squeezenet" in text
    assert "torch.save(model.state_dict(), 'weights.pth')" in text


@pytest.mark.parametrize("kind", [Path, range])
def test_only_a_namespace_of_options_is_let_through(kind: type, tmp_path: Path) -> None:
    held = kind("/data") if kind is Path else kind(3)
    content = {"model": ToyNet().state_dict(), "args": argparse.Namespace(path=held)}
    torch.save(content, tmp_path / "model.pth")
    assert "code would run" in refused(tmp_path / "model.pth")


def test_a_head_of_another_class_count_says_what_to_do(tmp_path: Path) -> None:
    torch.save(ToyNet(classes=6).state_dict(), tmp_path / "six.pth")
    text = refused(tmp_path / "six.pth")
    assert "a classifier of 6 classes, but ToyNet is built with 10" in text
    assert "LinearHead" in text
    torch.save(torchvision.models.get_model(NAME, num_classes=6).state_dict(), tmp_path / "six.pth")
    with pytest.raises(UserError, match=r"10 target classes cannot be mapped onto 6 .* LinearHead"):
        PromptedClassifier(NAME, 10, weights=str(tmp_path / "six.pth"))


def test_another_backbone_is_named(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet34(num_classes=3).state_dict(), tmp_path / "net.pth")
    text = refused(tmp_path / "net.pth", "resnet18", 3)
    assert "not of resnet18: key 'layer1.2.conv1.weight' is unknown to the network" in text
    assert "they are of resnet34: set network.backbone to that" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused_by_name(value: float, tmp_path: Path) -> None:
    state = ToyNet().state_dict()
    state["conv2.weight"].view(-1)[:3] = value
    torch.save({"state_dict": put("model.", state)}, tmp_path / "nan.pth")
    text = refused(tmp_path / "nan.pth")
    assert "3 of 576 values of 'model.conv2.weight' are NaN or infinite" in text
    assert "learning rate" not in text


def test_a_damaged_record_is_found_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(ToyNet().state_dict(), path)
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda each: each.file_size)
    content = bytearray(path.read_bytes())
    # a value inside the record, far from headers
    content[entry.header_offset + entry.file_size // 2 + 200] ^= 1
    path.write_bytes(bytes(content))
    text = refused(path)
    assert "is damaged: its record" in text
    assert "another checksum" in text


def test_archives_without_checksums_are_read(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(ToyNet(seed=5).state_dict(), tmp_path / "net.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    state = read_weights(tmp_path / "net.pth").state
    assert torch.equal(state["conv1.weight"], ToyNet(seed=5).conv1.weight)


CONTENTS = {
    "empty": (b"", "is empty"),
    "html": (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
    "html after space": (b"\n  <html>404</html>", "a web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "json": (b'{"weight_map": {}}', "JSON text"),
    "keras": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "numpy": (b"\x93NUMPY\x01\x00", "a NumPy array"),
    "gzip": (b"\x1f\x8b\x08\x00", "unpack it"),
    "noise": (b"\x00\x01\x02" * 99, "damaged|no plain state dict"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ""])
@pytest.mark.parametrize("content", CONTENTS)
def test_what_is_no_weights_file_is_said_in_one_line(
    content: str, suffix: str, tmp_path: Path
) -> None:
    data, words = CONTENTS[content]
    path = tmp_path / f"file{suffix}"
    path.write_bytes(data)
    assert re.search(words, refused(path))


def test_other_archives_and_folders_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("best.pth", b"x")
    assert "an archive of other files (best.pth): unpack it" in refused(tmp_path / "all.zip")
    (tmp_path / "empty").mkdir()
    assert "a folder with no handoff.safetensors" in refused(tmp_path / "empty")


def test_masks_are_no_weights(tmp_path: Path) -> None:
    save_file({"mask.conv1": torch.ones(2, dtype=torch.bool)}, tmp_path / "masks.safetensors")
    assert "Stored pruner" in refused(tmp_path / "masks.safetensors")


def test_weights_of_a_cut_network_are_refused(tmp_path: Path) -> None:
    Parts(pruner=vpns.DepGraph(), sparsity=0.5, epochs=1).fit(tmp_path / "run")
    assert "channels were cut" in refused(tmp_path / "run")
