"""Slim: network slimming by batch normalisation's factors (https://arxiv.org/abs/1708.06519)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vpns_lightning.base.errors import UserError
from vpns_lightning.network import ChannelGroup, PromptedClassifier
from vpns_lightning.network.channel_graph import Norm
from vpns_lightning.pruners.structured import Structured
from vpns_lightning.sparsity import ChannelScope


class Slim(Structured):
    """Train with an L1 penalty on gamma, then rank channels by the mean ``|gamma|`` of their group.

    The finding stage trains all weights; before every step ``reg * sign(gamma)`` is added to the
    gradient of gamma. Groups without batch normalisation stay whole.

    Liu et al., 2017, https://arxiv.org/abs/1708.06519.

    Args:
        reg: Weight of the penalty.
        scope: See :class:`Structured`; the authors rank globally.
        min_keep: See :class:`Structured`.
        round_to: See :class:`Structured`.
        input_size: See :class:`Structured`.

    Raises:
        UserError: A number is out of range.
    """

    trains_weights = True
    # a fused optimiser unscales float16's gradients only after the penalty would be added
    scaled_gradients = False

    def __init__(
        self,
        *,
        reg: float = 1e-5,
        scope: ChannelScope = "group",
        min_keep: int = 1,
        round_to: int = 1,
        input_size: int | None = None,
    ) -> None:
        super().__init__(scope=scope, min_keep=min_keep, round_to=round_to, input_size=input_size)
        if reg < 0:
            raise UserError(f"reg is the weight of a penalty, at least 0, got {reg}")
        self.reg = reg

    def can_rank(self, network: PromptedClassifier, group: ChannelGroup) -> bool:
        """Return whether the group has batch normalisation with factors."""
        return any(norm.affine for norm in group.norms(network.backbone))

    def none_to_rank(self, network: PromptedClassifier, groups: Sequence[ChannelGroup]) -> str:
        """Return that no group has batch normalisation, where there are groups."""
        if not groups:
            return super().none_to_rank(network, groups)
        return (
            f"Slim ranks channels by batch normalisation, which those of {network.backbone_name} "
            "have not: use vgg16_bn or a ResNet, or the DepGraph pruner"
        )

    @torch.no_grad()
    def regularize(self, network: PromptedClassifier) -> None:
        """Add ``reg * sign(gamma)`` to the gradient of every gamma, once."""
        # behind a concatenation several groups share a normalisation
        shared = [norm for group in self.groups for norm in group.norms(network.backbone)]
        for norm in dict.fromkeys(shared):
            if norm.weight is not None and norm.weight.grad is not None:
                norm.weight.grad.add_(norm.weight.sign(), alpha=self.reg)

    @torch.no_grad()
    def importance(self, network: PromptedClassifier) -> dict[str, Tensor]:
        """Return the mean ``|gamma|`` over the normalisations of each channel's group."""
        scores = {}
        for group in self.groups_on(network.mean.device):
            total = torch.zeros(group.channels, device=network.mean.device)
            count = torch.zeros_like(total)
            for member in group.members:
                layer = network.backbone.get_submodule(member.layer)
                if not isinstance(layer, Norm) or layer.weight is None:
                    continue
                gamma = layer.weight.abs().float()
                member.add_up(gamma, total)
                member.add_up(torch.ones_like(gamma), count)
            scores[group.name] = total / count
        return scores
