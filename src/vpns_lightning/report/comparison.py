"""Two runs side by side: settings that differ, overlap of masks, difference over seeds, curves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.files import whole_file
from vpns_lightning.report.comparability import CURVE_KEYS, difference, setting
from vpns_lightning.report.listing import Listed, read_folder
from vpns_lightning.report.panels import Point
from vpns_lightning.report.runs import Run, describe, in_order, read_result
from vpns_lightning.report.statistics import Difference, paired_difference
from vpns_lightning.runs.folder import RunFolder, differing_keys, method_leaves
from vpns_lightning.runs.mask_files import overlap, read_masks
from vpns_lightning.runs.metrics import read_metrics

COLORS = ("#0072b2", "#d55e00")  # told apart by people with any kind of colour vision
MARKERS = ("o", "s")
STAGES = ("warmup", "find", "tune", "prompt_tuning")


@dataclass(frozen=True)
class LayerOverlap:
    """What two masks of one layer have in common.

    Attributes:
        layer: Name.
        weights: How many it has.
        kept: By the first, by the second mask.
        both: By both.
        either: By at least one.
    """

    layer: str
    weights: int
    kept: tuple[int, int]
    both: int
    either: int

    @property
    def iou(self) -> float:
        """Return the intersection over union of the weights kept; 1 where nothing is."""
        return self.both / self.either if self.either else 1.0

    @property
    def by_chance(self) -> float:
        """Return the IoU expected of two random masks of the same densities."""
        first, second = (kept / self.weights for kept in self.kept)
        either = first + second - first * second
        return first * second / either if either else 1.0


def read_side(path: Path) -> Listed:
    """Return a run that is compared.

    Raises:
        UserError: It is no run folder, or is damaged.
    """
    if not path.is_dir():
        raise UserError(f"{path} is no folder: give a run folder, as vpns ls --each lists them")
    try:
        return read_folder(path)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path / 'result.json'} {' '.join(str(error).split())}") from None


def setting_differences(first: Listed, second: Listed) -> list[tuple[str, str, str]]:
    """Return each setting that differs, with its values; where and how a run is computed left out.

    Configs say all; for a run without one, as imported ones, results are compared.
    """
    if RunFolder(first.path).config.is_file() and RunFolder(second.path).config.is_file():
        ours, theirs = (method_leaves(RunFolder(s.path).read_config()) for s in (first, second))
        keys = differing_keys(ours, theirs)
        return [(key, _value(ours, key), _value(theirs, key)) for key in keys]
    if first.run is None or second.run is None:
        return []
    found = []
    for key in ("sparsity_requested", "seed", *CURVE_KEYS):
        known = difference(first.run, second.run, [key]) if key in CURVE_KEYS else None
        if key not in CURVE_KEYS:
            values = [setting(side.run, key) for side in (first, second) if side.run]
            if values[0] != values[1]:
                known = (key, describe(values[0]), describe(values[1]))
        found += [known] if known else []
    return found


def _value(leaves: dict[str, Any], key: str) -> str:
    return describe(leaves[key]) if key in leaves else "not set"


def mask_overlap(first: Listed, second: Listed) -> tuple[list[LayerOverlap], list[str]]:
    """Return the overlap of each layer that both have, and the layers that cannot be compared.

    Raises:
        UserError: A file of masks is missing or damaged.
    """
    ours, theirs = (read_masks(RunFolder(side.path).masks) for side in (first, second))
    layers, others = [], []
    # files are sorted by name, results by the network's own order
    for name in dict.fromkeys([*_layers(first), *ours, *theirs]):
        if name not in ours and name not in theirs:
            continue
        if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape:
            others.append(name)
            continue
        both, either = overlap(ours[name], theirs[name])
        kept = int(ours[name].sum()), int(theirs[name].sum())
        layers.append(LayerOverlap(name, ours[name].size, kept, both, either))
    return layers, others


def _layers(side: Listed) -> list[str]:
    return list((side.run and side.run.record.sparsity_per_layer) or {})


def whole(layers: Sequence[LayerOverlap]) -> LayerOverlap:
    """Return all layers as one."""
    return LayerOverlap(
        "all of these",
        sum(layer.weights for layer in layers),
        (sum(layer.kept[0] for layer in layers), sum(layer.kept[1] for layer in layers)),
        sum(layer.both for layer in layers),
        sum(layer.either for layer in layers),
    )


def over_seeds(first: Listed, second: Listed) -> tuple[Difference | None, Difference | None]:
    """Return the accuracy of the second run minus the first, alone and paired over seeds.

    Args:
        first: A finished run; those beside it that differ from it in their seed alone count too.
        second: Another, likewise.

    Returns:
        Of the two runs alone, and of all pairs of equal seed; None where there is none.
    """
    if first.run is None or second.run is None:
        return None, None
    ours, theirs = _point(_sisters(first.run)), _point(_sisters(second.run))
    one = second.run.accuracy - first.run.accuracy
    alone = Difference(one, None, None, ())
    return alone, paired_difference(theirs, ours)


def _sisters(run: Run) -> list[Run]:
    """Return a run and those in folders beside it that differ in their seed alone, one a seed."""
    found = {run.record.seed: run}
    for path in sorted(run.path.parent.parent.glob("*/result.json")):
        try:
            other = read_result(path)
        except (OSError, ValueError, RecursionError):
            continue
        named = (other.grid, other.grid_label, other.record.sparsity_requested, other.axes)
        if named != (run.grid, run.grid_label, run.record.sparsity_requested, run.axes):
            continue
        if difference(run, other, CURVE_KEYS) is None:
            found.setdefault(other.record.seed, other)
    return list(found.values())


def _point(runs: Sequence[Run]) -> Point:
    values = tuple(run.accuracy for run in runs)
    seeds = in_order(run.record.seed for run in runs)
    return Point(None, None, sum(values) / len(values), None, seeds, tuple(runs), values)


def draw_curves(first: Listed, second: Listed, names: tuple[str, str], path: Path) -> bool:
    """Draw the accuracy of both runs over the epochs of each stage, as PNG.

    Returns:
        Whether there was anything to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = [_curves(side) for side in (first, second)]
    stages = [stage for stage in STAGES if any(stage in found for found in curves)]
    if not stages:
        return False
    figure = Figure(figsize=(1 + 3.4 * len(stages), 3.6), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(stages), squeeze=False, sharey=True)[0]
    for place, stage in zip(axes, stages, strict=True):
        for found, color, marker in zip(curves, COLORS, MARKERS, strict=True):
            look = {"color": color, "markersize": 4, "linewidth": 1.6}
            for metric, line in (("train_acc", ":"), ("acc", "-")):
                points = found.get(stage, {}).get(metric)
                if points:
                    sign = marker if metric == "acc" else ""
                    place.plot(*zip(*points, strict=True), line, marker=sign, **look)
            after = found.get(stage, {}).get("after")
            if after:
                place.plot(*after[0], "*", color=color, markersize=11, markeredgecolor="white")
        place.set_title(stage.replace("_", " "), fontsize=10)
        place.set_xlabel("epoch")
        place.grid(alpha=0.25, linewidth=0.6)
        place.spines[["top", "right"]].set_visible(False)
        place.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("accuracy (%)")
    _legend(figure, names, curves)
    with whole_file(path) as temporary:
        canvas: Any = FigureCanvasAgg(figure)
        canvas.print_png(temporary)
    return True


