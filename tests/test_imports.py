"""Arrows never turn back: which room may import which."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vpns_lightning

ROOT = Path(vpns_lightning.__file__).parent

# every room with the rooms it may import besides itself; what comes later imports what came before
FACTS = {"_version", "base"}
TENSORS = FACTS | {"sparsity", "network"}
LEARNING = TENSORS | {"pruners", "stages"}
ALLOWED: dict[str, set[str]] = {
    "_version": set(),
    "base": set(),
    "sparsity": {"base"},
    "network": {"base", "sparsity"},
    "pruners": {"base", "network", "sparsity"},
    "stages": LEARNING - {"stages"},
    "data": {"base"},
    "exporting": TENSORS | {"runs"},
    "benchmarking": TENSORS | {"exporting"},
    "released": TENSORS,
    "runs": LEARNING | {"data"},
    "training": LEARNING | {"data", "exporting", "runs"},
    "grid": LEARNING | {"data", "runs"},
    "report": FACTS | {"runs"},
}
# rooms whose third-party packages are few on purpose
PACKAGES: dict[str, set[str]] = {
    "_version": set(),
    # processes asks Lightning which of several it is; batches and tensors are of tensors,
    # trust tells the parser of configs what it may import, wandb_settings asks W&B which it has
    "base": {"lightning", "torch", "jsonargparse", "wandb", "yaml"},
    # torch's wheels bring Triton where it works, and only selection on a GPU imports it
    "sparsity": {"torch", "numpy", "triton"},
    # the graph of channels and their removal are Torch-Pruning's; timm and the Hub, which it
    # brings, only where a backbone is timm's
    "network": {
        *("torch", "torchvision", "safetensors", "torch_pruning"),
        *("timm", "huggingface_hub"),
    },
    # Stored reads masks from a file; nothing here writes one
    "pruners": {"torch", "safetensors"},
    # MixUp and CutMix are torchvision's
    "stages": {"torch", "torchvision", "lightning", "torchmetrics", "rich"},
    # scipy for the quantiles of Student's t; pandas only where data frames are asked for, W&B where
    # a report is sent there
    "report": {"matplotlib", "msgspec", "numpy", "pandas", "scipy", "wandb", "yaml"},
    "cli": set(),
}
# whatever imports these sits at the top; nothing below may
TOP = {"cli", "commands"}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Yield (dotted name, line) of every import of a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            name = node.module or ""
            if name == "vpns_lightning":
                yield from ((f"{name}.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield name, node.lineno


def rooms_imported(room: str) -> dict[str, str]:
    """Return room to file:line of one import of it, for all files of a room."""
    found = {}
    for path in ROOT.rglob("*.py"):
        if room_of(path) != room:
            continue
        for name, line in imports_of(path):
            first, _, rest = name.partition(".")
            if first == "vpns_lightning" and rest.split(".")[0] != room:
                found[rest.split(".")[0]] = f"{path}:{line}"
    return found


def packages_imported(room: str) -> dict[str, str]:
    found = {}
    for path in ROOT.rglob("*.py"):
        if room_of(path) != room:
            continue
        for name, line in imports_of(path):
            package = name.split(".")[0]
            if package not in sys.stdlib_module_names and package != "vpns_lightning":
                found[package] = f"{path}:{line}"
    return found


ROOMS = sorted({room_of(path) for path in ROOT.rglob("*.py")} - {"__init__"})


def test_every_room_stands_in_the_table() -> None:
    assert set(ROOMS) <= ALLOWED.keys() | TOP


@pytest.mark.parametrize("room", [room for room in ALLOWED if room in ROOMS])
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    strangers = {r: where for r, where in rooms_imported(room).items() if r not in ALLOWED[room]}
    assert not strangers


@pytest.mark.parametrize("room", PACKAGES)
def test_a_room_uses_only_its_packages(room: str) -> None:
    used = packages_imported(room)
    strangers = {name: where for name, where in used.items() if name not in PACKAGES[room]}
    assert not strangers


@pytest.mark.parametrize("room", [room for room in ROOMS if room not in {"cli", "commands"}])
def test_nothing_imports_the_command_line(room: str) -> None:
    assert not rooms_imported(room).keys() & {"cli", "commands"}


def test_the_table_has_no_circle() -> None:
    order = list(ALLOWED)
    while order:
        free = [room for room in order if not ALLOWED[room] & set(order)]
        assert free, f"a circle among {order}"
        order = [room for room in order if room not in free]


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("vpns_lightning", "torch"),
        ("vpns_lightning.sparsity", "torchvision"),
        ("vpns_lightning.pruners", "lightning"),
        ("vpns_lightning.commands.report", "torch"),
        ("vpns_lightning.commands.ls", "torch"),
        ("vpns_lightning.commands.compare", "torch"),
        ("vpns_lightning.report.frames", "pandas"),
    ],
)
def test_importing_a_room_does_not_load_what_it_must_not_know(module: str, absent: str) -> None:
    code = f"import sys, {module}; sys.exit({absent!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
