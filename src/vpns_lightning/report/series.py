"""What the further figures draw of each method, as plain values."""

import statistics
from collections.abc import Mapping
from typing import Any

from vpns_lightning.base.errors import UserError
from vpns_lightning.report.exhibits import curve_of
from vpns_lightning.report.measures import ACCURACY, SPARSITY
from vpns_lightning.report.runs import Run, number
from vpns_lightning.report.statistics import paired_difference
from vpns_lightning.runs.folder import PROMPTS
from vpns_lightning.runs.mask_files import Masks, overlap, read_masks
from vpns_lightning.runs.metrics import read_metrics
from vpns_lightning.runs.prompt_files import read_prompts

Series = dict[str, Any]


def without_prompt(label: str) -> str:
    """Return the method that another one is with a prompt; empty where it has none."""
    if label.startswith("VPNs w. "):
        return label.removeprefix("VPNs w. ")
    return label.replace("VPNs", "HYDRA", 1) if label.startswith("VPNs") else ""


def gains(methods: Mapping[str, list[Run]]) -> Series:
    """Return method to (sparsity in percent, paired difference) with and without its prompt."""
    found: Series = {}
    for label, runs in methods.items():
        bare = methods.get(without_prompt(label))
        if not bare:
            continue
        ours, theirs = (curve_of(label, each, SPARSITY, ACCURACY) for each in (runs, bare))
        there = {point.level: point for point in theirs.points}
        pairs = [
            (point.x, paired_difference(point, there[point.level]))
            for point in ours.points
            if point.level in there
        ]
        pairs = [(x, difference) for x, difference in pairs if difference is not None]
        if pairs:
            found[label] = pairs
    return found


def densities(methods: Mapping[str, list[Run]]) -> Series:
    """Return method to layer to mean density in percent."""
    found: Series = {}
    for label, runs in methods.items():
        layers = [run.record.sparsity_per_layer for run in runs if run.record.sparsity_per_layer]
        if layers:
            found[label] = {
                name: 100 * statistics.fmean(1 - one[name] for one in layers if name in one)
                for name in layers[0]
            }
    return found


def overlaps(methods: Mapping[str, list[Run]]) -> Series:
    """Return method to method to the IoU of their masks, one run each."""
    masks: dict[str, Masks] = {}
    for label, run in _one_each(methods).items():
        path = run.path.parent / "masks.safetensors"
        if path.is_file():
            try:
                masks[label] = read_masks(path)
            except UserError:  # a damaged file takes nothing but its own row
                continue
    shapes = [{n: mask.shape for n, mask in each.items()} for each in masks.values()]
    alike = {label: each for label, each in masks.items() if _shapes(each) == shapes[0]}
    if len(alike) < 2:
        return {}
    found: Series = {label: {} for label in alike}
    for first in alike:
        for second in alike:
            if second in found and first in found[second]:
                found[first][second] = found[second][first]
                continue
            pairs = [overlap(alike[first][name], alike[second][name]) for name in shapes[0]]
            both, either = (sum(counts) for counts in zip(*pairs, strict=True))
            found[first][second] = both / either if either else 1.0
    return found


def _one_each(methods: Mapping[str, list[Run]]) -> dict[str, Run]:
    """Return method to one run, of the seed that most methods have."""
    seeds = [run.record.seed for runs in methods.values() for run in runs]
    usual = max(dict.fromkeys(seeds), key=seeds.count, default=None)
    return {
        label: next((run for run in runs if run.record.seed == usual), runs[0])
        for label, runs in methods.items()
    }


def prompts(methods: Mapping[str, list[Run]]) -> Series:
    """Return method to moment to the prompt of one run, (3, S, S), stages in their order."""
    found: Series = {}
    for label, run in _one_each(methods).items():
        try:
            kept = read_prompts(run.path.with_name(PROMPTS))
        except UserError:  # a damaged file takes nothing but its own row
            continue
        stages = [stage for stage in run.record.stages if any(m.stage == stage for m in kept)]
        order = sorted(
            (moment for moment in kept if moment.stage in stages),
            key=lambda moment: (stages.index(moment.stage), moment.epochs),
        )
        if order:
            found[label] = {moment: kept[moment] for moment in order}
    return found


def _shapes(masks: Masks) -> dict[str, tuple[int, ...]]:
    return {name: mask.shape for name, mask in masks.items()}


def prompt_norms(methods: Mapping[str, list[Run]]) -> Series:
    """Return method to (epoch, mean L2 norm of its prompt), over all stages."""
    found: Series = {}
    for label, runs in methods.items():
        epochs: dict[int, list[float]] = {}
        for run in runs:
            for epoch, value in _norms(run):
                epochs.setdefault(epoch, []).append(value)
        if epochs:
            found[label] = [(e, statistics.fmean(values)) for e, values in sorted(epochs.items())]
    return found


def _norms(run: Run) -> list[tuple[int, float]]:
    rows = read_metrics(run.path.parent / "metrics.csv")
    begun, points = 0, []
    for stage, record in run.record.stages.items():
        points += [
            (begun + row["epoch"] + 1, row["value"])
            for row in rows
            if row["stage"] == stage and row["metric"] == "prompt_norm"
        ]
        begun += record.epochs or 0
    return points


def costs(methods: Mapping[str, list[Run]]) -> Series:
    """Return method to mean gradient steps, mean accuracy and its deviation, at one sparsity."""
    found: Series = {}
    for label, runs in methods.items():
        stated = [number(run.record.gradient_steps) for run in runs]
        steps = [value for value in stated if value]
        points = curve_of(label, runs, SPARSITY, ACCURACY).points
        if steps and points:
            found[label] = statistics.fmean(steps), points[0].mean, points[0].std or 0.0
    return found
