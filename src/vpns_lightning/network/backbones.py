"""Backbones: any torchvision classifier by name, with weights that are checked before use."""

import hashlib
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vpns_lightning.base.errors import UserError, nearest
from vpns_lightning.sparsity import unpack


def classifier_names() -> list[str]:
    """Return the names of torchvision's image classifiers."""
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def head_of(backbone: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Return (name, layer) of the classifier: the last linear or convolution layer.

    Raises:
        UserError: The network has neither.
    """
    found = [(n, m) for n, m in backbone.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if not found:
        raise UserError("the backbone has no linear or convolution layer to use as classifier")
    return found[-1]


def num_outputs(layer: nn.Module) -> int:
    """Return the classes of a head returned by :func:`head_of`."""
    count = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    assert isinstance(count, int)
    return count


def build_backbone(name: str, weights: str | None, num_classes: int) -> nn.Module:
    """Build a torchvision classifier and load its weights.

    Args:
        name: A torchvision classifier, such as ``resnet18``, ``resnet50``, ``vgg16``, ``vgg16_bn``.
        weights: A torchvision weights name (``IMAGENET1K_V1``, ``DEFAULT``), the path of a
            safetensors or state-dict file, or None for random initialisation.
        num_classes: Classes of the head where ``weights`` is None; otherwise the weights decide.

    Raises:
        UserError: The name or the weights are unknown, or the file is of another network; the
            first differing key is named.
    """
    _check_name(name)
    if weights is None:
        return _without_auxiliary(_construct(name, num_classes))
    state = load_weights(name, weights)
    classes = classes_in(name, state, weights)
    backbone = _construct(name, classes)
    _check_same_keys(backbone.state_dict(), state, name, weights)
    backbone.load_state_dict(state)
    return _without_auxiliary(backbone)


def _check_name(name: str) -> None:
    if name not in classifier_names():
        raise UserError(
            f"backbone {name!r} is no torchvision classifier{nearest(name, classifier_names())}; "
            "see torchvision.models.list_models()"
        )


def load_weights(name: str, weights: str) -> dict[str, Tensor]:
    """Return the state dict that ``weights`` names; nothing in a file is ever executed.

    Raises:
        UserError: Neither a file nor a torchvision weights name, or not a readable state dict.
    """
    path = Path(weights)
    if path.suffix in {".safetensors", ".pt", ".pth", ".ckpt", ".bin"} or path.is_file():
        return _read_state(path)
    known = torchvision.models.get_model_weights(name).__members__
    if weights not in known:
        raise UserError(
            f"weights {weights!r} are neither a file nor known for {name}"
            f"{nearest(weights, known)}; allowed: {', '.join(known)}, a file path, or null"
        )
    return _read_state(_download(known[weights].url))


def _construct(name: str, num_classes: int) -> nn.Module:
    kwargs: dict[str, Any] = {"init_weights": True} if name in {"googlenet", "inception_v3"} else {}
    backbone: nn.Module = torchvision.models.get_model(name, num_classes=num_classes, **kwargs)
    return backbone


def _without_auxiliary(backbone: nn.Module) -> nn.Module:
    """Drop auxiliary classifiers, so that training and evaluation return the same logits."""
    if getattr(backbone, "aux_logits", False):
        setattr(backbone, "aux_logits", False)  # noqa: B010  # not declared by nn.Module
        for name in ("AuxLogits", "aux1", "aux2"):
            if hasattr(backbone, name):
                setattr(backbone, name, None)
    return backbone


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"weights file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            return unpack(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except UserError as error:
        raise UserError(f"weights file {path}: {error}") from None
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise UserError(
            f"weights file {path} is damaged or cut off: {_first_line(error)}"
        ) from None
    except Exception as error:  # torch raises pickle.UnpicklingError and kin for foreign content
        raise UserError(
            f"weights file {path} is no plain state dict of tensors and was not opened further: "
            f"{_first_line(error)}"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise UserError(f"weights file {path} holds no state dict (a mapping of names to tensors)")
    return {key.removeprefix("module."): value for key, value in loaded.items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def skeleton(name: str, num_classes: int) -> nn.Module:
    """Return a torchvision classifier whose tensors have shapes, but mostly no storage.

    Raises:
        UserError: The name is unknown.
    """
    _check_name(name)
    try:
        with torch.device("meta"):
            return _construct(name, num_classes)
    except NotImplementedError:  # RegNets compute on their weights while they are built
        with torch.random.fork_rng(devices=[]):
            return _construct(name, num_classes)


def classes_in(name: str, state: dict[str, Tensor], weights: str) -> int:
    """Return how many classes the head in a state dict has.

    Args:
        name: A torchvision classifier.
        state: Its state dict.
        weights: Where that came from, for the message.

    Raises:
        UserError: There is no such head: the state is of another network.
    """
    head_name, _ = head_of(skeleton(name, 1000))
    key = f"{head_name}.weight"
    if key not in state:
        raise UserError(
            f"weights {weights} are not of {name}: key {key!r} is missing (the file has "
            f"{next(iter(state), 'nothing')!r}, ...)"
        )
    return state[key].shape[0]


def _check_same_keys(
    own: dict[str, Tensor], state: dict[str, Tensor], name: str, weights: str
) -> None:
    for key in [*own, *state]:
        if key not in state:
            problem = "is missing in the file"
        elif key not in own:
            problem = "is unknown to the network"
        elif own[key].shape != state[key].shape:
            problem = f"is {tuple(state[key].shape)} in the file, {tuple(own[key].shape)} here"
        else:
            continue
        raise UserError(f"weights {weights} are not of {name}: key {key!r} {problem}")


def _download(url: str) -> Path:
    """Return the cached file of ``url``, downloaded if absent and hashed on every call.

    torchvision's names end in the first eight hex digits of the SHA-256; the full digest seen at
    the first download is kept beside the file, so that a later change of any byte is noticed.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / os.path.basename(urlparse(url).path)
    prefix = path.stem.rpartition("-")[2]
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"pretrained weights could not be downloaded from {url} ({_first_line(error)}): "
                f"fetch that file on another machine and put it at {path}"
            ) from None
    digest = file_sha256(path)
    record = path.with_name(path.name + ".sha256")
    expected = record.read_text().strip() if record.is_file() else prefix
    if not digest.startswith(expected) or not digest.startswith(prefix):
        raise UserError(
            f"pretrained weights {path} have SHA-256 {digest}, expected {expected}...: the file is "
            "cut off or was changed; delete it to download it again"
        )
    if not record.is_file():
        record.write_text(digest + "\n")
    return path


def file_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
