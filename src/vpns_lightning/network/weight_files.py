"""Opening a file of weights: what it holds, or what it is instead; nothing in it is executed."""

import argparse
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from vpns_lightning.base.errors import UserError

# torchvision's and timm's training scripts store their options; it holds plain values alone
SAFE = (argparse.Namespace,)
SHOWN = 3
# first bytes of what is taken for weights, what it is and what to do
FOREIGN = {
    b"<": "a web page: the download met an error or asked to sign in; download it again",
    b"version https://git-lfs": "a pointer of Git LFS: run git lfs pull where it comes from",
    b"{": "JSON text, such as an index of several files: give the file of weights itself",
    b"\x89HDF": "an HDF5 file, as Keras writes: convert it to a state dict of torch first",
    b"\x93NUMPY": "a NumPy array: convert it to a state dict of torch first",
    b"\x1f\x8b": "a compressed archive: unpack it, and give the file inside",
}


def open_weights(file: Path) -> Any:  # whatever the file holds
    """Return what a file holds: of safetensors names and tensors, else what ``torch.save`` wrote.

    Raises:
        UserError: It is something else, damaged, or holds objects whose code would run.
    """
    if file.stat().st_size == 0:
        raise UserError(f"weights file {file} is damaged: it is empty; copy or download it again")
    if _is_safetensors(file):
        return _read_safetensors(file)
    _refuse_foreign(file)
    if file.suffix == ".safetensors" and not zipfile.is_zipfile(file):
        return _read_safetensors(file)
    return _read_pickle(file)


def _is_safetensors(file: Path) -> bool:
    """Return whether a file begins with the length of a header, and that header."""
    with file.open("rb") as opened:
        start = opened.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < file.stat().st_size


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"weights file {file} is damaged or cut off ({error}): copy or download it again"
        ) from None


def _refuse_foreign(file: Path) -> None:
    """Refuse by its first bytes, or by what is in it, a file that is something else."""
    with file.open("rb") as opened:
        start = opened.read(64).lstrip()
    for magic, what in FOREIGN.items():
        if start.startswith(magic):
            raise UserError(f"weights file {file} is {what}")
    if file.suffix == ".onnx":
        raise UserError(
            f"weights file {file} is an ONNX graph: give the state dict that it was exported from"
        )
    if start.startswith(b"PK"):
        _refuse_zip(file)


def _refuse_zip(file: Path) -> None:
    """Refuse a damaged archive, and one of another kind than ``torch.save`` writes."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = [Path(name) for name in archive.namelist()]
            damaged = _damaged(archive)
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        raise UserError(
            f"weights file {file} is damaged or cut off: copy or download it again"
        ) from None
    leaves = {name.name for name in names}
    if "constants.pkl" in leaves:
        raise UserError(
            f"weights file {file} is a TorchScript program, whose code would run when it is "
            "opened: in a program that you trust, "
            "torch.save(torch.jit.load(file).state_dict(), 'weights.pth')"
        )
    if {"archive_format", "archive_version"} & leaves or file.suffix == ".pt2":
        raise UserError(
            f"weights file {file} is a program exported by torch.export: give the state dict, such "
            "as the .safetensors that vpns export writes"
        )
    if "data.pkl" not in leaves:
        raise UserError(
            f"weights file {file} is an archive of other files ({', '.join(sorted(leaves)[:SHOWN])}"
            "): unpack it, and give the file of weights"
        )
    if damaged is not None:
        raise UserError(
            f"weights file {file} is damaged: its record {damaged} has another checksum than when "
            "it was written; copy or download it again"
        )


def _damaged(archive: zipfile.ZipFile) -> str | None:
    """Return the first record whose checksum is wrong.

    Where all are, none was written (``torch.serialization.set_crc32_options``).
    """
    wrong = []
    for entry in archive.infolist():
        try:
            with archive.open(entry) as record:
                while record.read(1 << 20):
                    pass
        except zipfile.BadZipFile:
            wrong.append(entry.filename)
    return wrong[0] if 0 < len(wrong) < len(archive.infolist()) else None


def _read_pickle(file: Path) -> Any:  # what the file holds
    with safe_globals(list(SAFE)):
        foreign = _foreign_globals(file)
        if foreign:
            more = ", ..." if len(foreign) > SHOWN else ""
            raise UserError(
                f"weights file {file} is no plain state dict: it holds objects of "
                f"{', '.join(foreign[:SHOWN])}{more}, whose code would run when it is opened. In "
                "the program that wrote it: torch.save(model.state_dict(), 'weights.pth')"
            )
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        # torch's own words are left out: they offer to open the file without protection
        except (RuntimeError, EOFError, OSError, ValueError, KeyError, AssertionError):
            problem = "is damaged or cut off: copy or download it again"
        except Exception:  # torch raises pickle.UnpicklingError and kin for foreign content
            problem = (
                "is no plain state dict of tensors and was not opened further: in the program that "
                "wrote it, torch.save(model.state_dict(), 'weights.pth')"
            )
    raise UserError(f"weights file {file} {problem}")


def _foreign_globals(file: Path) -> list[str]:
    """Return classes and functions in a file whose code would run; nothing does here."""
    try:
        found = get_unsafe_globals_in_checkpoint(str(file))
        # those of torch and Python come with every pickled model and say least
        return sorted(found, key=lambda name: (name.startswith(("torch.", "builtins.")), name))
    except Exception:  # files of before torch 1.6, or damaged: loading says so
        return []
