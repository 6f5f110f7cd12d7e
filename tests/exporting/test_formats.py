"""The code in docs/formats.md reads what is written, and every reader refuses what is not that."""

import json
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_exporting import finished
from torch import Tensor

import vpns_lightning as vpns
from toy_folder import SIDE, finished_network, write_folder
from vpns_lightning import cli
from vpns_lightning.network import PadPrompt, PromptedClassifier, build_backbone
from vpns_lightning.pruners import Stored
from vpns_lightning.sparsity import get_masks, pack, unpack

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)


@pytest.fixture(scope="module")
def network() -> PromptedClassifier:
    return finished_network("resnet18")


@pytest.fixture(scope="module")
def run(network: PromptedClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats") / "run"
    return write_folder(folder, network, method="VPNs", test_accuracy=0.8, test_images=360)


@pytest.fixture(scope="module")
def files(run: Path) -> Path:
    """Return the run folder with a plain and a compact export in it."""
    cli.main(["export", "--run", str(run), "--output", str(run / "net.safetensors")])
    given = ["--output", str(run / "compact.safetensors"), "--compact", "true"]
    cli.main(["export", "--run", str(run), *given])
    return run


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def execute(folder: Path, names: dict[str, Any], *numbers: int) -> None:
    """Run code blocks of the page, by number, where the files lie."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        for number in numbers:
            lines = [line for line in BLOCKS[number].splitlines() if line.strip()]
            assert len(lines) <= 10 + sum(line.startswith(("import", "from")) for line in lines)
            exec(BLOCKS[number], names)
    finally:
        os.chdir(before)


PLAIN, FACTS, CUT, COMPACT, GRAPHS, HUB, MASKS, PROMPTED = range(8)


def test_the_page_has_the_blocks_that_are_run_here() -> None:
    assert len(BLOCKS) == 8


@torch.no_grad()
def test_the_backbone_is_read_as_the_page_says(
    files: Path, network: PromptedClassifier, images: Tensor
) -> None:
    names: dict[str, Any] = {"images": images}
    execute(files, names, PLAIN, FACTS)
    expected = network(images, prompted=False)
    torch.testing.assert_close(names["logits"], expected, rtol=1e-4, atol=1e-5)
    facts = names["facts"]
    assert (facts["backbone"], facts["classes"], facts["layout"]) == ("resnet18", "10", "plain")
    assert facts["prompt"] == "PadPrompt"


@torch.no_grad()
def test_masks_and_prompt_are_read_as_the_page_says(
    files: Path, network: PromptedClassifier, images: Tensor
) -> None:
    names: dict[str, Any] = {"images": images}
    execute(files, names, PLAIN, FACTS, MASKS, PROMPTED)
    own = get_masks(network.backbone)
    assert names["masks"].keys() == own.keys()
    assert all(torch.equal(mask, own[name]) for name, mask in names["masks"].items())
    assert names["sparsity"] == pytest.approx(0.9, abs=1e-3)
    assert names["facts"]["dataset"] == "Digits"
    assert torch.equal(names["tensors"]["mapping.sequence"], network.mapping.sequence)
    torch.testing.assert_close(names["prompted"], network(images), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_tensors_of_other_shapes_are_read_as_the_page_says(files: Path, images: Tensor) -> None:
    names: dict[str, Any] = {}
    execute(files, names, PLAIN)
    whole, state = names["network"], load_file(files / "net.safetensors")
    for key in ("conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"):
        state[f"layer1.0.{key}"] = state[f"layer1.0.{key}"][:40].clone()
    state["layer1.0.conv2.weight"] = state["layer1.0.conv2.weight"][:, :40].clone()
    save_file(state, files / "cut.safetensors")
    execute(files, names, CUT)
    assert names["network"].layer1[0].conv1.weight.shape == (40, 64, 3, 3)
    # channels that are cut answer as channels whose factors are zero
    for factor in (whole.layer1[0].bn1.weight, whole.layer1[0].bn1.bias):
        factor[40:] = 0
    torch.testing.assert_close(names["network"](images), whole(images), rtol=1e-4, atol=1e-5)


def test_a_compact_file_is_read_as_the_page_says_and_is_small(files: Path) -> None:
    names: dict[str, Any] = {}
    execute(files, names, COMPACT)
    plain = load_file(files / "net.safetensors")
    assert names["state"].keys() == plain.keys()
    assert all(torch.equal(value, plain[name]) for name, value in names["state"].items())
    sizes = [(files / name).stat().st_size for name in ("compact.safetensors", "net.safetensors")]
    assert sizes[0] < 0.14 * sizes[1]
    backbone = build_backbone("resnet18", str(files / "compact.safetensors"), 10)
    assert all(torch.equal(value, plain[n]) for n, value in backbone.state_dict().items())


@pytest.mark.slow
@torch.no_grad()
def test_graphs_are_read_as_the_page_says(tmp_path: Path, images: Tensor) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} comes with the extra [export]")
    network = finished(PadPrompt(SIDE, 4))
    for name in ("net.pt2", "net.onnx"):
        vpns.export(network, tmp_path / name)
    names: dict[str, Any] = {"images": images}
    execute(tmp_path, names, GRAPHS)
    for logits in (names["logits_pt2"], torch.from_numpy(names["logits_onnx"])):
        torch.testing.assert_close(logits, network(images), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_folder_of_the_hub_is_read_as_the_page_says(tmp_path: Path, images: Tensor) -> None:
    network = finished_network()
    run = write_folder(tmp_path / "run", network, method="VPNs", test_accuracy=0.8, test_images=360)
    cli.main(["export", "--run", str(run), "--output", f"{tmp_path / 'folder'}/"])
    hub = SimpleNamespace(snapshot_download=lambda _: str(tmp_path / "folder"))
    names: dict[str, Any] = {"vpns": vpns, "huggingface_hub": hub}
    execute(tmp_path, names, HUB)
    torch.testing.assert_close(names["network"](images), network(images), rtol=1e-4, atol=1e-5)


def test_packing_against_a_hand_packed_tensor() -> None:
    value = torch.zeros(3, 40)
    value[0, 0], value[0, 9], value[2, 39] = 5.0, -1.0, 2.0
    packed = pack({"w": value, "dense": torch.ones(40)})
    assert packed["w.kept"].tolist() == [5.0, -1.0, 2.0]
    # places 0, 9 and 119: the highest bit of byte 0, the second of byte 1, the lowest of byte 14
    assert packed["w.places"].tolist() == [128, 64, *[0] * 12, 1]
    assert packed["w.shape"].tolist() == [3, 40]
    assert torch.equal(packed["dense"], torch.ones(40))
    assert torch.equal(unpack(packed)["w"], value)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("kept", None),
        ("places", None),
        ("kept", torch.ones(2)),
        ("places", torch.zeros(3, dtype=torch.uint8)),
        ("shape", torch.tensor([10**9, 10**9])),
        ("shape", torch.tensor([-3, -40])),
    ],
)
def test_packed_parts_that_do_not_fit_are_refused(part: str, value: Tensor | None) -> None:
    packed = pack({"w": torch.eye(40)})
    packed = {k: v for k, v in packed.items() if k != f"w.{part}"}
    if value is not None:
        packed[f"w.{part}"] = value
    with pytest.raises(vpns.UserError, match=r"packed tensor 'w'|packed tensor .*damaged"):
        unpack(packed)


def test_only_safetensors_can_be_compact(tmp_path: Path) -> None:
    with pytest.raises(vpns.UserError, match=r"only a \.safetensors file"):
        vpns.export(finished_network(), tmp_path / "net.pt2", compact=True)


def with_header(whole: bytes, header: Any, size: int | None = None) -> bytes:
    """Return a file with another header and, if asked, another claimed header size."""
    (length,) = struct.unpack("<Q", whole[:8])
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    claimed = len(raw) if size is None else size
    return struct.pack("<Q", claimed) + raw + whole[8 + length :]


def damages(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (what is wrong, content) of files that are cut off, oversized or foreign."""
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    name = next(key for key in header if key != "__metadata__")
    yield "empty", b""
    yield "cut in the size", whole[:3]
    yield "cut in the header", whole[: 8 + length // 2]
    yield "cut in a tensor", whole[:-1]
    yield "more than the header says", whole + b"more"
    for claimed in (2**63, 2**40, 10**8, len(whole)):
        yield f"a header of {claimed} bytes", struct.pack("<Q", claimed) + whole[8:]
    beyond = {**header[name], "data_offsets": [0, 10**12]}
    yield "a tensor beyond the end", with_header(whole, {**header, name: beyond})
    huge = {**header[name], "shape": [10**9, 10**9]}
    yield "a tensor of 10^18 values", with_header(whole, {**header, name: huge})
    yield "an unknown type", with_header(whole, {**header, name: {**header[name], "dtype": "X"}})
    yield "a header that is no JSON", with_header(whole, b"{]")
    yield "a header that is a list", with_header(whole, [1])
    yield "text", b"# a text file\n" * 100
    yield "a pickle", b"\x80\x02}q\x00."
    yield "a zip file", b"PK\x03\x04" + bytes(100)


def attach(path: Path) -> None:
    Stored(str(path)).attach(finished_network(), 0.9)


def refusal_of(read: Callable[[Path], object], path: Path) -> str | None:
    """Return what a reader says of a file, None if it takes it."""
    try:
        read(path)
    except vpns.UserError as refused:
        return str(refused)
    return None


READERS: dict[str, Callable[[Path], object]] = {
    "handoff.safetensors": lambda path: vpns.load(path.parent),
    "masks.safetensors": attach,
    "net.safetensors": lambda path: build_backbone("squeezenet1_1", str(path), 10),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small run folder with an export in it."""
    network = finished_network()
    folder = write_folder(tmp_path_factory.mktemp("small") / "run", network)
    vpns.export(network, folder / "net.safetensors", compact=True)
    return folder


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_refused_by_every_reader(name: str, small: Path) -> None:
    path, read = small / name, READERS[name]
    whole = path.read_bytes()
    read(path)
    for what, content in damages(whole):
        path.write_bytes(content)
        assert name in (refusal_of(read, path) or ""), what
    path.write_bytes(whole)
    read(path)


@pytest.mark.parametrize("name", READERS)
def test_tensors_of_something_else_are_refused(name: str, small: Path) -> None:
    path, read = small / name, READERS[name]
    whole = path.read_bytes()
    save_file({"a": torch.zeros(2)}, path, metadata={"vpns": '{"schema": 1}'})
    with pytest.raises(vpns.UserError, match=re.escape(name)):
        read(path)
    path.write_bytes(whole)


FOREIGN_FACTS = ["[]", "{}", "null", "3", '"x"', '{"schema": "a"}', '{"schema": 99}', "{"]


@pytest.mark.parametrize("facts", FOREIGN_FACTS)
def test_a_hand_off_with_foreign_facts_is_refused(facts: str, small: Path) -> None:
    path = small / "handoff.safetensors"
    whole = path.read_bytes()
    save_file(load_file(path), path, metadata={"vpns": facts})
    with pytest.raises(vpns.UserError, match="damaged or was not written"):
        vpns.load(small)
    path.write_bytes(whole)


def test_masks_that_are_not_bool_are_refused(small: Path, tmp_path: Path) -> None:
    masks = load_file(small / "masks.safetensors")
    masks["mask.features.0"] = masks["mask.features.0"].float() * float("nan")
    save_file(masks, tmp_path / "masks.safetensors")
    with pytest.raises(vpns.UserError, match=r"mask of layer 'features\.0' is torch\.float32"):
        Stored(str(tmp_path / "masks.safetensors"))


def test_a_newer_hand_off_names_the_remedy(small: Path) -> None:
    path = small / "handoff.safetensors"
    whole = path.read_bytes()
    facts = json.dumps({"schema": 99, "version": "9.0"})
    save_file(load_file(path), path, metadata={"vpns": facts})
    with pytest.raises(vpns.UserError, match=r"vpns_lightning 9\.0, newer than .*: upgrade"):
        vpns.load(small)
    path.write_bytes(whole)
