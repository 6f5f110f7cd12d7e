"""Masks from a file: a subnetwork found on one data set, tuned on another."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.network.backbones import head_of
from vpns_lightning.pruners.base import Pruner, thaw
from vpns_lightning.sparsity import attention_projections, get_masks, set_masks

TOLERANCE = 0.005  # slicing a head moves the sparsity by less


class Stored(Pruner):
    """Take masks, and the prompt, from another run's ``masks.safetensors`` (the transfer study).

    Finding takes no epoch. The weights are the pretrained ones, and the label mapping is fitted on
    the new data. Masks of a whole source head lose the rows that the mapping does not choose.

    Args:
        path: The file.
        inherit_prompt: Start from the prompt in the file; False starts from a fresh one.

    Raises:
        UserError: The file is missing, damaged, or holds no masks.
    """

    def __init__(self, path: str, *, inherit_prompt: bool = True) -> None:
        super().__init__()
        self.path = Path(path).expanduser()
        self.inherit_prompt = inherit_prompt
        self.source_method: str | None = self._read()[1].get("method")

    def attach(self, network: PromptedClassifier, sparsity: float) -> None:
        """Set masks and prompt.

        Raises:
            UserError: The masks are of another network (the first differing layer is named), of a
                cut one or of another sparsity, or there is no fitting prompt to inherit.
        """
        tensors, _ = self._read()
        if _under("cuts.", tensors):
            raise UserError(
                f"{self.path} is of a network whose channels were cut, which another network "
                "cannot take over: give the masks.safetensors of an unstructured run"
            )
        masks = _under("mask.", tensors)
        removed = 1 - sum(int(m.sum()) for m in masks.values()) / sum(
            m.numel() for m in masks.values()
        )
        if abs(removed - sparsity) > TOLERANCE:
            raise UserError(
                f"the masks in {self.path} have sparsity {removed:.4f}, but find.sparsity is "
                f"{sparsity}: set it to {removed:.4f}, or choose another file"
            )
        name, _ = head_of(network.backbone)
        if name in masks:
            masks[name] = _rows(masks[name], network, tensors.get("mapping.sequence"))
        masks = _attention_dense(network, masks)
        try:
            set_masks(network.backbone, masks)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
        if self.inherit_prompt and network.prompt is not None:
            self._load_prompt(network, _under("prompt.", tensors))

    def finish(self, network: PromptedClassifier, sparsity: float) -> None:
        """Set masks and prompt, and make everything trainable."""
        self.attach(network, sparsity)
        thaw(network)

    def epochs(self, requested: int, sparsity: float = 0.0) -> int:
        """Return 0: the masks are there."""
        return 0

    def method(self, *, prompted: bool) -> str:
        """Return the method that found the masks, marked as transferred."""
        if self.source_method is None:
            return super().method(prompted=prompted)
        return f"{self.source_method} (transferred)"

    def _load_prompt(self, network: PromptedClassifier, state: dict[str, Tensor]) -> None:
        assert network.prompt is not None
        own = {name: tuple(value.shape) for name, value in network.prompt.state_dict().items()}
        stored = {name: tuple(value.shape) for name, value in state.items()}
        if own != stored:
            what = f"has a prompt of {stored}" if stored else "has no prompt"
            raise UserError(
                f"{self.path} {what}, but the network's is of {own}: give the network the same "
                "prompt, or set inherit_prompt to false to start from a fresh one"
            )
        network.prompt.load_state_dict(state)

    def _read(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all tensors and the facts of the file."""
        try:
            with safe_open(self.path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
                about = json.loads((file.metadata() or {}).get("vpns", "{}"))
            if not isinstance(about, dict):
                raise ValueError("its facts are no mapping")
        except (OSError, SafetensorError, ValueError) as error:
            raise UserError(
                f"cannot read masks from {str(self.path)!r} ({error}): give the masks.safetensors "
                "of a finished run"
            ) from None
        masks = _under("mask.", tensors)
        strange = [name for name, mask in masks.items() if mask.dtype != torch.bool]
        if strange:
            raise UserError(
                f"{self.path}: the mask of layer {strange[0]!r} is {masks[strange[0]].dtype}, not "
                "bool: give the masks.safetensors of a finished run"
            )
        if not sum(mask.numel() for mask in masks.values()):
            raise UserError(
                f"{self.path} holds no masks: give the masks.safetensors of a finished run, not "
                "its hand-off"
            )
        return tensors, about


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _attention_dense(network: PromptedClassifier, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return masks with ones for attention, if a file has none of it, as those of 0.1.0."""
    own = get_masks(network.backbone)
    projections = attention_projections(network.backbone) & own.keys()
    if projections & masks.keys():
        return masks
    return masks | {name: torch.ones_like(own[name]) for name in projections}


def _rows(mask: Tensor, network: PromptedClassifier, found_with: Tensor | None) -> Tensor:
    """Return the rows of a whole source head's mask that a sliced head has kept.

    Args:
        mask: Of shape (rows, ...), bool.
        network: With its mapping fitted.
        found_with: Sequence of the mapping that the masks were found with.
    """
    mapping = network.mapping
    if not mapping.sliced or len(mask) != network.source_classes:
        return mask
    # as many target as source classes: the file's head may be in its own mapping's order already
    as_many = found_with is not None and len(found_with) == len(mask)
    if as_many and not torch.equal(found_with.cpu(), torch.arange(len(mask))):  # type: ignore[union-attr]  # as_many says so
        return mask
    return mask[mapping.sequence.to(mask.device)]
