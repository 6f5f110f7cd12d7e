"""What a step makes small: a loss, of images as they are or mixed with each other."""

from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

# the base of all losses of torch; with nn.Module, the public one, the help of a config would list
# every layer that torch has
from torch.nn.modules.loss import _Loss
from torchvision.transforms import v2

from vpns_lightning.base.batches import Batch
from vpns_lightning.base.errors import UserError
from vpns_lightning.stages.steps import refusing

Loss: TypeAlias = _Loss
FAULTS = (TypeError, ValueError, RuntimeError, IndexError, NotImplementedError)


class Objective(nn.Module):
    """A loss and what happens to a batch before it.

    MixUp (Zhang et al., 2018, https://arxiv.org/abs/1710.09412) and CutMix (Yun et al., 2019,
    https://arxiv.org/abs/1905.04899) are torchvision's: one draw a batch, from torch's CPU
    generator, which a stage seeds before every batch. Where both are set, one of them is drawn.

    Args:
        num_classes: Target classes.
        loss: Of logits (N, C) and labels (N,), or probabilities (N, C) where images are mixed, to
            the mean, 0-d; cross-entropy where None.
        mixup: Both parameters of the Beta distribution of MixUp's shares; None mixes nothing.
        cutmix: Likewise of CutMix.

    Raises:
        UserError: A parameter is not positive.
    """

    def __init__(
        self, num_classes: int, *, loss: Loss | None, mixup: float | None, cutmix: float | None
    ) -> None:
        super().__init__()
        mixing: list[nn.Module] = []
        for name, alpha, kind in (("mixup", mixup, v2.MixUp), ("cutmix", cutmix, v2.CutMix)):
            if alpha is None:
                continue
            if not alpha > 0:
                raise UserError(f"{name} must be above 0, got {alpha}: leave it out to mix nothing")
            mixing.append(kind(alpha=alpha, num_classes=num_classes))
        self.num_classes = num_classes
        self.loss = loss
        self.mixing = v2.RandomChoice(mixing) if mixing else None

    def mixed(self, batch: Batch) -> Batch:
        """Return a batch with its images mixed, labels then probabilities (N, C) in float32.

        A batch that is mixed already is returned as it is.
        """
        images, targets = batch
        if self.mixing is None or targets.ndim > 1:
            return batch
        images, targets = self.mixing(images, targets)
        return images, targets

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss, 0-d."""
        if self.loss is None:
            return functional.cross_entropy(logits, targets)
        loss: Tensor = self.loss(logits, targets)
        return loss

    def check(self, stage: str) -> None:
        """Try the loss on logits of zero.

        Args:
            stage: Name of the stage, for messages.

        Raises:
            UserError: It has parameters that nothing would train, does not take the logits and
                targets of a classifier, or returns anything but a mean.
        """
        if self.loss is None:
            return
        name = type(self.loss).__name__
        if any(True for _ in self.loss.parameters()):
            raise UserError(f"{stage}.loss: {name} has parameters, which no stage trains")
        if getattr(self.loss, "reduction", "mean") != "mean":
            raise UserError(
                f"{stage}.loss: {name} must return the mean over a batch, its reduction is "
                f"{self.loss.reduction!r}: leave that out"
            )
        logits = torch.zeros(2, self.num_classes, device="cpu")
        labels = torch.zeros(2, dtype=torch.int64, device="cpu")
        targets = labels if self.mixing is None else functional.one_hot(labels, self.num_classes)
        with refusing(f"{stage}.loss", FAULTS):
            loss = self(logits, targets if self.mixing is None else targets.float())
            if loss.ndim:
                raise UserError(
                    f"{stage}.loss: {name} must return one number, not shape {tuple(loss.shape)}"
                )
