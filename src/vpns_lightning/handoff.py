"""What one stage hands to the next: the network as one safetensors file."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vpns_lightning._version import __version__
from vpns_lightning.errors import UserError
from vpns_lightning.files import whole_file
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.sparsity import get_masks, names_hash, tensors_hash

SCHEMA = 1


def save_network(path: Path, network: PromptedClassifier, about: dict[str, Any]) -> None:
    """Write the network's whole state, and plain facts about it in the file's metadata.

    Args:
        path: A ``.safetensors`` file, replaced only once the new one is complete.
        network: The network, without scores.
        about: Facts that JSON can hold, such as the stage just finished.
    """
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    _save(path, state, network, about)


def save_masks(path: Path, network: PromptedClassifier, about: dict[str, Any]) -> None:
    """Write what defines the subnetwork: bool masks, prompt, and label mapping.

    Keys are ``mask.<layer>``, ``prompt.<name>`` and ``mapping.sequence``; of a cut network also
    ``cuts.<layer>.{channels,rows,columns}``, which of the dense network's channels are left.
    """
    state = {
        f"mask.{name}": mask.contiguous() for name, mask in get_masks(network.backbone).items()
    }
    if network.prompt is not None:
        prompt = network.prompt.state_dict()
        state |= {f"prompt.{name}": value.contiguous() for name, value in prompt.items()}
    state |= {f"cuts.{name}": kept.contiguous() for name, kept in network.cuts.state_dict().items()}
    state["mapping.sequence"] = network.mapping.sequence.contiguous()
    _save(path, state, network, about)


def _save(
    path: Path, state: dict[str, Tensor], network: PromptedClassifier, about: dict[str, Any]
) -> None:
    facts = {
        "backbone": network.backbone_name,
        "weights": network.weights_name,
        "num_classes": network.num_classes,
        "source_classes": network.source_classes,
        "prunable_sha256": names_hash(network.backbone),
        "version": __version__,
        "schema": SCHEMA,
        **about,
    }
    with whole_file(path) as temporary:
        save_file(state, temporary, metadata={"vpns": json.dumps(facts)})


def read_about(path: Path) -> dict[str, Any]:
    """Return the facts in the metadata of a file written here.

    Raises:
        UserError: The file is damaged, foreign, or of a newer version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {})["vpns"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} is damaged or was not written by vpns_lightning ({error}): delete it to "
            "repeat that stage"
        ) from None
    if about["schema"] > SCHEMA:
        raise UserError(
            f"{path} was written by vpns_lightning {about['version']}, newer than {__version__}: "
            "upgrade to read it"
        )
    return about


def load_network(path: Path, network: PromptedClassifier) -> dict[str, Any]:
    """Load a file of :func:`save_network` strictly into ``network``; return its facts.

    Raises:
        UserError: The file is of another network; the first differing fact is named.
    """
    about = read_about(path)
    own = {"backbone": network.backbone_name, "num_classes": network.num_classes}
    for fact, value in own.items():
        if about[fact] != value:
            raise UserError(f"{path} is of another network: {fact} {about[fact]!r}, here {value!r}")
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise UserError(
            f"{path} is of another network: {lines[min(1, len(lines) - 1)].strip()}"
        ) from None
    return about


def synchronise(network: PromptedClassifier) -> None:
    """Give every process the buffers of the first, then check that all hold the same network.

    Batch-norm statistics see different images on each process; masks and parameters must be equal
    already.

    Raises:
        RuntimeError: They are not; the first differing tensor is named.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    masks = {f"backbone.{name}.mask" for name in get_masks(network.backbone)}
    for name, buffer in network.named_buffers():
        if name not in masks:
            torch.distributed.broadcast(buffer, src=0)
    digests: list[Any] = [None] * torch.distributed.get_world_size()
    own = {name: tensors_hash([(name, value)]) for name, value in network.state_dict().items()}
    torch.distributed.all_gather_object(digests, own)
    for name in own:
        if any(other[name] != digests[0][name] for other in digests):
            raise RuntimeError(
                f"the processes disagree on {name!r}; nothing was handed on. Resume from the last "
                "checkpoint; if it happens again, please report it with the config"
            )
