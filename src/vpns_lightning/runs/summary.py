"""What a person looks at when a run ends: a table and a picture."""

from collections.abc import Sequence
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from vpns_lightning.data import ImageData
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.runs.folder import RunFolder
from vpns_lightning.runs.metrics import read_metrics
from vpns_lightning.runs.record import RunRecord

# inches of the picture, around its panels, between them, and before the names of layers
WIDTH, LEFT, RIGHT, GAP, BEFORE = 19.0, 0.7, 0.2, 0.7, 0.5
LAYER_HEIGHT, LETTER = 0.155, 0.075  # inches of a layer's name, and of a letter of it
TIMES = 20  # how much stronger a prompt is shown, which is faint as a rule
ROWS = (
    ("dense", "warmup"),
    ("before tuning", "find"),
    ("after tuning", "tune"),
    ("after the prompt", "prompt_tuning"),
)


def print_table(result: RunRecord, run: RunFolder) -> None:
    """Print accuracy, sparsity and cost of every stage."""
    prompted = bool(result.prompt_parameters)
    title = f"{result.method}, {result.backbone} on {result.dataset}, seed {result.seed}"
    table = Table(title=title, box=box.SIMPLE, collapse_padding=True, show_edge=False)
    table.add_column("", no_wrap=True)
    for column in ("accuracy", *(["plain"] if prompted else []), "sparsity"):
        table.add_column(column, justify="right")
    for column in ("epochs", "steps", "passes", "seconds"):
        table.add_column(column, justify="right")
    for label, stage in ROWS:
        record = result.stages.get(stage)
        if record is None:
            continue
        accuracy, sparse = record.reached, stage != "warmup"
        plain = [f"{accuracy.test_accuracy_plain or 0:.4f}"] if prompted else []
        table.add_row(
            label,
            f"{accuracy.test_accuracy or 0:.4f}",
            *plain,
            f"{result.sparsity:.6f}" if sparse else "0",
            f"{record.epochs} (stopped)" if record.stopped else str(record.epochs),
            str(record.gradient_steps),
            str(record.forward_backward_passes),
            f"{record.seconds or 0:.1f}",
        )
    console = Console()
    console.print(table)
    of = "channels" if result.structured else "weights"
    by_layer = result.sparsity_by_layer or {}
    levels = "".join(f", {pattern} {level:g}" for pattern, level in by_layer.items())
    console.print(
        f"sparsity ({of}) asked {result.sparsity_requested:g}{levels}, measured "
        f"{result.sparsity:.6f}: kept "
        f"{result.weights_kept:,} of {result.weights_prunable:,} weights"
    )
    console.print(
        f"{result.gradient_steps:,} gradient steps, {result.forward_backward_passes:,} "
        f"forward-backward passes, {result.seconds:.1f} s"
    )
    console.print(f"picture: {run.summary}\nresult:  {run.result}", soft_wrap=True)


def draw_summary(
    run: RunFolder, network: PromptedClassifier, data: ImageData, result: RunRecord
) -> None:
    """Draw ``summary.png``: curves of all stages, per-layer sparsity, prompt and an example."""
    import matplotlib as mpl

    mpl.use("Agg")  # runs have no display
    from matplotlib import pyplot as plt

    from vpns_lightning.base.files import whole_file

    layers = result.sparsity_per_layer or {}
    # names of layers stand in a column of their own, which is as high and wide as they need
    height = max(8.5, 1.5 + LAYER_HEIGHT * len(layers))
    names = LETTER * max(map(len, layers), default=0)
    # the layers' panel is narrower than the other three
    panel = (WIDTH - LEFT - 2 * GAP - BEFORE - names - RIGHT) / 3.9
    end = LEFT + 3 * panel + 2 * GAP  # of these three
    figure = plt.figure(figsize=(WIDTH, height))
    high = {"bottom": 0.5 / height, "top": 1 - 0.7 / height}
    wide = {"left": LEFT / WIDTH, "right": end / WIDTH, "wspace": GAP / panel}
    axes: Any = figure.add_gridspec(2, 3, **high, **wide, hspace=0.25).subplots()
    wide = {"left": (end + BEFORE + names) / WIDTH, "right": 1 - RIGHT / WIDTH}
    beside = figure.add_gridspec(1, 1, **high, **wide).subplots()
    rows = read_metrics(run.metrics)
    _draw_curves(axes[0][0], rows, result, ("loss",), "training loss")
    _draw_curves(axes[0][1], rows, result, ("train_acc", "acc", "acc_plain"), "accuracy")
    _draw_prompt(axes[0][2], network)
    _draw_examples(axes[1], network, data)
    _draw_layers(beside, result)
    figure.suptitle(
        f"{result.method}: {result.backbone} on {result.dataset}, "
        f"{100 * result.sparsity:.1f} % sparsity, test accuracy {result.test_accuracy:.4f}",
        y=1 - 0.1 / height,
        va="top",
    )
    with whole_file(run.summary) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
    plt.close(figure)


