"""After pruning, the prompt alone: can it recover what pruning lost?"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from vpns_lightning.base.batches import Batch, Stream
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners.base import BuildOptimizer, gradient_step
from vpns_lightning.sparsity import bake, unbake
from vpns_lightning.stages.base import BuildScheduler, Stage
from vpns_lightning.stages.mapping_pass import fit_mapping, recalibrate
from vpns_lightning.stages.subnetwork_tuning import default_tune_optimizer


class PromptTuning(Stage):
    """Learn the prompt of a finished sparse network, all else frozen (VPNs, Eq. 3).

    The post-pruning prompts of the paper's pilot study. Weights, masks, biases and batch
    normalisation stay bit for bit as they are, normalisation and dropout as in evaluation.

    Args:
        network: A network with a prompt.
        epochs: Epochs.
        unaugmented: ``["prompted"]`` for images that are not cropped and flipped.
        optimizer: Of the prompt; SGD 0.01, momentum 0.9, decay 1e-4 where None.
        lr_scheduler: Stepped once an epoch; cosine to zero where None.
        refit_mapping: First fit the label mapping again, on the sparse network and plain images: a
            network that pruning has broken no longer predicts what the dense one did.
        recalibrate: First measure batch normalisation's statistics again, on plain images.

    Raises:
        UserError: The network has no prompt, or a mapping to be refitted has sliced the head.
    """

    name = "prompt_tuning"
    seed_name = "prompt"  # the name it had when its random streams were defined

    def __init__(
        self,
        network: PromptedClassifier,
        *,
        epochs: int = 30,
        unaugmented: Sequence[str] = (),
        optimizer: BuildOptimizer | None = None,
        lr_scheduler: BuildScheduler | None = None,
        refit_mapping: bool = False,
        recalibrate: bool = False,
    ) -> None:
        super().__init__(
            network,
            epochs=epochs,
            views=("prompted",),
            unaugmented=unaugmented,
            optimizer=optimizer or default_tune_optimizer,
            lr_scheduler=lr_scheduler,
            prompt_lr=None,
        )
        if epochs and not network.has_prompt:
            raise UserError(
                "prompt_tuning.epochs needs a network with a prompt: set network.prompt, or "
                "prompt_tuning.epochs to 0"
            )
        if epochs and refit_mapping and network.mapping.slice_head:
            raise UserError(
                "prompt_tuning.refit_mapping needs a mapping that keeps the whole head: set "
                "network.mapping.slice_head to false"
            )
        self.refit_mapping = refit_mapping
        self.recalibrate = recalibrate

    def prepare_network(self) -> None:
        """Measure again what is asked for, then freeze all but the prompt."""
        network = self.network
        fresh = self.trainer.ckpt_path is None
        if fresh and self.recalibrate:
            recalibrate(network, self.trainer)
        if fresh and (self.refit_mapping or not bool(network.mapping.fitted)):
            fit_mapping(network, self.trainer)
        network.requires_grad_(False)
        if network.prompt is not None:
            network.prompt.requires_grad_(True)
        bake(network.backbone)

    def on_train_start(self) -> None:
        """Put the backbone in evaluation mode; Lightning brings it back there after validation."""
        self.network.backbone.eval()

    def on_train_end(self) -> None:
        """Leave a network that masks in its forward pass and can be trained on."""
        unbake(self.network.backbone)
        self.network.backbone.train()
        self.network.requires_grad_(True)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the prompt's group alone."""
        return [group for group in super().parameter_groups() if group["name"] == "prompt"]

    def make_optimizers(self) -> list[Optimizer]:
        """Return one optimiser, of the prompt."""
        return [self.build_optimizer(self.parameter_groups())]

    def training_step(self, batch: Mapping[Stream, Batch], batch_idx: int) -> None:
        """Take one optimiser step on the prompt."""
        gradient_step(self, "prompted", batch[Stream("prompted")])
