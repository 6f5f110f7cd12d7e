"""Pictures of a network: its prompt, images as it sees them, how dense its layers are."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vpns_lightning.data import ImageData
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.network.accounting import network_report
from vpns_lightning.network.prompt import pad_to_canvas
from vpns_lightning.runs.evaluation import autocast

SHOWN = 8  # examples
LOOKED_AT = 64  # test images that they are chosen from, spread evenly: sets are sorted by class
FAINT = 0.25  # of the range of a pixel: what changes less is hardly seen
FACTORS = (2, 5, 10, 20, 50, 100, 200, 500, 1000)
SMALLEST = 160  # px; smaller pictures are blown up by whole factors, so that pixels stay sharp
GAP, FRAME = 4, 4  # px
# told apart by people with any kind of colour vision; captions say it too
RIGHT, WRONG = (0, 114, 178), (213, 94, 0)

Pixels = NDArray[np.uint8]


class Picture(NamedTuple):
    """A picture.

    Attributes:
        pixels: uint8 of shape (H, W, 3).
        caption: What it shows.
    """

    pixels: Pixels
    caption: str


class Layer(NamedTuple):
    """How dense a layer is.

    Attributes:
        name: Of the layer.
        density: Fraction of its weights kept.
    """

    name: str
    density: float


def densities(network: PromptedClassifier) -> list[Layer]:
    """Return the density of every layer with a mask, in the network's order."""
    report = network_report(network)
    return [Layer(name, 1 - removed) for name, removed in report.per_layer.items()]


@torch.no_grad()
def prompt_picture(network: PromptedClassifier) -> Picture | None:
    """Return the prompt, scaled to its largest value, grey where it is zero; None without one."""
    if network.prompt is None:
        return None
    prompt = network.prompt.picture().float().cpu()
    largest = float(prompt.abs().max())
    shown = 0.5 + prompt / (2 * largest) if largest else prompt + 0.5
    return Picture(_blown_up(_pixels(shown)), f"grey is 0, largest |value| {largest:.4f}")


