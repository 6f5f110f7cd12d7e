"""Weights as people have them on disk: one state dict in many wrappings, and nothing executed."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.tensors import all_finite
from vpns_lightning.network.weight_files import open_weights
from vpns_lightning.sparsity import unpack

SUFFIXES = {".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar", ".pkl", ".onnx", ".pt2", ".h5"}
# under which checkpoints keep their state dict; averages of weights only where nothing else is
WRAPPINGS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "module"),
    *("model_ema", "ema"),
)
# what a folder keeps its weights in: a run of ours, then one of the Hugging Face Hub
IN_FOLDERS = (
    *("handoff.safetensors", "tune/last.ckpt", "find/last.ckpt", "warmup/last.ckpt", "last.ckpt"),
    *("model.safetensors", "pytorch_model.bin"),
)


class Weights(NamedTuple):
    """A state dict, and what was unwrapped to get it.

    Attributes:
        state: Name to tensor, on the CPU.
        notes: One phrase for each thing done.
    """

    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()

    def noting(self, state: Mapping[str, Tensor], *notes: str) -> "Weights":
        """Return another state dict with further notes."""
        return Weights(dict(state), (*self.notes, *notes))


def looks_like_file(weights: str) -> bool:
    """Return whether weights are given as a path, not by a name."""
    path = Path(weights).expanduser()
    return path.suffix in SUFFIXES or "/" in weights or path.exists()


def read_weights(path: Path) -> Weights:
    """Return the state dict in a file or in a folder that holds one.

    Raises:
        UserError: There is none; what is there instead, and what to do.
    """
    path = path.expanduser()
    file = _file_in(path)
    read = _unwrapped(file, open_weights(file))
    if file != path:
        read = read.noting(read.state, f"read from {file.relative_to(path)}")
    read = _masked(file, _unpacked(file, read))
    _check_values(file, read.state)
    return read


def _file_in(path: Path) -> Path:
    if path.is_dir():
        for name in IN_FOLDERS:
            if (path / name).is_file():
                return path / name
        raise UserError(
            f"weights {path} are a folder with no {', '.join(IN_FOLDERS)}: name the file"
        )
    if not path.is_file():
        raise UserError(f"weights file {path} does not exist")
    return path


def _unwrapped(file: Path, content: Any) -> Weights:
    """Return the state dict among what a checkpoint holds."""
    trail: list[str] = []
    others: list[str] = []
    while not _is_state(content):
        if not isinstance(content, Mapping):
            _refuse_content(file, content)
        inside = [key for key in WRAPPINGS if isinstance(content.get(key), Mapping)]
        if not inside:
            _refuse_content(file, content)
        trail.append(inside[0])
        others += inside[1:]
        content = content[inside[0]]
    state = {key: value.detach() for key, value in content.items() if isinstance(value, Tensor)}
    notes = [f"taken from {' > '.join(map(repr, trail))}"] if trail else []
    if others:
        notes.append(f"not from {', '.join(map(repr, others))}, which is there too")
    return Weights(state, tuple(notes))


def _is_state(content: Any) -> bool:
    """Return whether names lead to tensors; a training script may have put a number beside them."""
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        return False
    named = [key for key, value in content.items() if isinstance(value, Tensor)]
    return bool(named) and not any(isinstance(content.get(key), Mapping) for key in WRAPPINGS)


def _refuse_content(file: Path, content: Any) -> NoReturn:
    held = type(content).__name__
    if isinstance(content, Mapping):
        held = f"a mapping of {', '.join(repr(key) for key in list(content)[:8])}"
    raise UserError(
        f"weights file {file} holds no state dict (a mapping of names to tensors), but {held}: "
        f"name a file with one, by itself or under {', '.join(WRAPPINGS)}"
    )


def _unpacked(file: Path, read: Weights) -> Weights:
    """Undo what ``vpns export --compact`` does; refuse masks that come without weights."""
    if any(name.startswith("mask.") for name in read.state):
        raise UserError(
            f"weights file {file} holds masks, not weights: take them over with the Stored pruner "
            "(find.pruner), and give weights here"
        )
    try:
        whole = unpack(read.state)
    except UserError as error:
        raise UserError(f"weights file {file}: {error}") from None
    return read if whole.keys() == read.state.keys() else read.noting(whole, "zeros filled in")


def _masked(file: Path, read: Weights) -> Weights:
    """Multiply masks into their weights: those of torch's pruning, and those of a run."""
    if any(".cuts." in f".{name}" for name in read.state):
        raise UserError(
            f"weights file {file} is of a network whose channels were cut: give weights of a whole "
            "network"
        )
    state = dict(read.state)
    kept = total = 0
    for weight, mask, name in list(_pairs(state)):
        keep = state.pop(mask)
        state[name] = state.pop(weight) * keep
        state.pop(f"{mask.removesuffix('.mask')}.scores", None)
        kept, total = kept + int(keep.count_nonzero()), total + keep.numel()
    if not total:
        return read
    return read.noting(state, f"masks multiplied in (sparsity {1 - kept / total:.4f})")


def _pairs(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str, str]]:
    """Yield keys of a weight and of its mask, and the key of their product."""
    for name in state:
        stem = name.removesuffix("_orig")
        if stem != name and f"{stem}_mask" in state:
            yield name, f"{stem}_mask", stem
        layer = name.removesuffix(".mask")
        if layer != name:
            weights = [key for key in (f"{layer}.weight", f"{layer}_weight") if key in state]
            if weights and state[weights[0]].shape == state[name].shape:
                yield weights[0], name, weights[0]


def _check_values(file: Path, state: Mapping[str, Tensor]) -> None:
    for name, value in state.items():
        if value.is_floating_point() and not all_finite(value):
            bad = int((~torch.isfinite(value)).sum())
            raise UserError(
                f"weights file {file}: {bad} of {value.numel()} values of {name!r} are NaN or "
                "infinite: give an earlier checkpoint of that training, or another file"
            )
