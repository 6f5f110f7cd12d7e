"""Pruners that remove whole channels, so that time and memory fall on any machine."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from vpns_lightning.base.errors import UserError
from vpns_lightning.network import ChannelGroup, PromptedClassifier, cut, find_groups
from vpns_lightning.network.channel_graph import is_depthwise
from vpns_lightning.pruners.base import Pruner, keep_everything, require_prunable, thaw
from vpns_lightning.sparsity import ChannelScope, check_scores, keep_channels


class Structured(Pruner):
    """Rank the channels of every dependency group, then cut the lowest off the network.

    Channels that meet in a sum or a normalisation can only go together; they form a group (Fang et
    al., 2023, https://arxiv.org/abs/2301.12900). The head's outputs are never cut. ``sparsity`` is
    the fraction of channels removed. Tuning then trains a smaller dense network.

    Args:
        scope: "group" removes that fraction from each group, "global" from all channels ranked
            together.
        min_keep: Channels that every group keeps at least.
        round_to: Every group keeps a multiple of so many channels, rounded up.
        input_size: Side of the images with which the groups are found, px. Where None that of the
            images the network sees: the prompt's canvas, or the data's own size without a prompt.

    Raises:
        UserError: A number is out of range.
    """

    def __init__(
        self,
        *,
        scope: ChannelScope = "group",
        min_keep: int = 1,
        round_to: int = 1,
        input_size: int | None = None,
    ) -> None:
        super().__init__()
        if scope not in ("group", "global"):
            raise UserError(f"channels are ranked by scope group or global, got {scope!r}")
        for name, value in {"min_keep": min_keep, "round_to": round_to}.items():
            if value < 1:
                raise UserError(f"{name} is a number of channels, at least 1, got {value}")
        self.scope: ChannelScope = scope
        self.min_keep = min_keep
        self.round_to = round_to
        self.input_size = input_size
        self.groups: tuple[ChannelGroup, ...] = ()

    def attach(self, network: PromptedClassifier, sparsity: float) -> None:
        """Find the groups.

        Raises:
            UserError: No channel can be pruned, the network was cut before, the backbone is of a
                kind that cannot be cut, or its groups cannot lose so many channels.
        """
        if self.groups:
            return
        require_prunable(network)
        if network.cuts.groups():
            raise UserError("channels of this network were cut before: start from a whole network")
        keep_everything(network)
        groups = find_groups(network, self._tracing_size(network))
        self.groups = tuple(g for g in groups if self.can_rank(network, g))
        if not self.groups:
            raise UserError(self.none_to_rank(network, groups))
        self.choose({g.name: torch.arange(g.channels) for g in self.groups}, sparsity)

    def groups_on(self, device: torch.device) -> tuple[ChannelGroup, ...]:
        """Return the groups, their indices on a device; they stay there."""
        if any(m.positions.device != device for group in self.groups for m in group.members):
            self.groups = tuple(group.to(device) for group in self.groups)
        return self.groups

    def can_rank(self, network: PromptedClassifier, group: ChannelGroup) -> bool:
        """Return whether a group's channels can be ranked; others stay whole and uncounted."""
        return True

    def none_to_rank(self, network: PromptedClassifier, groups: Sequence[ChannelGroup]) -> str:
        """Return why none of the groups can be ranked, in one line."""
        return (
            f"{type(self).__name__} finds no group of channels to prune in "
            f"{network.backbone_name}: all are excluded, or belong to the head"
        )

    @abstractmethod
    def importance(self, network: PromptedClassifier) -> dict[str, Tensor]:
        """Return group name to importance (channels,), float32; higher is better."""

    def choose(self, scores: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """Return group name to bool (channels,): which of them the scores keep."""
        return keep_channels(
            scores,
            sparsity,
            scope=self.scope,
            min_keep=self.min_keep,
            round_to=self.round_to,
        )

    def finish(self, network: PromptedClassifier, sparsity: float) -> None:
        """Cut the least important channels off; make everything trainable.

        Raises:
            UserError: An importance is NaN or infinite; the group is named.
        """
        self.attach(network, sparsity)
        scores = self.importance(network)
        check_scores(scores)
        kept = self.choose(scores, sparsity)
        self.release(network)
        cut(network, self.groups, kept, self._tracing_size(network))
        thaw(network)
        self.groups = ()

    def _tracing_size(self, network: PromptedClassifier) -> int | None:
        return self.input_size or self.seen_size(network)

    def release(self, network: PromptedClassifier) -> None:
        """Take off the network what finding put on it."""


@torch.no_grad()
def group_energy(
    network: PromptedClassifier, group: ChannelGroup, *, depthwise: bool = True
) -> tuple[Tensor, int]:
    """Return the sum of squares of all weights that belong to each channel, and of how many parts.

    Rows of layers that make a channel, columns of layers that read it, and the factors gamma of its
    normalisations; no biases.

    Args:
        network: The network.
        group: Its indices where the network is, see :meth:`Structured.groups_on`.
        depthwise: Count the weights of depthwise convolutions.

    Returns:
        float32 tensor (channels,), and the number of layers' dimensions in it.
    """
    total = torch.zeros(group.channels, device=network.mean.device)
    parts = 0
    for member in group.members:
        layer = network.backbone.get_submodule(member.layer)
        weight = layer.weight
        # a normalisation may have no factors
        if weight is None or (is_depthwise(layer) and not depthwise):
            continue
        parts += 1
        assert isinstance(weight, Tensor)
        dim = 0 if member.role == "rows" else 1
        others = [d for d in range(weight.dim()) if d != dim]
        squares = weight.detach().float().square()
        per_position = squares.sum(others) if others else squares
        member.add_up(per_position, total)
    return total, parts
