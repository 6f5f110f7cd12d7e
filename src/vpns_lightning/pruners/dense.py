"""No pruning: the reference every curve is compared with."""

from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners.base import Pruner, keep_everything, thaw


class Dense(Pruner):
    """Keep every weight; finding takes no epoch."""

    def attach(self, network: PromptedClassifier, sparsity: float) -> None:
        """Accept a sparsity of 0.

        Raises:
            UserError: Another sparsity is asked for.
        """
        if sparsity != 0:
            raise UserError(
                f"the Dense pruner removes nothing, but find.sparsity is {sparsity}: set it to 0, "
                "or choose a pruner such as Hydra"
            )

    def finish(self, network: PromptedClassifier, sparsity: float) -> None:
        """Set every mask to ones."""
        keep_everything(network)
        thaw(network)

    def epochs(self, requested: int, sparsity: float = 0.0) -> int:
        """Return 0: there is nothing to find."""
        return 0