Curves = dict[str, dict[str, list[tuple[float, float]]]]


def _curves(side: Listed) -> Curves:
    """Return stage to metric to (epoch, percent); ``after`` is the test accuracy it ended with."""
    found: Curves = {}
    for row in read_metrics(RunFolder(side.path).metrics):
        if row["metric"] in {"acc", "train_acc"} and row["stage"] in STAGES:
            points = found.setdefault(row["stage"], {}).setdefault(row["metric"], [])
            points.append((row["epoch"] + 1, 100 * row["value"]))
    for stage, record in side.run.record.stages.items() if side.run else ():
        accuracy = record.reached.test_accuracy
        if accuracy is not None:
            found.setdefault(stage, {})["after"] = [(record.epochs or 0, 100 * accuracy)]
    return found


def _legend(figure: Any, names: tuple[str, str], curves: Sequence[Curves]) -> None:
    look: dict[str, Any]
    from matplotlib.lines import Line2D

    def drawn(metric: str) -> bool:
        return any(metric in of_stage for found in curves for of_stage in found.values())

    handles = [
        Line2D([], [], color=color, marker=marker, markersize=4, label=name)
        for name, color, marker in zip(names, COLORS, MARKERS, strict=True)
    ]
    for metric, label, line, marker in (
        ("acc", "while training, held out or test", "-", ""),
        ("train_acc", "training images", ":", ""),
        ("after", "test, after the stage", "", "*"),
    ):
        if drawn(metric):
            look = {"color": "#555555", "linestyle": line, "marker": marker, "markersize": 9}
            handles.append(Line2D([], [], label=label, **look))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def results(first: Listed, second: Listed) -> Iterator[tuple[str, float | None, float | None]]:
    """Yield what two runs came to: its name with the unit, and both numbers."""
    for label, name, scale in (
        ("test accuracy (%)", "test_accuracy", 100),
        ("test accuracy, plain (%)", "test_accuracy_plain", 100),
        ("before tuning (%)", "accuracy_before_tuning", 100),
        ("sparsity (%)", "sparsity", 100),
        ("gradient steps", "gradient_steps", 1),
        ("time (min)", "seconds", 1 / 60),
    ):
        values = [getattr(side.run.record, name) if side.run else None for side in (first, second)]
        numbers = [scale * v if isinstance(v, int | float) else None for v in values]
        if any(value is not None for value in numbers):
            yield label, numbers[0], numbers[1]
