"""What a finished run came to, collected from its network, data and hand-off."""

import platform
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import lightning
import msgspec
import torch
import torchvision
from msgspec import UNSET

from vpns_lightning._version import __version__
from vpns_lightning.data import ImageData
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.network.accounting import (
    UNIT,
    account,
    effective_sparsity,
    network_report,
)
from vpns_lightning.pruners import Stored
from vpns_lightning.runs.grid_cell import grid_record
from vpns_lightning.runs.record import Accuracy, RunRecord, RunSoFar, Stages, as_plain
from vpns_lightning.runs.settings import at_hand, headline, options, protocol
from vpns_lightning.stages import MaskFinding


def collect(
    network: PromptedClassifier,
    data: ImageData,
    find: MaskFinding,
    run: RunSoFar,
    argv: Sequence[str],
) -> RunRecord:
    """Return the record of a run.

    Args:
        network: The final network.
        data: Its data.
        find: The finding stage, for method and requested sparsity.
        run: What the hand-off of the last stage says.
        argv: The command.
    """
    stages = run.stages
    report = network_report(network)
    *_, last = stages.values()
    processes = last.processes or 1
    views = {name: stage.views or None for name, stage in stages.items()}
    return RunRecord(
        method=method_name(find),
        backbone=network.backbone_name,
        weights=network.weights_name,
        dataset=data.name,
        classes=network.num_classes,
        seed=run.seed,
        sparsity_requested=find.sparsity,
        sparsity_by_layer=find.sparsity_by_layer,
        sparsity=report.sparsity,
        effective_sparsity=effective_sparsity(network),
        weights_kept=report.kept,
        weights_prunable=report.total,
        sparsity_per_layer=report.per_layer,
        collapsed_layers=tuple(report.collapsed),
        **msgspec.structs.asdict(last.reached),
        dense_accuracy=_accuracy(stages, "warmup"),
        accuracy_before_tuning=_accuracy(stages, "find"),
        accuracy_before_prompt=before_prompt(find, stages),
        prompt=None if network.prompt is None else options(network.prompt),
        mapping=options(network.mapping) | {"fitted_on": find.mapping_on},
        pruner=options(find.pruner),
        # tells image folders apart; where they lie is the machine's business
        data_folder=data.root.resolve().name,
        input_size=data.input_size,
        batch_size=data.batch_size * processes,
        precision=last.precision or None,
        train_images=len(data.dataset("train")) if at_hand(data) else None,
        limit_per_class=data.limit_per_class,
        limit_test_per_class=data.limit_test_per_class,
        validation=data.validation,
        views=views | {"find": tuple(find.views)},
        protocol=protocol(stages, find.mapping_on),
        budget={name: stage.budget or None for name, stage in stages.items()},
        optimizers={
            name: None if stage.optimizers is UNSET else stage.optimizers
            for name, stage in stages.items()
        },
        lr_schedulers={n: s.lr_scheduler for n, s in stages.items() if s.lr_scheduler},
        training={n: s.training for n, s in stages.items() if s.training and as_plain(s.training)},
        headline=headline(stages),
        stages=stages,
        **totals(stages),
        **account(network, data.input_size)._asdict(),
        macs_unit=UNIT,
        **_structure(network),
        versions={
            "vpns_lightning": __version__,
            "torch": str(torch.__version__),
            "torchvision": torchvision.__version__,
            "lightning": lightning.__version__,
            "python": platform.python_version(),
        },
        command=shlex.join([Path(argv[0]).name, *argv[1:]]) if argv else "",
        grid=grid_record() or UNSET,
        source=run.source,
    )


def method_name(find: MaskFinding) -> str:
    """Return the method as the paper writes it."""
    return find.pruner.method(prompted=find.network.has_prompt and "prompted" in find.views)


class Totals(TypedDict):
    """What all stages cost together; see the fields of a stage."""

    epochs: float
    gradient_steps: float
    forward_backward_passes: float
    seconds: float


def totals(stages: Stages) -> Totals:
    """Return the sum over all stages, what is not known left out."""
    every = stages.values()
    return {
        "epochs": sum(stage.epochs or 0 for stage in every),
        "gradient_steps": sum(stage.gradient_steps or 0 for stage in every),
        "forward_backward_passes": sum(stage.forward_backward_passes or 0 for stage in every),
        "seconds": sum(stage.seconds or 0 for stage in every),
    }


class Structure(TypedDict, total=False):
    """Whether channels were cut, and of how many how many are left in each group."""

    structured: bool
    channels: dict[str, int]
    channels_kept: dict[str, int]


def _structure(network: PromptedClassifier) -> Structure:
    groups = network.cuts.groups()
    if not groups:
        return {"structured": False}
    return {
        "structured": True,
        "channels": {name: kept.numel() for name, kept in groups.items()},
        "channels_kept": {name: int(kept.sum()) for name, kept in groups.items()},
    }


def _accuracy(stages: Stages, stage: str) -> float | None:
    found: Accuracy = stages[stage].reached if stage in stages else Accuracy()
    return found.test_accuracy


def before_prompt(find: MaskFinding, stages: Stages) -> float | None:
    """Return the test accuracy without what the prompt stage has learned; None without that stage.

    Where no stage before it trained a prompt, that of plain images once it has ended: weights are
    frozen in it, so nothing but the prompt differs, also where it first measured the label mapping
    or batch normalisation again. Else, and where the mapping follows the prompt, that with the
    prompt before the stage.

    Args:
        find: The finding stage, for its pruner and the mapping.
        stages: What each stage recorded when it ended.
    """
    if "prompt_tuning" not in stages:
        return None
    earlier = [stage for name, stage in stages.items() if name != "prompt_tuning"]
    # a stage whose steps nobody counted did train
    learned = any("prompted" in (s.views or ()) and s.gradient_steps != 0 for s in earlier)
    inherited = isinstance(find.pruner, Stored) and find.pruner.inherit_prompt
    if learned or inherited or find.network.mapping.every:
        return _accuracy(stages, "tune")
    return stages["prompt_tuning"].reached.test_accuracy_plain


def stage_summary(run: RunSoFar, find: MaskFinding, stage: str, sparsity: float) -> dict[str, Any]:
    """Return what a stage has come to, for loggers that keep one value of a run.

    Args:
        run: The run, with the stage finished.
        find: The finding stage.
        stage: Its name.
        sparsity: Measured after it.
    """
    cell, record = grid_record(), run.stages[stage]
    return {
        "method": cell.method if cell and cell.method else method_name(find),
        "sparsity": sparsity,
        "dataset": run.dataset,
        "seed": run.seed,
        "sparsity_requested": find.sparsity,
        "backbone": find.network.backbone_name,
        "weights": find.network.weights_name or "none",
        "stage": stage,
        "epochs": record.epochs or 0,
        "gradient_steps": record.gradient_steps or 0,
        "forward_backward_passes": record.forward_backward_passes or 0,
        "seconds": record.seconds or 0.0,
        "peak_memory_bytes": record.peak_memory_bytes or 0,
        **msgspec.structs.asdict(record.reached),
    }
