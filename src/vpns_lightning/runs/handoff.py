"""What one stage hands to the next: the network as one safetensors file."""

from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import UNSET
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vpns_lightning._version import __version__
from vpns_lightning.base.errors import UserError
from vpns_lightning.base.files import text_hash, whole_file
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.runs.record import SCHEMA, HandOff, NewerError, RunSoFar, decode, encode
from vpns_lightning.sparsity import get_masks, names_hash, tensors_hash


def save_network(
    path: Path, network: PromptedClassifier, run: RunSoFar, *, stage: str, sparsity: float
) -> None:
    """Write the network's whole state, and facts about it in the file's metadata.

    Args:
        path: A ``.safetensors`` file, replaced only once the new one is complete.
        network: The network, without scores.
        run: What is known of its run.
        stage: The stage just finished.
        sparsity: Measured after it.
    """
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    _save(path, state, _facts(network, run, stage=stage, sparsity=sparsity))


def save_masks(
    path: Path,
    network: PromptedClassifier,
    run: RunSoFar | None = None,
    *,
    method: str | None = None,
    stage: str = "",
    sparsity: float | None = None,
) -> None:
    """Write what defines the subnetwork: bool masks, prompt, and label mapping.

    Keys are ``mask.<layer>``, ``prompt.<name>`` and ``mapping.sequence``; of a cut network also
    ``cuts.<layer>.{channels,rows,columns}``, which of the dense network's channels are left.

    Args:
        path: A ``.safetensors`` file, replaced only once the new one is complete.
        network: The network, without scores.
        run: What is known of its run, if it has one.
        method: As the paper writes it, where it is known.
        stage: The stage just finished.
        sparsity: Measured after it.
    """
    state = {
        f"mask.{name}": mask.contiguous() for name, mask in get_masks(network.backbone).items()
    }
    if network.prompt is not None:
        prompt = network.prompt.state_dict()
        state |= {f"prompt.{name}": value.contiguous() for name, value in prompt.items()}
    state |= {f"cuts.{name}": kept.contiguous() for name, kept in network.cuts.state_dict().items()}
    state["mapping.sequence"] = network.mapping.sequence.contiguous()
    _save(path, state, _facts(network, run, stage=stage, sparsity=sparsity, method=method or UNSET))


def _facts(network: PromptedClassifier, run: RunSoFar | None, **known: Any) -> HandOff:
    return HandOff(
        backbone=network.backbone_name,
        weights=network.weights_name,
        num_classes=network.num_classes,
        source_classes=network.source_classes,
        prunable_sha256=names_hash(network.backbone),
        version=__version__,
        schema=SCHEMA,
        **({} if run is None else msgspec.structs.asdict(run)),
        **known,
    )


def _save(path: Path, state: dict[str, Tensor], about: HandOff) -> None:
    """Write tensors and facts, with a hash of either: no byte may change unnoticed."""
    digest = tensors_hash(sorted(state.items()))
    facts = encode(msgspec.structs.replace(about, tensors_sha256=digest))
    metadata = {"format": "pt", "vpns": facts, "vpns_sha256": text_hash(facts)}
    needed = sum(tensor.nbytes for tensor in state.values())
    with whole_file(path, needed=needed, faults=(SafetensorError,)) as temporary:
        save_file(state, temporary, metadata=metadata)


def _tensors(path: Path, about: HandOff) -> dict[str, Tensor]:
    """Return the tensors of a file of such facts; files of before 0.2 may have no hash of them.

    Raises:
        UserError: Their hash is another.
    """
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    if about.tensors_sha256 and tensors_hash(sorted(state.items())) != about.tensors_sha256:
        raise UserError(
            f"{path} is damaged: its tensors have another hash than when they were written; "
            "delete it to repeat that stage"
        )
    return state


def read_about(path: Path) -> HandOff:
    """Return the facts in the metadata of a file written here.

    Raises:
        UserError: The file cannot be read, or is damaged, foreign, or of a newer version.
    """
    try:
        with path.open("rb"):  # safetensors says of a closed file that there is none
            pass
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    try:
        with safe_open(path, framework="pt") as file:
            stored = file.metadata() or {}
        facts = stored["vpns"]
        if stored.get("vpns_sha256", digest := text_hash(facts)) != digest:
            raise ValueError("its facts have another hash than when they were written")
        about = decode(facts, HandOff)
    except NewerError as error:
        raise UserError(f"{path} {error}") from None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} is damaged or was not written by vpns_lightning ({error}): "
            "delete it to repeat that stage"
        ) from None
    return about


def load_network(path: Path, network: PromptedClassifier) -> HandOff:
    """Load a file of :func:`save_network` strictly into ``network``; return its facts.

    Raises:
        UserError: The file is of another network; the first differing fact is named.
    """
    about = read_about(path)
    spec, kind = network.specification, type(network.backbone).__name__
    # version 0.1.0 named a plug-in by its class alone
    plain = spec is not None and not spec.of_library and about.backbone == kind
    for fact, there, here in (
        ("backbone", about.backbone, kind if plain else network.backbone_name),
        ("num_classes", about.num_classes, network.num_classes),
    ):
        if there != here:
            raise UserError(f"{path} is of another network: {fact} {there!r}, here {here!r}")
    state = _tensors(path, about)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise UserError(
            f"{path} is of another network: {lines[min(1, len(lines) - 1)].strip()}"
        ) from None
    return about


def copy_network(source: Path, target: Path, /, **changes: Any) -> None:
    """Copy a file of :func:`save_network`, some facts changed.

    Args:
        source: The file; its tensors are compared with their hash.
        target: The copy, replaced only once it is complete.
        changes: Facts to set.

    Raises:
        UserError: The source is damaged.
    """
    about = read_about(source)
    _save(target, _tensors(source, about), msgspec.structs.replace(about, **changes))


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
