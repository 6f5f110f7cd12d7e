"""Stage 1: masks (and the prompt) are found while the weights stay as they are."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch.optim import Adam, Optimizer

from vpns_lightning.base.batches import Batch, Stream
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners.base import BuildOptimizer, Pruner
from vpns_lightning.sparsity import check_sparsity, layer_levels
from vpns_lightning.stages.base import BuildScheduler, Stage
from vpns_lightning.stages.mapping_pass import fit_mapping
from vpns_lightning.stages.subnetwork_tuning import default_tune_optimizer


def default_find_optimizer(params: Any) -> Optimizer:  # parameters or groups
    """Return the paper's optimiser of scores and prompt: Adam, lr 1e-4, weight decay 1e-4."""
    return Adam(params, lr=1e-4, weight_decay=1e-4, fused=True)


class MaskFinding(Stage):
    """Find which weights survive (VPNs, Eq. 5 with Hydra and a prompt).

    Args:
        network: The network to prune.
        pruner: Decides which weights survive.
        sparsity: Fraction of prunable weights removed, in [0, 1); of channels, if those are pruned.
        sparsity_by_layer: Fraction removed in each layer whose name a shell-style pattern matches,
            as ``{conv1: 0.5, "layer4.*": 0.95}``; ``sparsity`` is then that of all other layers.
        epochs: Epochs; the pruner may need fewer, or so many in each of its rounds.
        views: What a step trains on; [prompted, plain] takes one step on each (released code).
        unaugmented: Views whose images are not cropped and flipped.
        mapping_on: Fit the label mapping on the dense network and plain images (default), or as
            the released code does: with the pruner's first masks and the prompt, on cropped and
            flipped images.
        optimizer: Of scores and prompt; Adam 1e-4 with weight decay 1e-4 where None, or tuning's
            default for a pruner that trains weights.
        lr_scheduler: Stepped once an epoch; cosine to zero where None.
        prompt_lr: Learning rate of the prompt; the optimiser's own where None.

    Raises:
        UserError: A sparsity is out of range, a pattern matches no layer or two match one, the
            pruner knows no levels, or epochs or views are out of range (see Stage).
    """

    name = "find"

    def __init__(
        self,
        network: PromptedClassifier,
        pruner: Pruner,
        *,
        sparsity: float,
        sparsity_by_layer: Mapping[str, float] | None = None,
        epochs: int = 30,
        views: Sequence[str] = ("prompted",),
        unaugmented: Sequence[str] = (),
        mapping_on: Literal["dense", "pruned"] = "dense",
        optimizer: BuildOptimizer | None = None,
        lr_scheduler: BuildScheduler | None = None,
        prompt_lr: float | None = None,
    ) -> None:
        sparsity = check_sparsity(sparsity)
        patterns = dict(sparsity_by_layer or {})
        if patterns and not pruner.takes_levels:
            raise UserError(
                f"find.sparsity_by_layer is of weights that a pruner ranks, and "
                f"{type(pruner).__name__} ranks none: leave it out, or choose Hydra or the like"
            )
        pruner.levels = layer_levels(patterns, network.prunable())
        default = default_tune_optimizer if pruner.trains_weights else default_find_optimizer
        super().__init__(
            network,
            epochs=pruner.epochs(epochs, sparsity),
            views=views,
            unaugmented=unaugmented,
            optimizer=optimizer or default,
            lr_scheduler=lr_scheduler,
            prompt_lr=prompt_lr,
        )
        if mapping_on == "pruned" and network.mapping.slice_head:
            raise UserError(
                "find.mapping_on: pruned needs a mapping that keeps the whole head, because the "
                "head's scores exist by then: set network.mapping.slice_head to false"
            )
        self.pruner = pruner
        self.sparsity = sparsity
        self.sparsity_by_layer = patterns
        self.period = pruner.period(epochs, sparsity)
        self.mapping_on = mapping_on

    def prepare_network(self) -> None:
        """Fit the mapping if it is not, then attach the pruner."""
        fresh = not bool(self.network.mapping.fitted) and self.trainer.ckpt_path is None
        if fresh and self.mapping_on == "dense":
            fit_mapping(self.network, self.trainer)
        self.pruner.run_seed = self.seed
        self.pruner.image_size = getattr(self._data(), "input_size", self.pruner.image_size)
        self.pruner.attach(self.network, self.sparsity)
        if fresh and self.mapping_on == "pruned":
            fit_mapping(self.network, self.trainer, prompted=True, augmented=True)

    @property
    def streams(self) -> tuple[Stream, ...]:
        """One stream of every view for each of the pruner's shuffles."""
        return tuple(Stream(view, s) for view in self.views for s in self.pruner.shuffles)

    def make_optimizers(self) -> list[Optimizer]:
        """Return what the pruner wants trained.

        Raises:
            UserError: The pruner reads gradients that float16 would hand it scaled.
        """
        if self.trainer.precision == "16-mixed" and not self.pruner.scaled_gradients:
            raise UserError(
                f"{type(self.pruner).__name__} combines gradients that trainer.precision 16-mixed "
                "scales: use bf16-mixed or 32-true"
            )
        return self.pruner.optimizers(self.network, self._build)

    def _build(self, params: Any) -> Optimizer:  # parameters or groups
        groups = list(params)
        if groups and isinstance(groups[0], dict):
            groups = self._apply_prompt_lr(groups)
        return self.build_optimizer(groups)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """Seed torch for this step, or end the epoch once the pruner has seen enough."""
        super().on_train_batch_start(batch, batch_idx)
        return -1 if self.pruner.done else None

    def training_step(self, batch: Mapping[Stream, Batch], batch_idx: int) -> None:
        """Let the pruner take a step on each view, and on each of its shuffles, in turn."""
        for view in self.views:
            for shuffle in self.pruner.shuffles:
                self.shuffle = shuffle
                self.pruner.step(self, view, batch[Stream(view, shuffle)])

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Let the pruner change the (unscaled) gradients."""
        super().on_before_optimizer_step(optimizer)
        self.pruner.regularize(self.network)

    def on_train_epoch_end(self) -> None:
        """Log and schedule, then let the pruner act on the epoch's end."""
        super().on_train_epoch_end()
        self.pruner.end_epoch(self)
