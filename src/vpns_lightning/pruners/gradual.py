"""Gradual magnitude pruning (Zhu & Gupta, 2017, https://arxiv.org/abs/1710.01878)."""

from vpns_lightning.base.batches import Batch
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners.base import (
    Pruner,
    StageLike,
    keep_everything,
    require_prunable,
    thaw,
)
from vpns_lightning.pruners.intervals import interval_of
from vpns_lightning.sparsity import (
    get_masks,
    masked_layers,
    prune_count,
    ranked_together,
    select,
    set_masks,
)


class GradualMagnitude(Pruner):
    """One training in which sparsity rises along a cubic ramp.

    After iteration t of n the sparsity is ``s * (1 - (1 - t / n) ** 3)``: the smallest ``|weight|``
    of all layers together are removed and never return. Weights and prompt are trained in the
    finding stage, so tuning may take 0 epochs.

    Args:
        ramp: Fraction of the finding stage after which the final sparsity is reached, in (0, 1].
        every: Iterations between two removals; a tenth of the ramp where the ramp has no more than
            that.

    Raises:
        UserError: A number is out of range.
    """

    trains_weights = True
    takes_levels = True

    def __init__(self, *, ramp: float = 0.75, every: int = 100) -> None:
        super().__init__()
        if not 0 < ramp <= 1:
            raise UserError(f"ramp is a fraction of the finding stage in (0, 1], got {ramp}")
        if every < 1:
            raise UserError(f"weights are removed every >= 1 iterations, got every={every}")
        self.ramp = ramp
        self.every = every
        self.sparsity = 0.0
        self._attached = False

    def attach(self, network: PromptedClassifier, sparsity: float) -> None:
        """Start dense.

        Raises:
            UserError: No layer can be pruned.
        """
        require_prunable(network)
        self.sparsity = sparsity
        if self._attached:
            return
        thaw(network)
        keep_everything(network)
        self._attached = True

    def sparsity_after(self, iterations: int, total: int) -> float:
        """Return the sparsity that the ramp has reached.

        Args:
            iterations: Iterations done.
            total: Iterations of the finding stage.
        """
        return self.sparsity * self._risen(iterations, total)

    def _risen(self, iterations: int, total: int) -> float:
        left = max(0.0, 1 - iterations / max(self.ramp * total, 1))
        return 1 - left**3

    def step(self, stage: StageLike, view: str, batch: Batch) -> None:
        """Take one optimiser step; every few iterations, remove what the ramp says."""
        super().step(stage, view, batch)
        before, total = stage.progress()
        idle = "nothing would be removed before the ramp ends"
        every = interval_of(stage, self.every, self.ramp * total, idle)
        if (before + 1) % every == 0:
            self._remove(stage.network, self.sparsity, self._risen(before + 1, total))

    def finish(self, network: PromptedClassifier, sparsity: float) -> None:
        """Remove the little that is left to remove; keep the trained weights."""
        self._remove(network, sparsity, 1.0)
        thaw(network)
        self._attached = False

    def _remove(self, network: PromptedClassifier, sparsity: float, risen: float) -> None:
        """Remove weights until a fraction of the final sparsity is reached, of every layer's."""
        names = get_masks(network.backbone)
        for group, level in ranked_together(names, sparsity, levels=self.levels):
            _remove_smallest(network, group, level * risen)

    def method(self, *, prompted: bool) -> str:
        """Return "GMP", or "VPNs w. GMP" with a prompt."""
        return "VPNs w. GMP" if prompted else "GMP"


def _remove_smallest(network: PromptedClassifier, names: list[str], sparsity: float) -> None:
    """Remove the smallest remaining weights of some layers until ``sparsity`` is reached there."""
    masks = get_masks(network.backbone)
    alive = {name: masks[name] for name in names}
    total = sum(mask.numel() for mask in alive.values())
    removed = total - sum(int(mask.sum()) for mask in alive.values())
    if prune_count(total, sparsity) <= removed:
        return
    layers = dict(masked_layers(network.backbone))
    scores = {name: layers[name].weight.detach().abs() for name in names}
    set_masks(network.backbone, masks | select(scores, sparsity, alive=alive))
