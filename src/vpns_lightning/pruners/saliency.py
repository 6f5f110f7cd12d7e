"""Pruners that rank the weights once and train nothing before that."""

from abc import abstractmethod

from torch import Tensor
from torch.optim import Optimizer

from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners.base import BuildOptimizer, Pruner, require_prunable, thaw
from vpns_lightning.sparsity import Scope, TieRule, select, set_masks


class Saliency(Pruner):
    """One-shot pruning: every weight gets a score, the highest are kept, nothing is trained.

    A method that needs no image writes :meth:`scores`; one that does derives from
    :class:`~vpns_lightning.pruners.DataSaliency`.

    Args:
        scope: Rank over all layers or within each.
        tie_rule: ``"exact"`` keeps ties by index; ``"threshold"`` drops every score that is not
            strictly above the threshold.
    """

    takes_levels = True

    def __init__(self, *, scope: Scope = "global", tie_rule: TieRule = "exact") -> None:
        super().__init__()
        self.scope: Scope = scope
        self.tie_rule: TieRule = tie_rule

    def attach(self, network: PromptedClassifier, sparsity: float) -> None:
        """Change nothing.

        Raises:
            UserError: No layer can be pruned.
        """
        require_prunable(network)

    def optimizers(self, network: PromptedClassifier, build: BuildOptimizer) -> list[Optimizer]:
        """Return none: neither weights nor prompt change before tuning."""
        return []

    def epochs(self, requested: int, sparsity: float = 0.0) -> int:
        """Return 0: no image is needed."""
        return 0

    @abstractmethod
    def scores(self, network: PromptedClassifier) -> dict[str, Tensor]:
        """Return layer name to scores (float32 or float64, of the weight's shape); high is kept."""

    def masks(self, network: PromptedClassifier, sparsity: float) -> dict[str, Tensor]:
        """Return layer name to bool mask: the highest :meth:`scores`, exact to the weight.

        Raises:
            UserError: A score is NaN or infinite; the layer is named.
        """
        return select(
            self.scores(network),
            sparsity,
            scope=self.scope,
            tie_rule=self.tie_rule,
            levels=self.levels,
        )

    def finish(self, network: PromptedClassifier, sparsity: float) -> None:
        """Rank, write the masks, and make every parameter trainable.

        Raises:
            UserError: A score is NaN or infinite; the layer is named.
        """
        set_masks(network.backbone, self.masks(network, sparsity))
        thaw(network)
