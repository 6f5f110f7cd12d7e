"""What a finished run is: the content of ``result.json``."""

import platform
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
import torchvision

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
from vpns_lightning.runs.grid_cell import grid_facts
from vpns_lightning.runs.settings import describe
from vpns_lightning.stages import MaskFinding

SCHEMA = 1


def collect(
    network: PromptedClassifier,
    data: ImageData,
    find: MaskFinding,
    facts: dict[str, Any],
    argv: Sequence[str],
) -> dict[str, Any]:
    """Return the result of a run.

    Args:
        network: The final network.
        data: Its data.
        find: The finding stage, for method and requested sparsity.
        facts: What the hand-off of the last stage says.
        argv: The command.
    """
    stages: dict[str, dict[str, Any]] = facts["stages"]
    report = network_report(network)
    *_, last = stages.values()
    costs = account(network, data.input_size)
    return {
        "schema": SCHEMA,
        "method": method_name(find),
        "backbone": network.backbone_name,
        "weights": network.weights_name,
        "dataset": data.name,
        "classes": network.num_classes,
        "seed": facts["seed"],
        "sparsity_requested": find.sparsity,
        "sparsity_by_layer": find.sparsity_by_layer,
        "sparsity": report.sparsity,
        "effective_sparsity": effective_sparsity(network),
        "weights_kept": report.kept,
        "weights_prunable": report.total,
        "sparsity_per_layer": report.per_layer,
        "collapsed_layers": report.collapsed,
        **last["accuracy"],
        "dense_accuracy": _accuracy(stages, "warmup"),
        "accuracy_before_tuning": _accuracy(stages, "find"),
        "accuracy_before_prompt": before_prompt(find, stages),
        **describe(network, data, find, stages),
        "stages": stages,
        **{total: _total(stages, total) for total in TOTALS},
        **costs._asdict(),
        "macs_unit": UNIT,
        **structure(network),
        "versions": {
            "vpns_lightning": __version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "lightning": lightning.__version__,
            "python": platform.python_version(),
        },
        "command": shlex.join([Path(argv[0]).name, *argv[1:]]) if argv else "",
        **_grid(),
    }


def method_name(find: MaskFinding) -> str:
    """Return the method as the paper writes it."""
    return find.pruner.method(prompted=find.network.has_prompt and "prompted" in find.views)


def stage_summary(about: dict[str, Any], find: MaskFinding, stage: str) -> dict[str, Any]:
    """Return what a stage has come to, for loggers that keep one value of a run.

    Args:
        about: The facts of its hand-off.
        find: The finding stage.
        stage: Its name.
    """
    return {
        "method": (grid_facts() or {}).get("method", method_name(find)),
        **{key: about[key] for key in ("sparsity", "dataset", "seed")},
        "sparsity_requested": find.sparsity,
        "gradient_steps": about["stages"][stage]["gradient_steps"],
        **about["stages"][stage]["accuracy"],
    }


def structure(network: PromptedClassifier) -> dict[str, Any]:
    """Return whether channels were cut, and of how many how many are left in each group."""
    groups = network.cuts.groups()
    if not groups:
        return {"structured": False}
    return {
        "structured": True,
        "channels": {name: kept.numel() for name, kept in groups.items()},
        "channels_kept": {name: int(kept.sum()) for name, kept in groups.items()},
    }


TOTALS = ("epochs", "gradient_steps", "forward_backward_passes", "seconds")


def _accuracy(stages: dict[str, dict[str, Any]], stage: str) -> float | None:
    value = stages.get(stage, {}).get("accuracy", {}).get("test_accuracy")
    return None if value is None else float(value)


def before_prompt(find: MaskFinding, stages: dict[str, dict[str, Any]]) -> float | None:
    """Return the test accuracy without what the prompt stage has learned; None without that stage.

    Where no stage before it trained a prompt, that of plain images once it has ended: weights are
    frozen in it, so nothing but the prompt differs, also where it first measured the label mapping
    or batch normalisation again. Else, and where the mapping follows the prompt, that with the
    prompt before the stage.

    Args:
        find: The finding stage, for its pruner and the mapping.
        stages: What each stage recorded when it ended.
    """
    if "prompt" not in stages:
        return None
    earlier = [facts for name, facts in stages.items() if name != "prompt"]
    prompted = (facts for facts in earlier if "prompted" in (facts.get("views") or ()))
    learned = any(facts.get("gradient_steps") != 0 for facts in prompted)
    inherited = isinstance(find.pruner, Stored) and find.pruner.inherit_prompt
    if learned or inherited or find.network.mapping.every:
        return _accuracy(stages, "tune")
    return float(stages["prompt"]["accuracy"]["test_accuracy_plain"])


def _grid() -> dict[str, Any]:
    facts = grid_facts()
    return {} if facts is None else {"grid": facts}


def _total(stages: dict[str, dict[str, Any]], key: str) -> float:
    return sum(stage.get(key) or 0 for stage in stages.values())
