"""Stage 2: the sparse subnetwork and the prompt are tuned while the masks stay as they are."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import SGD, Optimizer

from vpns_lightning.base.batches import Batch, Stream
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners.base import BuildOptimizer, gradient_step
from vpns_lightning.sparsity import bake, unbake
from vpns_lightning.stages.base import BuildScheduler, Stage
from vpns_lightning.stages.mapping_pass import fit_mapping


def default_tune_optimizer(params: Any) -> Optimizer:  # parameters or groups
    """Return the paper's optimiser: SGD, lr 0.01, momentum 0.9, weight decay 1e-4."""
    return SGD(params, lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)


class SubnetworkTuning(Stage):
    """Tune weights and prompt under fixed masks (VPNs, Eq. 6); with masks of ones, dense training.

    The pipeline uses it twice: as ``warmup`` before finding and as ``tune`` after it. Pruned
    weights are zeroed once at the start and their gradients are masked, which equals masking the
    weights in every forward pass.

    Args:
        network: The network to tune.
        epochs: Epochs.
        views: What a step trains on; [prompted, plain] takes one step on each (released code).
        unaugmented: Views whose images are not cropped and flipped.
        optimizer: Of weights and prompt; SGD 0.01, momentum 0.9, decay 1e-4 where None.
        lr_scheduler: Stepped once an epoch; cosine to zero where None.
        prompt_lr: Learning rate of the prompt; the optimiser's own where None.
        name: Name in logs and folders: ``tune``, or ``warmup``.

    Raises:
        UserError: Epochs or views are out of range (see Stage).
    """

    def __init__(
        self,
        network: PromptedClassifier,
        *,
        epochs: int = 30,
        views: Sequence[str] = ("prompted",),
        unaugmented: Sequence[str] = (),
        optimizer: BuildOptimizer | None = None,
        lr_scheduler: BuildScheduler | None = None,
        prompt_lr: float | None = None,
        name: str = "tune",
    ) -> None:
        super().__init__(
            network,
            epochs=epochs,
            views=views,
            unaugmented=unaugmented,
            optimizer=optimizer or default_tune_optimizer,
            lr_scheduler=lr_scheduler,
            prompt_lr=prompt_lr,
        )
        self.name = name

    def prepare_network(self) -> None:
        """Fit the mapping if nobody has, and zero the pruned weights."""
        if not bool(self.network.mapping.fitted) and self.trainer.ckpt_path is None:
            fit_mapping(self.network, self.trainer)
        bake(self.network.backbone)

    def on_train_end(self) -> None:
        """Mask in the forward pass again, whatever happens to the network from here on."""
        unbake(self.network.backbone)

    def make_optimizers(self) -> list[Optimizer]:
        """Return one optimiser of all parameters, the prompt in a group of its own."""
        return [self.build_optimizer(self.parameter_groups())]

    def training_step(self, batch: Mapping[Stream, Batch], batch_idx: int) -> None:
        """Take one optimiser step on each view in turn."""
        for view in self.views:
            gradient_step(self, view, batch[Stream(view)])
