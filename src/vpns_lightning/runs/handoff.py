"""What one stage hands to the next: the network as one safetensors file."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vpns_lightning._version import __version__
from vpns_lightning.base.errors import UserError
from vpns_lightning.base.files import whole_file
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.sparsity import get_masks, names_hash, tensors_hash

SCHEMA = 1
# what every file written here says of its network
FACTS = ("backbone", "weights", "num_classes", "source_classes", "version", "schema")


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
        if about["schema"] > SCHEMA:
            raise UserError(
                f"{path} was written by vpns_lightning {about['version']}, newer than "
                f"{__version__}: upgrade to read it"
            )
        lacking = [fact for fact in FACTS if fact not in about]
    except UserError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        lacking = [str(error)]
    if lacking:
        raise UserError(
            f"{path} is damaged or was not written by vpns_lightning ({', '.join(lacking)}): "
            "delete it to repeat that stage"
        )
    return about


def load_network(path: Path, network: PromptedClassifier) -> dict[str, Any]:
    """Load a file of :func:`save_network` strictly into ``network``; return its facts.

    Raises:
        UserError: The file is of another network; the first differing fact is named.
    """
    about = read_about(path)
    own = {"backbone": network.backbone_name, "num_classes": network.num_classes}
    spec, kind = network.specification, type(network.backbone).__name__
    if spec is not None and not spec.of_library and about["backbone"] == kind:
        own.pop("backbone")  # of version 0.1.0, which named a plug-in by its class alone
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


def copy_network(
    source: Path, target: Path, changes: dict[str, Any], drop: Collection[str] = ()
) -> None:
    """Copy a file of :func:`save_network`, some facts changed and a hash of its tensors added.

    Args:
        source: The file; its tensors are compared with their hash where it names one.
        target: The copy, replaced only once it is complete.
        changes: Facts to set.
        drop: Facts to leave out.

    Raises:
        UserError: The source is damaged.
    """
    about = read_about(source)
    with safe_open(source, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    digest = tensors_hash(sorted(state.items()))
    if about.setdefault("tensors_sha256", digest) != digest:
        raise UserError(f"{source} is damaged: its tensors have another hash; delete it")
    facts = {key: value for key, value in (about | changes).items() if key not in drop}
    with whole_file(target) as temporary:
        save_file(state, temporary, metadata={"vpns": json.dumps(facts)})


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
