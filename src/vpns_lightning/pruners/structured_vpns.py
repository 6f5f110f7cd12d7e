"""VPNs for channels (https://arxiv.org/abs/2312.01397): scores of channels, and the prompt."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vpns_lightning.base.batches import Batch
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import ChannelGroup, PromptedClassifier
from vpns_lightning.network.channel_graph import Member
from vpns_lightning.pruners.base import BuildOptimizer, StageLike
from vpns_lightning.pruners.structured import Structured, group_energy
from vpns_lightning.sparsity import (
    ChannelScope,
    Gated,
    MaskedLayer,
    gate_layer,
    gated_layers,
    open_gates,
)


class StructuredVPNs(Structured):
    """One score for every channel of a group, learned together with the prompt; weights stay.

    Channels with the lowest ``|score|`` are switched off by gates that are refreshed after every
    step, straight-through as in :class:`LearnedScores`; the gated network answers as the cut one
    will. Scores start at ``sqrt(6 / fan_in) * norm / max(norm)``, with the L2 norm of all weights
    of a channel.

    Args:
        gates: "factors" multiplies both factors of every batch normalisation of a group, and weight
            rows and biases where none follows. A ReLU behind it lets no gradient to a closed
            channel, which then comes back only when open ones fall below it. "inputs" multiplies
            the weight columns of all layers that read the group: every score always learns.
        scope: See :class:`Structured`.
        min_keep: See :class:`Structured`.
        round_to: See :class:`Structured`.
        input_size: See :class:`Structured`.

    Raises:
        UserError: A value is none of those allowed.
    """

    def __init__(
        self,
        *,
        gates: Literal["factors", "inputs"] = "factors",
        scope: ChannelScope = "group",
        min_keep: int = 1,
        round_to: int = 1,
        input_size: int | None = None,
    ) -> None:
        super().__init__(scope=scope, min_keep=min_keep, round_to=round_to, input_size=input_size)
        if gates not in ("factors", "inputs"):
            raise UserError(f"gates multiply factors or inputs, got {gates!r}")
        self.gates = gates
        self.sparsity = 0.0
        self._places: dict[str, list[_Place]] = {}

    def attach(self, network: PromptedClassifier, sparsity: float) -> None:
        """Make scores and gates, freeze all of the backbone's own parameters.

        Raises:
            UserError: See :meth:`Structured.attach`; all weights of a group are zero, or a layer
                normalises channels of several groups.
        """
        self.sparsity = sparsity
        if self.groups:
            return
        super().attach(network, sparsity)
        groups = self.groups_on(network.mean.device)
        scores = {group.name: initial_scores(network, group) for group in groups}
        places = _readers if self.gates == "inputs" else _makers
        self._places = {group.name: places(network, group) for group in self.groups}
        network.backbone.requires_grad_(False)
        for name, layers in self._places.items():
            for layer, columns in layers:
                gate_layer(network.backbone, layer, scores[name], columns)
        self.refresh(network)

    def optimizers(self, network: PromptedClassifier, build: BuildOptimizer) -> list[Optimizer]:
        """Return one optimiser of scores and prompt.

        Raises:
            UserError: Lightning replaced the gated layers.
        """
        if len(list(gated_layers(network))) < sum(len(each) for each in self._places.values()):
            raise UserError(
                "trainer.sync_batchnorm replaces the layers that carry the gates: set it to false, "
                "or learn the channels on one process"
            )
        return super().optimizers(network, build)

    def step(self, stage: StageLike, view: str, batch: Batch) -> None:
        """Take one optimiser step on scores and prompt, then refresh the gates."""
        super().step(stage, view, batch)
        self.refresh(stage.network)

    @torch.no_grad()
    def refresh(self, network: PromptedClassifier) -> None:
        """Set every gate to what the present scores keep."""
        kept = self.choose(self.importance(network), self.sparsity)
        for name, layers in self._places.items():
            for layer, _ in layers:
                self._gated(network, layer).channel_gate.copy_(kept[name])

    def importance(self, network: PromptedClassifier) -> dict[str, Tensor]:
        """Return ``|score|`` of every channel."""
        first = {
            name: self._gated(network, layers[0].layer) for name, layers in self._places.items()
        }
        return {name: layer.channel_scores.detach().abs() for name, layer in first.items()}

    def _gated(self, network: PromptedClassifier, name: str) -> Gated:
        layer = network.backbone.get_submodule(name)
        assert isinstance(layer, Gated)
        return layer

    def release(self, network: PromptedClassifier) -> None:
        """Take the gates off."""
        open_gates(network.backbone)

    def method(self, *, prompted: bool) -> str:
        """Return "VPNs (structured)", or "HYDRA (structured)" without a prompt."""
        return "VPNs (structured)" if prompted else "HYDRA (structured)"


def initial_scores(network: PromptedClassifier, group: ChannelGroup) -> nn.Parameter:
    """Return the scores (channels,) that a group starts with, see :class:`StructuredVPNs`.

    Raises:
        UserError: All its weights are zero: zero scores have zero gradient for ever.
    """
    norm = group_energy(network, group)[0].sqrt()
    if not bool(norm.any()):
        raise UserError(
            f"all weights of the channels of {group.name!r} are zero, so their scores could never "
            "be learned: exclude the layer (network.exclude) or load other weights"
        )
    weight = network.backbone.get_submodule(group.name).weight
    assert isinstance(weight, Tensor)
    return nn.Parameter(norm * (math.sqrt(6 / weight[0].numel()) / norm.max()))


class _Place(NamedTuple):
    """A layer that carries a gate, on its rows or on the columns that read given channels."""

    layer: str
    columns: Tensor | None


def _makers(network: PromptedClassifier, group: ChannelGroup) -> list[_Place]:
    """Return the normalisations of a group, and its makers that none follows."""
    places = []
    for member in group.members:
        layer = network.backbone.get_submodule(member.layer)
        if member.bare or isinstance(layer, nn.BatchNorm2d):
            factors = layer.weight is not None  # normalisation may have none
            _refuse_unless(member.whole() and factors, member)
            places.append(_Place(member.layer, None))
    return places


def _readers(network: PromptedClassifier, group: ChannelGroup) -> list[_Place]:
    """Return the layers that read a group."""
    places = []
    for member in group.members:
        if member.role == "columns":
            columns = member.reads()
            masked = isinstance(network.backbone.get_submodule(member.layer), MaskedLayer)
            _refuse_unless(columns is not None and masked, member)
            places.append(_Place(member.layer, columns))
    return places


def _refuse_unless(possible: bool, member: Member) -> None:
    if not possible:
        raise UserError(
            f"layer {member.layer!r} cannot carry a gate, because it takes channels of several "
            "groups, has no factors or is excluded: use DepGraph, which needs no gates"
        )
