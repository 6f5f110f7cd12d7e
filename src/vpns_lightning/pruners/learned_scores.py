"""Pruners that learn one score per weight by gradient descent and keep the highest."""

import math
from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vpns_lightning.base.batches import Batch
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners.base import Pruner, StageLike, require_prunable, thaw
from vpns_lightning.sparsity import (
    MaskedLayer,
    Scope,
    TieRule,
    keep_highest,
    masked_layers,
    prune_count,
    ranked_together,
    select,
    set_masks,
)


def scaled_init(weight: Tensor) -> Tensor:
    """Return HYDRA's initial scores: ``sqrt(6 / fan_in) * weight / max|weight|``.

    Sehwag et al., 2020, https://arxiv.org/abs/2002.10509. For float32 weights equal to the released
    code of VPNs to the last bit.

    Args:
        weight: Tensor of shape (out, in, ...); fan_in is the product of all but the first.

    Returns:
        float32 tensor of the same shape and memory format.
    """
    fan_in = weight[0].numel()
    values = weight.detach().float()
    # in this order, as the released code has it: another one moves half of the scores by one bit
    return (math.sqrt(6 / fan_in) * values).div_(values.abs().max())


class LearnedScores(Pruner):
    """Scores and prompt are learned, weights stay as they are (VPNs, Eqs. 4-5).

    After every optimiser step the masks are refreshed from all scores, so the forward pass always
    has exactly the requested sparsity.

    Args:
        scope: Rank ``|scores|`` over all layers (the paper) or within each.
        tie_rule: ``"exact"`` keeps ties by index; ``"threshold"`` drops every score that is not
            strictly above the threshold, as the released code does.

    Attributes:
        threshold: 0-d float32 buffer: the highest removed ``|score|`` of the layers that are
            ranked together (global scope).
    """

    takes_levels = True
    threshold: Tensor

    def __init__(self, *, scope: Scope = "global", tie_rule: TieRule = "exact") -> None:
        super().__init__()
        self.scope = scope
        self.tie_rule: TieRule = tie_rule
        self.sparsity = 0.0
        self.register_buffer("threshold", torch.zeros(()))

    def attach(self, network: PromptedClassifier, sparsity: float) -> None:
        """Create the scores, freeze all of the backbone's own parameters, set the first masks.

        Raises:
            UserError: No layer can be pruned, or a layer's weights are all zero: zero scores have
                zero gradient for ever.
        """
        require_prunable(network)
        self.sparsity = sparsity
        network.backbone.requires_grad_(False)
        fresh = False
        for name, layer in masked_layers(network.backbone):
            if layer.scores is None:
                if not bool(layer.weight.any()):
                    raise UserError(
                        f"all weights of layer {name!r} are zero, so its scores could never be "
                        "learned: exclude it (network.exclude) or load other weights"
                    )
                layer.scores = nn.Parameter(self.initial_scores(layer.weight))
                fresh = True
            layer.scores.requires_grad_(True)
        if fresh:
            self.refresh(network)

    @abstractmethod
    def initial_scores(self, weight: Tensor) -> Tensor:
        """Return the float32 scores that ``weight`` starts with, of its shape."""

    def step(self, stage: StageLike, view: str, batch: Batch) -> None:
        """Take one optimiser step on scores and prompt, then refresh the masks."""
        super().step(stage, view, batch)
        self.refresh(stage.network)

    def refresh(self, network: PromptedClassifier) -> None:
        """Write the masks that the present scores give."""
        for place, (layers, level) in enumerate(self._groups(network)):
            scores = [layer.scores for layer in layers if layer.scores is not None]
            n_prune = prune_count(sum(s.numel() for s in scores), level)
            masks = [layer.mask for layer in layers]
            threshold = keep_highest(scores, n_prune, masks, absolute=True, tie_rule=self.tie_rule)
            if self.scope == "global" and place == 0:
                self.threshold.copy_(threshold)

    def _groups(self, network: PromptedClassifier) -> Iterator[tuple[list[MaskedLayer], float]]:
        """Yield layers that are ranked together and their sparsity, those without a level first."""
        layers = dict(masked_layers(network.backbone))
        for names, level in ranked_together(
            layers, self.sparsity, scope=self.scope, levels=self.levels
        ):
            yield [layers[name] for name in names], level

    def finish(self, network: PromptedClassifier, sparsity: float) -> None:
        """Freeze the masks of the final scores, drop the scores, thaw the weights.

        Raises:
            UserError: A score is NaN or infinite; the layer is named.
        """
        scores = {
            name: layer.scores.abs()
            for name, layer in masked_layers(network.backbone)
            if layer.scores is not None
        }
        if scores:
            masks = select(
                scores, sparsity, scope=self.scope, tie_rule=self.tie_rule, levels=self.levels
            )
            set_masks(network.backbone, masks)
        thaw(network)
