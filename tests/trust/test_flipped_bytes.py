"""One flipped byte in a file that a run reads again: noticed, or without any effect."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import vpns_lightning as vpns
from toy_folder import finished_network, write_folder
from vpns_lightning.pruners import Stored
from vpns_lightning.released import read_released
from vpns_lightning.runs.handoff import load_network
from vpns_lightning.sparsity import tensors_hash
from vpns_lightning.training.callbacks import AtomicCheckpointIO

Figures = dict[str, tuple[str, int, str, int]]


def flips(
    path: Path, read: Callable[[Path], str], count: int, seed: int = 0
) -> tuple[int, int, list[int]]:
    """Return how many flips were noticed and harmless, and places of those that changed content."""
    whole = path.read_bytes()
    expected = read(path)
    draw = random.Random(seed)
    noticed, harmless, silent = 0, 0, []
    # headers are short and tensors long: half of the flips in either end
    ends = [*range(min(2000, len(whole))), *range(max(0, len(whole) - 4000), len(whole))]
    for index in range(count):
        place = draw.choice(ends) if index % 2 else draw.randrange(len(whole))
        changed = bytearray(whole)
        changed[place] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            same = read(path) == expected
        except vpns.UserError:
            noticed += 1
            continue
        harmless += same
        if not same:
            silent.append(place)
    path.write_bytes(whole)
    return noticed, harmless, silent


def handoff_at(folder: Path) -> Path:
    return write_folder(folder, finished_network()) / "handoff.safetensors"


def read_handoff(path: Path) -> str:
    network = finished_network()
    about = load_network(path, network)
    return tensors_hash(network.state_dict().items()) + str(about)


def read_masks(path: Path) -> str:
    tensors, about = Stored(str(path))._read()
    return tensors_hash(sorted(tensors.items())) + str(about)


def checkpoint_at(path: Path) -> Path:
    torch.manual_seed(0)
    io = AtomicCheckpointIO()
    state = {"weight": torch.rand(300, 40), "momentum": torch.rand(300, 40)}
    io.save_checkpoint({"state_dict": state, "epoch": 3, "stage": "find"}, path)
    io.teardown()
    return path


def read_checkpoint(path: Path) -> str:
    loaded = AtomicCheckpointIO().load_checkpoint(path)
    return tensors_hash(loaded["state_dict"].items()) + f"{loaded['epoch']}{loaded['stage']}"


def read_imported(path: Path) -> str:
    released = read_released(path)
    named = [*released.weights.items(), *released.scores.items(), ("map", released.sequence)]
    if released.program is not None and released.region is not None:
        named += [("program", released.program), ("region", released.region)]
    return tensors_hash(named) + str(released.epoch)


KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], str]]] = {
    "handoff.safetensors": (lambda folder: handoff_at(folder / "run"), read_handoff),
    "masks.safetensors": (
        lambda folder: handoff_at(folder / "run").with_name("masks.safetensors"),
        read_masks,
    ),
    "last.ckpt": (lambda folder: checkpoint_at(folder / "last.ckpt"), read_checkpoint),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_changes_nothing_unnoticed(kind: str, tmp_path: Path) -> None:
    make, read = KINDS[kind]
    noticed, _, silent = flips(make(tmp_path), read, 16)
    assert not silent
    assert noticed


@pytest.mark.trust
@pytest.mark.parametrize("kind", KINDS)
def test_many_flipped_bytes(kind: str, tmp_path: Path, figures: Figures) -> None:
    make, read = KINDS[kind]
    noticed, harmless, silent = flips(make(tmp_path), read, 400, seed=1)
    figures[f"flipped bytes of {kind}"] = (
        f"noticed {noticed}, without effect {harmless}, of",
        400,
        "read as something else",
        len(silent),
    )
    assert not silent, silent