@torch.no_grad()
def example_pictures(
    network: PromptedClassifier, data: ImageData, *, precision: object = "32-true"
) -> list[Picture]:
    """Return eight test images as the network sees them, right and wrong ones where it has both.

    Where the prompt is faint, a second picture beside the first shows it stronger.

    Args:
        network: The network, on its device; left in the mode it was in.
        data: Its data.
        precision: A Lightning precision.
    """
    dataset = data.dataset("test")
    count = min(LOOKED_AT, len(dataset))
    places = [place * len(dataset) // count for place in range(count)]
    images, labels, _ = dataset.__getitems__(places)
    device = network.mean.device
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    images = data.eval_transform(images.to(device))
    with autocast(precision, device):
        # no more at once than the device is known to hold
        parts = [network(part) for part in images.split(data.batch_size)]
    logits = torch.cat(parts).float()
    chosen = _chosen((logits.argmax(1).cpu() == labels).tolist())
    images = images[chosen]
    canvas = images if network.prompt is None else pad_to_canvas(images, network.input_side())
    seen = images if network.prompt is None else network.prompt(images)
    for module, training in modes:
        module.training = training
    change = (seen - canvas).float()
    factor = _factor(float(change.abs().max()))
    stronger = (canvas + factor * change).clamp(0, 1)
    names, sure = data.class_names, logits.softmax(1).max(1)
    pictures = []
    for index, place in enumerate(chosen):
        told, true = names[int(sure.indices[place])], names[int(labels[place])]
        right = told == true
        said = f"right: {true}" if right else f"wrong: says {told}, is {true}"
        parts = [_pixels(seen[index])]
        if factor > 1:
            parts.append(_pixels(stronger[index]))
        caption = f"{said} ({100 * float(sure.values[place]):.0f} %)"
        caption += f"; beside it prompt x{factor}" if factor > 1 else ""
        pictures.append(Picture(_framed(parts, RIGHT if right else WRONG), caption))
    return pictures


def _chosen(right: Sequence[bool]) -> list[int]:
    """Return up to eight places, half of them of wrong answers where there are so many."""
    good = [place for place, each in enumerate(right) if each]
    bad = [place for place, each in enumerate(right) if not each]
    half = SHOWN // 2
    count = max(half, SHOWN - len(bad))
    kept_good = _spread(good, count)
    return sorted([*kept_good, *_spread(bad, SHOWN - len(kept_good))])


def _spread(places: Sequence[int], count: int) -> list[int]:
    """Return so many of some places, evenly apart."""
    count = min(count, len(places))
    return [places[index * len(places) // count] for index in range(count)]


def _factor(largest: float) -> int:
    """Return by how much a change is shown stronger, 1 where it can be seen as it is."""
    if largest >= FAINT or largest == 0:
        return 1
    fitting = [factor for factor in FACTORS if factor * largest <= 1]
    return max(fitting, default=1)


def _pixels(image: Tensor) -> Pixels:
    """Return (3, H, W) in [0, 1] as uint8 of (H, W, 3)."""
    whole = (image.float().clamp(0, 1) * 255).round().to(torch.uint8)
    array: Pixels = whole.permute(1, 2, 0).cpu().numpy()
    return array


def _blown_up(pixels: Pixels) -> Pixels:
    times = -(-SMALLEST // min(pixels.shape[:2]))
    return pixels.repeat(times, 0).repeat(times, 1)


def _framed(parts: Sequence[Pixels], color: tuple[int, int, int]) -> Pixels:
    """Return pictures side by side in a frame."""
    parts = [_blown_up(part) for part in parts]
    height = parts[0].shape[0]
    gap = np.full((height, GAP, 3), color, dtype=np.uint8)
    row = parts[0]
    for part in parts[1:]:
        row = np.concatenate([row, gap, part], axis=1)
    framed = np.full((height + 2 * FRAME, row.shape[1] + 2 * FRAME, 3), color, dtype=np.uint8)
    framed[FRAME:-FRAME, FRAME:-FRAME] = row
    return framed


def sheet(pictures: Sequence[Picture]) -> Picture:
    """Return pictures on one sheet, captions above them, for dashboards that show no captions."""
    wide = pictures[0].pixels.shape[1] > 1.5 * pictures[0].pixels.shape[0]
    columns = min(len(pictures), 2 if wide else 4)
    lines = -(-len(pictures) // columns)
    figure, axes = _figure((columns * (5.2 if wide else 3.2), lines * 3.1), lines, columns)
    for place in axes.flat:
        place.set_axis_off()
    for place, (pixels, caption) in zip(axes.flat, pictures, strict=False):
        place.imshow(pixels, interpolation="nearest")
        place.set_title(caption.replace("; ", "\n"), fontsize=9)
    return Picture(_rendered(figure), "; ".join(caption for _, caption in pictures))


def density_picture(layers: Sequence[Layer], title: str) -> Picture:
    """Return the density of all layers as one bar chart."""
    height = max(2.5, 0.7 + 0.19 * len(layers))
    figure, axes = _figure((7, height), 1, 1)
    place = axes[0, 0]
    place.barh(range(len(layers)), [layer.density for layer in layers], color="#0072b2")
    place.set_yticks(range(len(layers)), [layer.name for layer in layers], fontsize=8)
    place.invert_yaxis()
    place.set(xlim=(0, 1), xlabel="density (fraction kept)", title=title)
    place.margins(y=0.01)
    place.grid(axis="x", alpha=0.3)
    return Picture(_rendered(figure), title)


def _figure(size: tuple[float, float], lines: int, columns: int) -> tuple[Any, Any]:
    # not pyplot, which keeps figures and may open windows
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(lines, columns, squeeze=False)


def _rendered(figure: Any) -> Pixels:
    figure.canvas.draw()
    pixels: Pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    return pixels
