"""What both stages share: the loss, the schedule, the metrics, exact seeds and the NaN guard."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, distributed
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from vpns_lightning._version import __version__
from vpns_lightning.base.batches import Batch, Stream
from vpns_lightning.base.errors import UserError
from vpns_lightning.base.renamed import present_stage
from vpns_lightning.base.seeds import derive_seed
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners.base import BuildOptimizer, parameter_groups
from vpns_lightning.stages.compiling import Forward
from vpns_lightning.stages.fusing import few_kernels
from vpns_lightning.stages.loss_guard import LossGuard
from vpns_lightning.stages.mapping_pass import fit_mapping
from vpns_lightning.stages.objective import Loss, Objective
from vpns_lightning.stages.schedules import WarmupCosine
from vpns_lightning.stages.steps import check_views, log_interval, refusing

BuildScheduler = Callable[[Optimizer], LRScheduler]
CHECKPOINT_SCHEMA = 1
MOST_EPOCHS = 1_000_000


class Stage(pl.LightningModule, ABC):
    """A stage of the pipeline: a LightningModule around the shared network.

    Optimisation is manual, one optimiser step per view. Randomness of a step is a function of
    (seed, stage, epoch, batch, rank) alone, so a resumed run repeats the very same steps.

    Args:
        network: The network; all stages hold the same object.
        epochs: Epochs of this stage.
        views: What a step trains on, in order: "prompted" images, "plain" ones, or both.
        unaugmented: Views whose images are not cropped and flipped.
        optimizer: Builds the optimiser from parameter groups.
        lr_scheduler: Builds a scheduler stepped once an epoch; cosine to zero where None.
        prompt_lr: Learning rate of the prompt; the optimiser's own where None.
        loss: A loss by its class, such as ``torch.nn.CrossEntropyLoss`` with ``label_smoothing``;
            cross-entropy where None.
        clip_norm: Before an optimiser steps, its gradients are scaled down to this 2-norm if theirs
            is larger.
        accumulate: Batches of ``data.batch_size`` images whose gradients make one optimiser step,
            the mean over all their images. Batch normalisation sees each batch by itself, so the
            result is not quite that of a batch as large as all of them.
        mixup: Train on pairs of images mixed by MixUp with this alpha; labels are mixed likewise.
        cutmix: Train on images with a rectangle from another, CutMix with this alpha; where both
            are set, each batch draws one of the two.

    Attributes:
        name: In logs, files and messages.
        seed_name: In the seeds of its random streams, where that is not ``name``.
        period: Epochs that a learning-rate schedule spans; all of them unless a pruner has rounds.
        shuffle: Which of the pruner's shuffles the batch at hand is from; most have one, unnamed.
        seed: Of all randomness of the stage; the pipeline sets it.
        passes: Forward-backward passes taken so far, resumed ones included.

    Raises:
        UserError: ``epochs`` is out of its range or a view is unknown, repeated, or missing.
    """

    name: str = "stage"
    seed_name: str = ""
    network: PromptedClassifier

    def __init__(
        self,
        network: PromptedClassifier,
        *,
        epochs: int,
        views: Sequence[str],
        unaugmented: Sequence[str],
        optimizer: BuildOptimizer,
        lr_scheduler: BuildScheduler | None,
        prompt_lr: float | None,
        loss: Loss | None = None,
        clip_norm: float | None = None,
        accumulate: int | None = None,
        mixup: float | None = None,
        cutmix: float | None = None,
    ) -> None:
        super().__init__()
        check_views(views, unaugmented)
        if accumulate is not None and accumulate < 1:
            raise UserError(f"accumulate must be at least 1 batch, got {accumulate}")
        if clip_norm is not None and not clip_norm > 0:
            raise UserError(f"clip_norm must be above 0, got {clip_norm}")
        if epochs < 0:
            raise UserError(f"epochs must be >= 0, got {epochs}")
        if epochs > MOST_EPOCHS:
            raise UserError(f"epochs must be at most {MOST_EPOCHS:,}, got {epochs}")
        self.automatic_optimization = False
        self.network = network
        self.epochs = epochs
        self.period = epochs
        self.shuffle = ""
        self.batch_idx = 0
        self.views = tuple(views)
        self.unaugmented = tuple(unaugmented)
        self.build_optimizer = optimizer
        self.build_scheduler = lr_scheduler
        self.prompt_lr = prompt_lr
        self.seed = 7
        self.passes = 0
        self.train_loss = MeanMetric(nan_strategy="disable")
        self.train_acc = MeanMetric(nan_strategy="disable")
        classes = network.num_classes
        self.acc = MulticlassAccuracy(classes, average="micro", validate_args=False)
        self.acc_plain = MulticlassAccuracy(classes, average="micro", validate_args=False)
        self.objective = Objective(classes, loss=loss, mixup=mixup, cutmix=cutmix)
        self.forward_loss = Forward(self.objective)
        self.clip_norm = clip_norm
        self.accumulate = accumulate or 1
        self.mixup, self.cutmix = mixup, cutmix
        self._completes = True
        self.guard = LossGuard()

    def loss(self, view: str, batch: Batch) -> Tensor:
        """Return the mean loss (0-d) of one view: images (N, 3, i, i), labels (N,).

        Of mixed images the training accuracy counts the label with the largest share.
        """
        images, targets = self.objective.mixed(batch)
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        loss, logits = self._forward(view, images, targets)
        with torch.no_grad():
            self._look_at(loss.detach())
            self.train_loss.update(loss.detach(), loss.new_full((), len(labels)))
            self.passes += self._completes
            correct = (logits.argmax(1) == labels).float()
            self.train_acc.update(correct, torch.ones_like(correct))
        return self.guard.passed_on(loss)

    def _forward(self, view: str, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        try:
            return self.forward_loss(self.network, images, targets, prompted=view == "prompted")
        except ValueError as error:
            if len(images) > 1 or isinstance(error, UserError):
                raise
            raise UserError(
                f"stage {self.name!r} cannot train on a batch of one image ({error}): choose a "
                "data.batch_size that leaves two or more, or take more images"
            ) from error

    def backward_in_parts(self, view: str, batch: Batch) -> None:
        """Backpropagate the mean loss of one view's batch, in as many parts as it has.

        The gradients of all parts add up to that of the mean over the batch, and count as one pass.
        """
        images, targets = self.objective.mixed(batch)
        for rows in self._parts(len(targets)):
            share = (rows.stop - rows.start) / len(targets)
            loss = self.loss(view, (images[rows], targets[rows])) * share
            with nullcontext() if self._completes else self._alone():
                self.manual_backward(loss)

    def _alone(self) -> AbstractContextManager[None]:
        """Return what keeps processes from exchanging gradients: they do once, of all parts."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ParallelStrategy):
            return strategy.block_backward_sync()
        return nullcontext()

    def _parts(self, count: int) -> Iterator[slice]:
        """Yield the rows of each part of so many images; no part is larger than a data batch."""
        size = getattr(self._data(), "batch_size", math.ceil(count / self.accumulate))
        parts = max(1, math.ceil(count / size))
        ends = [count * part // parts for part in range(parts + 1)]
        for part, (start, stop) in enumerate(pairwise(ends)):
            self._completes = part == parts - 1
            yield slice(start, stop)

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The orders of images that a batch is drawn from, each shuffled by itself."""
        return tuple(Stream(view) for view in self.views)

    def progress(self) -> tuple[int, int]:
        """Return how many iterations lie before the one at hand, and how many the stage has."""
        batches = int(self.trainer.num_training_batches)
        return self.current_epoch * batches + self.batch_idx, self.epochs * batches

    def restart(self) -> None:
        """Build optimisers and schedulers anew: no momentum, the schedule at its start."""
        self.trainer.strategy.setup_optimizers(self.trainer)

    def running_means(self) -> dict[str, float]:
        """Return this process's mean loss and accuracy of the epoch so far; a host read.

        Empty where no loss was computed yet.
        """
        metrics = {"loss": self.train_loss, "train_acc": self.train_acc}
        if not self.train_loss.update_called:
            return {}
        # not compute(): that would wait for the other processes
        return {name: float(m.mean_value / m.weight) for name, m in metrics.items()}

    @property
    def world_size(self) -> int:
        """Return how many processes train together."""
        return self.trainer.world_size

    def reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum of ``tensor`` over all processes."""
        if self.world_size > 1:
            # not the strategy's own, which waits for all processes at a barrier first
            tensor = tensor.clone()
            distributed.all_reduce(tensor)
        return tensor

    def configure_optimizers(self) -> Any:  # Lightning accepts several shapes
        """Build the stage's optimisers and one scheduler for each.

        Raises:
            UserError: One of them refuses its arguments.
        """
        with refusing(f"{self.name}.optimizer"):
            scaled = self.trainer.precision == "16-mixed"
            optimizers = [few_kernels(each, scaled=scaled) for each in self.make_optimizers()]
        self.guard.protect(optimizers, scaled=scaled)
        with refusing(f"{self.name}.lr_scheduler"):
            return optimizers, [self.make_scheduler(optimizer) for optimizer in optimizers]

    def make_scheduler(self, optimizer: Optimizer) -> LRScheduler:
        """Return the schedule of an optimiser, stepped once an epoch."""
        if self.build_scheduler is not None:
            scheduler = self.build_scheduler(optimizer)
            if isinstance(scheduler, WarmupCosine):
                scheduler.span(self.period)
            return scheduler
        return CosineAnnealingLR(optimizer, T_max=max(self.period, 1))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups of what this stage may train, each with its learning rate if set."""
        return self._apply_prompt_lr(parameter_groups(self.network))

    def configure_model(self) -> None:
        """Make the network ready, before Lightning moves it and DDP wraps it."""
        # Lightning makes the accelerator torch's default device here; orders of images and random
        # draws belong on the CPU, and all else says itself where it lies
        with torch.device("cpu"):
            # a network that was evaluated or loaded is in evaluation mode, in which batch
            # normalisation would stay as it is and dropout do nothing
            self.network.train()
            self.prepare_network()

    @abstractmethod
    def prepare_network(self) -> None:
        """Fit, attach and freeze what the stage needs; on a network that is ready, do nothing."""

    @abstractmethod
    def make_optimizers(self) -> list[Optimizer]:
        """Return the optimisers of this stage."""

    def on_fit_start(self) -> None:
        """Check the labels of the data against the network before the first step."""
        classes = getattr(self._data(), "num_classes", self.network.num_classes)
        if classes != self.network.num_classes:
            raise UserError(
                f"the data have {classes} classes, the network has {self.network.num_classes}"
            )

    def on_train_start(self) -> None:
        """Say how large a batch is, so that a smaller last one is not compiled for."""
        several = self.trainer.num_training_batches > 1
        self.forward_loss.whole_batch = getattr(self._data(), "batch_size", 0) if several else 0

    def on_train_epoch_start(self) -> None:
        """Refit the label mapping where it asks for that."""
        every = self.network.mapping.every
        # Lightning leaves this hook out when it resumes inside an epoch
        if every and self.current_epoch and self.current_epoch % every == 0:
            # on what the stage trains on; where that is plain, a prompt of earlier stages is idle
            fit_mapping(self.network, self.trainer, prompted="prompted" in self.views)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """Seed torch for this step, so that resuming repeats dropout and prompt positions.

        Returns:
            -1 to leave out the rest of the epoch, else None.
        """
        self.batch_idx = batch_idx
        torch.manual_seed(
            derive_seed(
                self.seed,
                self.seed_name or self.name,
                self.current_epoch,
                batch_idx,
                self.global_rank,
            )
        )
        return None

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Let the optimiser know whether the loss was bad on any process; then clip."""
        self.guard.settle()
        self.change_gradients()
        if self.clip_norm is not None:
            self.clip_gradients(
                optimizer, gradient_clip_val=self.clip_norm, gradient_clip_algorithm="norm"
            )

    def change_gradients(self) -> None:
        """Change the (unscaled) gradients before they are clipped; by default not at all."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """At a log point: stop on a bad loss, then log the running means of the epoch."""
        last = batch_idx + 1 == self.trainer.num_training_batches
        if last or (batch_idx + 1) % log_interval(self.trainer) == 0:
            self.check_finite()

    def conclude(self) -> None:
        """Bring the network to what is handed on; by default it is there. Twice does no harm."""

    def on_train_epoch_end(self) -> None:
        """Log the epoch's loss and accuracy and step the schedulers."""
        # a pruner that was resumed with all it needs computes no loss any more
        if self.train_loss.update_called:
            self.log(f"{self.name}/loss", self.train_loss)
            self.log(f"{self.name}/train_acc", self.train_acc)
        schedulers = self.lr_schedulers()
        if schedulers is None:
            return
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            self.log(f"{self.name}/lr", scheduler.get_last_lr()[0])
            scheduler.step()  # type: ignore[call-arg]  # no scheduler here is ReduceLROnPlateau

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count correct predictions, with the prompt and without."""
        images, labels = batch
        own, plain = self.network.predicted(images)
        self.acc.update(own, labels)
        self.acc_plain.update(plain, labels)
        self.log(f"{self.name}/acc", self.acc)
        self.log(f"{self.name}/acc_plain", self.acc_plain)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the stage's name, so that no other stage restores this file."""
        checkpoint["vpns"] = {
            "stage": self.name,
            "schema": CHECKPOINT_SCHEMA,
            "version": __version__,
            "passes": self.passes,
            "stopped": self.trainer.should_stop,
            "means": self._means_so_far(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse what another stage or another program wrote.

        Raises:
            UserError: The checkpoint is not of this stage, or of a newer schema.
        """
        about = checkpoint.get("vpns", {})
        if present_stage(str(about.get("stage"))) != self.name:
            raise UserError(
                f"the checkpoint is of stage {about.get('stage')!r}, but {self.name!r} was to be "
                "resumed: its epochs and scores would be wrong here"
            )
        if about.get("schema", 0) > CHECKPOINT_SCHEMA:
            raise UserError(
                f"the checkpoint was written by vpns_lightning {about.get('version')}, which is "
                f"newer than {__version__}: upgrade to resume it"
            )
        self.passes = about["passes"]
        # a callback had ended the stage, and it was killed before its hand-off
        self.trainer.should_stop = about.get("stopped", False)
        for metric, (total, weight) in zip(
            (self.train_loss, self.train_acc), about.get("means", ()), strict=False
        ):
            metric.update(total, 1.0)
            metric.weight.copy_(weight)

    def _means_so_far(self) -> list[tuple[Tensor, Tensor]]:
        """Return sums and weights of loss and accuracy, where an epoch is interrupted.

        Not of several processes, which each have their own; those log what is left of the epoch.
        """
        interrupted = not self.trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if not (interrupted and self.world_size == 1 and self.train_loss.update_called):
            return []
        return [(m.mean_value.clone(), m.weight.clone()) for m in (self.train_loss, self.train_acc)]

    def check_finite(self) -> None:
        """Stop training if a loss was NaN or infinite; waits for the device.

        Raises:
            UserError: With the step at which it happened. No optimiser step was taken since.
        """
        step = self.guard.first_bad_step()
        if step is not None:
            raise UserError(
                f"the loss became NaN or infinite at gradient step {step} of stage {self.name!r} "
                f"(epoch {self.current_epoch}); no weight was changed by it and the last "
                "checkpoint is whole: lower the learning rate, or check the images of that batch"
            )

    def _look_at(self, loss: Tensor) -> None:
        self.guard.look(loss, self.global_step, everywhere=self.world_size > 1)
        if self.guard.immediate:
            self.check_finite()

    def _data(self) -> object:
        return getattr(self.trainer, "datamodule", None)

    def _apply_prompt_lr(self, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self.prompt_lr is None:
            return groups
        return [g | ({"lr": self.prompt_lr} if g["name"] == "prompt" else {}) for g in groups]