def _draw_curves(
    axes: Any,
    rows: list[dict[str, Any]],
    result: RunRecord,
    metrics: tuple[str, ...],
    title: str,
) -> None:
    """Draw metrics of all stages one after another, a background for each stage."""
    start = 0
    images = "held out" if result.validation else "test"
    styles = {
        "train_acc": ("tab:gray", "training"),
        "acc": ("tab:blue", f"{images}, while training"),
        "acc_plain": ("tab:orange", f"{images}, without the prompt"),
    }
    for index, (stage, record) in enumerate(result.stages.items()):
        epochs = record.epochs or 0
        for metric in metrics:
            color, label = styles.get(metric, ("tab:red", "training"))
            points = [
                (start + row["epoch"] + 1, row["value"])
                for row in rows
                if (row["stage"], row["metric"]) == (stage, metric)
            ]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", markersize=3, color=color, label=label)
        if "acc" in metrics:
            after = (start + epochs, record.reached.test_accuracy)
            axes.plot(*after, "k*", markersize=9, label="test, after the stage")
        if epochs:
            axes.axvspan(
                start + 0.5, start + epochs + 0.5, alpha=0.06 + 0.08 * (index % 2), color="k"
            )
            axes.text(
                start + epochs / 2 + 0.5,
                1.01,
                stage,
                transform=axes.get_xaxis_transform(),
                ha="center",
            )
        start += epochs
    axes.set(xlabel="epoch", ylabel=title)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    lines, labels = axes.get_legend_handles_labels()
    if lines:
        once = dict(zip(labels, lines, strict=True))
        axes.legend(once.values(), once.keys())


def _draw_layers(axes: Any, result: RunRecord) -> None:  # matplotlib is imported late
    layers = result.sparsity_per_layer or {}
    what = "all channels" if result.structured else "all layers"
    axes.barh(range(len(layers)), list(layers.values()), color="tab:green")
    axes.axvline(result.sparsity, color="k", linestyle="--", label=what)
    axes.set_yticks(range(len(layers)), list(layers), fontsize=8)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set(xlim=(0, 1), xlabel="sparsity (fraction removed)", title="sparsity per layer")
    axes.legend()


def _draw_prompt(axes: Any, network: PromptedClassifier) -> None:
    axes.set_axis_off()
    if network.prompt is None:
        axes.set_title("no prompt")
        return
    picture = network.prompt.picture().float().cpu()
    largest = float(picture.abs().max())
    shown = 0.5 + picture / (2 * largest) if largest else picture + 0.5
    axes.imshow(shown.permute(1, 2, 0).numpy())
    axes.set_title(f"prompt (grey is 0, largest |value| {largest:.3f})")


@torch.no_grad()
def _draw_examples(axes: Sequence[Any], network: PromptedClassifier, data: ImageData) -> None:
    """Show one test image as it is, as the network sees it, and so with a stronger prompt."""
    images, labels, _ = next(iter(data.whole_test_dataloader()))
    device = network.mean.device
    image = data.eval_transform(images[:1].to(device))
    network.eval()
    predicted = int(network(image).argmax(1))
    names = data.class_names
    seen = network.prompt(image) if network.prompt is not None else image
    shown = [
        (image, f"test image: {names[int(labels[0])]}"),
        (seen, f"as the network sees it; it says: {names[predicted]}"),
    ]
    if network.prompt is not None:
        prompt = network.prompt.picture().to(seen)
        if prompt.shape == seen.shape[1:]:
            shown.append((seen + (TIMES - 1) * prompt, f"the same with its prompt \u00d7 {TIMES}"))
    for place in axes:
        place.set_axis_off()
    for place, (picture, title) in zip(axes, shown, strict=False):
        place.imshow(picture[0].float().clamp(0, 1).permute(1, 2, 0).cpu().numpy())
        place.set_title(title)
