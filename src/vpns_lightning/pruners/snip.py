"""SNIP: connection sensitivity (Lee et al., 2019, https://arxiv.org/abs/1810.02340)."""

from typing import Literal

import torch
from torch import Tensor

from vpns_lightning.base.batches import Batch
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners.base import StageLike
from vpns_lightning.pruners.data_saliency import DataSaliency
from vpns_lightning.pruners.random import anywhere
from vpns_lightning.pruners.scoring import BNMode
from vpns_lightning.sparsity import Scope, TieRule


class SNIP(DataSaliency):
    """Keep the weights whose removal would change the loss most: ``|weight * gradient|``.

    The products are summed over all images with their signs; the magnitude is taken last. The
    pretrained weights are scored, not a fresh initialisation.

    Args:
        positions: ``"score"`` keeps the weights of highest score; ``"ratio"`` only keeps as many
            weights a layer as the scores say, at random positions.
        seed: Of the random positions; the run's own where None.
        samples_per_class: See :class:`DataSaliency`, as for the others.
        chunk: Images in one pass of a process.
        bn_mode: Statistics that batch normalisation uses.
        scope: Rank over all layers or within each.
        tie_rule: What happens to ties at the threshold.

    Raises:
        UserError: ``positions`` is unknown, or see :class:`DataSaliency`.
    """

    def __init__(
        self,
        *,
        positions: Literal["score", "ratio"] = "score",
        seed: int | None = None,
        samples_per_class: int = 10,
        chunk: int = 64,
        bn_mode: BNMode = "eval",
        scope: Scope = "global",
        tie_rule: TieRule = "exact",
    ) -> None:
        super().__init__(
            samples_per_class=samples_per_class,
            chunk=chunk,
            bn_mode=bn_mode,
            scope=scope,
            tie_rule=tie_rule,
        )
        if positions not in ("score", "ratio"):
            raise UserError(f"positions must be 'score' or 'ratio', got {positions!r}")
        self.positions = positions
        self.seed = seed

    def saliency(self, stage: StageLike, view: str, batch: Batch) -> dict[str, Tensor]:
        """Return ``weight * gradient`` of the loss summed over a batch."""
        weights = stage.network.prunable()
        loss = stage.loss(view, batch) * len(batch[1])
        grads = torch.autograd.grad(loss, list(weights.values()))
        # the derivative of the loss with respect to a mask of ones
        return {name: w.detach() * g for (name, w), g in zip(weights.items(), grads, strict=True)}

    def scores(self, network: PromptedClassifier) -> dict[str, Tensor]:
        """Return the magnitudes of the sums."""
        return {name: sums.abs() for name, sums in super().scores(network).items()}

    def masks(self, network: PromptedClassifier, sparsity: float) -> dict[str, Tensor]:
        """Return masks of the highest scores, or of as many weights a layer."""
        masks = super().masks(network, sparsity)
        if self.positions == "score":
            return masks
        counts = {name: int(mask.sum()) for name, mask in masks.items()}
        return anywhere(counts, network, self.run_seed if self.seed is None else self.seed)
