"""DepGraph: the norm of all that belongs to a channel (https://arxiv.org/abs/2301.12900)."""

from typing import Literal

import torch
from torch import Tensor

from vpns_lightning.base.errors import UserError
from vpns_lightning.network import ChannelGroup, PromptedClassifier
from vpns_lightning.network.channel_graph import is_depthwise
from vpns_lightning.pruners.structured import Structured, group_energy
from vpns_lightning.sparsity import ChannelScope

Normalizer = Literal["mean", "max"]
STRONGEST = 16.0  # the weakest channel's decay over the strongest one's


class DepGraph(Structured):
    """Rank channels by the squared norm of all weights of their group that belong to them.

    The importance of a channel is the sum of squares over rows, columns and gamma, divided by the
    number of those parts and by the group's largest or mean. With sparse learning the finding stage
    trains all weights under a decay ``reg * 16 ** ((max - norm) / (max - norm_min))`` of each
    channel, which is strongest where the norm is smallest; without, channels are ranked at once.

    Fang et al., 2023, https://arxiv.org/abs/2301.12900; defaults are those of their code,
    https://github.com/VainF/Torch-Pruning, which calls the two ``group_sl`` and ``group_norm``.

    Args:
        sparse_learning: Train under the decay first; False takes no epoch.
        reg: Decay of the strongest channel.
        normalizer: What importances of a group are divided by: its ``"max"`` or its ``"mean"``;
            "max" with sparse learning and "mean" without where None. It matters to a ``"global"``
            scope alone.
        depthwise: Count and decay the weights of depthwise convolutions too.
        scope: See :class:`Structured`.
        min_keep: See :class:`Structured`.
        round_to: See :class:`Structured`.
        input_size: See :class:`Structured`.

    Raises:
        UserError: A number is out of range.
    """

    trains_weights = True

    def __init__(
        self,
        *,
        sparse_learning: bool = True,
        reg: float = 5e-4,
        normalizer: Normalizer | None = None,
        depthwise: bool = False,
        scope: ChannelScope = "group",
        min_keep: int = 1,
        round_to: int = 1,
        input_size: int | None = None,
    ) -> None:
        super().__init__(scope=scope, min_keep=min_keep, round_to=round_to, input_size=input_size)
        if reg < 0:
            raise UserError(f"reg is the weight of a decay, at least 0, got {reg}")
        if normalizer not in (None, "mean", "max"):
            raise UserError(f"normalizer must be 'mean' or 'max', got {normalizer!r}")
        self.sparse_learning = sparse_learning
        # a fused optimiser unscales float16's gradients only after the decay would be added
        self.scaled_gradients = not sparse_learning
        self.reg = reg
        self.normalizer: Normalizer = normalizer or ("max" if sparse_learning else "mean")
        self.depthwise = depthwise

    @torch.no_grad()
    def regularize(self, network: PromptedClassifier) -> None:
        """Add each channel's decay to the gradients of its rows, columns and gammas."""
        if not self.sparse_learning:
            return
        for group in self.groups_on(network.mean.device):
            strength = self.reg * decay(self._energy(network, group)[0].sqrt())
            for member in group.members:
                layer = network.backbone.get_submodule(member.layer)
                weight = layer.weight
                if is_depthwise(layer) and not self.depthwise:
                    continue
                if not isinstance(weight, Tensor) or weight.grad is None:
                    continue
                dim = 0 if member.role == "rows" else 1
                factor = weight.new_zeros(member.size)
                factor[member.positions] = strength[member.channel].to(weight.dtype)
                shape = [-1 if d == dim else 1 for d in range(weight.dim())]
                weight.grad.addcmul_(weight, factor.view(shape))

    def importance(self, network: PromptedClassifier) -> dict[str, Tensor]:
        """Return the mean square of every channel, relative to its group's mean or maximum."""
        groups = self.groups_on(network.mean.device)
        return {group.name: self._relative(network, group) for group in groups}

    def _relative(self, network: PromptedClassifier, group: ChannelGroup) -> Tensor:
        energy, parts = self._energy(network, group)
        mean = energy / parts
        scale = mean.max() if self.normalizer == "max" else mean.mean()
        # a group of zeros has no order, and nothing to divide by
        return mean / scale if bool(mean.any()) else mean

    def _energy(self, network: PromptedClassifier, group: ChannelGroup) -> tuple[Tensor, int]:
        return group_energy(network, group, depthwise=self.depthwise)

    def epochs(self, requested: int, sparsity: float = 0.0) -> int:
        """Return the epochs of sparse learning, 0 without."""
        return requested if self.sparse_learning else 0

    def method(self, *, prompted: bool) -> str:
        """Return "DepGraph", marked where it learns nothing; "VPNs w. DepGraph" with a prompt."""
        name = super().method(prompted=prompted)
        return name if self.sparse_learning else f"{name} (no sparse learning)"


def decay(norm: Tensor) -> Tensor:
    """Return how much stronger each channel decays than the strongest: 1 to 16.

    Args:
        norm: (channels,); where all are equal, all decay alike.
    """
    span = norm.max() - norm.min()
    gap = (norm.max() - norm) / span.clamp(min=torch.finfo(norm.dtype).tiny)
    return torch.pow(STRONGEST, gap)
