"""The end of a stage: freeze the masks and hand the network on."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import lightning.pytorch as pl
import msgspec
import torch
from msgspec import UNSET
from torch.optim import Optimizer

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.tensors import all_finite
from vpns_lightning.data.loaders import resume_position
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.network.accounting import network_report
from vpns_lightning.pruners.base import collapsed_layers
from vpns_lightning.runs.handoff import save_network, synchronise
from vpns_lightning.runs.record import Accuracy, Budget, OptimizerRecord, RunSoFar, StageRecord
from vpns_lightning.runs.settings import schedule, training
from vpns_lightning.sparsity import unbake
from vpns_lightning.stages import MaskFinding, Stage
from vpns_lightning.training.callbacks.processes import CountProcesses
from vpns_lightning.training.callbacks.prompts import keep_prompt

Evaluate: TypeAlias = Callable[[PromptedClassifier], Accuracy]


def freeze(stage: Stage) -> None:
    """Let the pruner of a finding stage write its final masks; warn of layers left empty.

    Also right after a stage of no epochs: the pruner's first scores then decide.
    """
    if not isinstance(stage, MaskFinding):
        return
    stage.pruner.finish(stage.network, stage.sparsity)
    stage.passes += stage.pruner.finish_passes
    for name in collapsed_layers(stage.network):
        pl.utilities.rank_zero_warn(
            f"layer collapse: nothing is kept of layer {name!r}, so no signal passes through it"
        )


def check_weights(stage: Stage) -> None:
    """Refuse to hand on what a last step has broken; losses show it one step later only.

    Raises:
        UserError: A parameter holds NaN or infinite values.
    """
    for name, parameter in stage.network.named_parameters():
        if not all_finite(parameter):
            raise UserError(
                f"{name} holds NaN or infinite values after the last step of stage {stage.name!r}: "
                "start again in another folder with a lower learning rate"
            )


class FreezeMasks(pl.Callback):
    """Freeze the masks after the last epoch, check that all processes agree, write the hand-off.

    Args:
        path: The hand-off file.
        run: What is known of the run before this stage.
        evaluate: Measures the network on the test images, on the first process alone.
        prompts: The file of prompts, which gets what is handed on.

    Attributes:
        done: The hand-off is written.
    """

    def __init__(self, path: Path, run: RunSoFar, evaluate: Evaluate, prompts: Path) -> None:
        self.path = path
        self.prompts = prompts
        self.run = run
        self.evaluate = evaluate
        self.done = False

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hand on, before Lightning tears the processes down."""
        assert isinstance(pl_module, Stage)
        pl_module.check_finite()
        pl_module.conclude()
        check_weights(pl_module)
        unbake(pl_module.network.backbone)
        clock = _clock(trainer)
        if clock is not None:
            clock.start()
        freeze(pl_module)
        synchronise(pl_module.network)
        record = stage_costs(trainer, pl_module)
        if trainer.is_global_zero:
            # before the hand-off, which says that the stage is over
            keep_prompt(self.prompts, pl_module, int(record.epochs or 0))
            hand_on(self.path, pl_module, self.run, record, self.evaluate)
        trainer.strategy.barrier("hand-off")
        self.done = True


def hand_on(
    path: Path, stage: Stage, run: RunSoFar, record: StageRecord, evaluate: Evaluate
) -> None:
    """Measure the network of a finished stage and write the hand-off."""
    record = msgspec.structs.replace(record, accuracy=evaluate(stage.network))
    save_network(
        path,
        stage.network,
        run.after(stage.name, record),
        stage=stage.name,
        sparsity=network_report(stage.network).sparsity,
    )


def callbacks_of(trainer: pl.Trainer) -> list[pl.Callback]:
    """Return the Trainer's callbacks."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by Trainer
    return callbacks


def stage_costs(trainer: pl.Trainer, stage: Stage) -> StageRecord:
    """Return what a stage cost, and how it trained."""
    clock = _clock(trainer)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    # not the Trainer's own count, which a stage that only had its hand-off left has not updated
    trained = min(resume_position(trainer).epoch, stage.epochs)
    return StageRecord(
        epochs=trained if trainer.optimizers else 0,
        stopped=True if trained < stage.epochs else UNSET,
        gradient_steps=trainer.global_step,
        forward_backward_passes=stage.passes,
        seconds=round(clock.total(), 3) if clock else None,
        peak_memory_bytes=_peak_memory(trainer.strategy.root_device),
        budget=Budget(epochs=stage.period, batches=_batches(trainer, stage)),
        views=stage.views,
        unaugmented=stage.unaugmented,
        optimizers=tuple(_settings(optimizer) for optimizer in trainer.optimizers),
        lr_scheduler=next((schedule(c.scheduler) for c in trainer.lr_scheduler_configs), None),
        training=training(stage),
        precision=str(trainer.precision),
        processes=trainer.world_size,
        processes_before=_processes_before(trainer) or UNSET,
        metrics={k: v for k, v in metrics.items() if "/sparsity/" not in k},
    )


def _processes_before(trainer: pl.Trainer) -> tuple[int, ...]:
    counts = (c.before for c in callbacks_of(trainer) if isinstance(c, CountProcesses))
    return next(counts, ())


def _batches(trainer: pl.Trainer, stage: Stage) -> int:
    """Return the batches of an epoch, 0 for a stage without epochs."""
    return int(trainer.num_training_batches) if stage.epochs else 0


def _settings(optimizer: Optimizer) -> OptimizerRecord:
    groups = optimizer.param_groups
    rates = {
        g.get("name", str(i)): float(g.get("initial_lr", g["lr"])) for i, g in enumerate(groups)
    }
    return OptimizerRecord(name=type(optimizer).__name__, lr=rates)


def _clock(trainer: pl.Trainer) -> "StageClock | None":
    return next((c for c in callbacks_of(trainer) if isinstance(c, StageClock)), None)


class StageClock(pl.Callback):
    """Seconds a stage trained, interruptions left out and resumed parts added."""

    def __init__(self) -> None:
        self._before = 0.0
        self._started: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting."""
        self.start()

    def start(self) -> None:
        """Start counting, unless that has begun; a stage of no epochs only freezes its masks."""
        if self._started is None:
            self._started = time.monotonic()

    def total(self) -> float:
        """Return the seconds so far."""
        running = 0.0 if self._started is None else time.monotonic() - self._started
        return self._before + running

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"seconds": self.total()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._before = state_dict["seconds"]


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource  # not on every platform

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
