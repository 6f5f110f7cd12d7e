"""End to end against the authors' released procedure: images a second of one over the other's.

    python benchmarks/released.py                           64 px, batch 32, and 224 px, batch 16
    python benchmarks/released.py --px 64 --precision bf16 --compile

Both take two updates an iteration, one on prompted and one on plain images, from the same 32 px
images and the same weights. The release, restated in `tests/reference/released_vpns.py` (which the
tests hold against ours), runs as it was published: float32, images prepared one by one by
torchvision in two loaders of two processes each, masks of every layer built anew, `kthvalue` over
all scores. Ours is a stage under a real Trainer. Epochs alternate in one process, the first is not
counted; processor time is that of all processes.
"""

from __future__ import annotations

import copy
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
import torchvision
from _harness import Figure, parser, report, settle
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from vpns_lightning.data import ImageData, Layout, Split
from vpns_lightning.network import IdentityMapping, PadPrompt, PromptedClassifier
from vpns_lightning.pruners import Hydra
from vpns_lightning.sparsity import get_masks
from vpns_lightning.stages import MaskFinding, Stage, SubnetworkTuning
from vpns_lightning.training.machine import quiet_lightning

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from reference.released_vpns import Release

CLASSES, SOURCE_CLASSES, SPARSITY = 100, 1000, 0.9
BATCHES = {64: 32, 224: 16}
GOALS = {64: 2.0, 224: 1.3}
VIEWS = {"views": ("prompted", "plain"), "unaugmented": ("prompted",)}
TICKS = os.sysconf("SC_CLK_TCK")


class Smooth(ImageData):
    """Random smooth images of 32 px, in memory, as CIFAR-100 is.

    Args:
        count: Training images.
        options: See ImageData.
    """

    num_classes = CLASSES
    layout = Layout(())

    def __init__(self, count: int, **options: Any) -> None:
        super().__init__(".", **options)
        self.count = count

    def read(self, split: str) -> Split:
        """Return the images of one split."""
        count = self.count if split == "train" else CLASSES
        random = np.random.default_rng(0)
        coarse = random.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        large = [Image.fromarray(c).resize((32, 32), Image.Resampling.BICUBIC) for c in coarse]
        names = [str(label) for label in range(CLASSES)]
        labels = (np.arange(count) % CLASSES).tolist()
        return Split(labels, names, pixels=np.stack([np.asarray(image) for image in large]))


class OneByOne(Dataset[tuple[Tensor, int]]):
    """The same images, each prepared by itself."""

    def __init__(self, split: Split, steps: list[nn.Module]) -> None:
        assert split.pixels is not None
        self.images = [Image.fromarray(image) for image in split.pixels]
        self.labels = list(split.labels)
        tail = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
        self.transform = v2.Compose([*steps, *tail])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


class Spent(NamedTuple):
    """Seconds of one epoch, on the clock and of all processes' processor time."""

    clock: float
    processor: float


def now() -> Spent:
    """Return what has been spent so far, by this process and by those it has started."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = file.read_text().rpartition(")")[2].split()
            ticks += (int(fields[1]) == os.getpid()) * (int(fields[11]) + int(fields[12]))
    return Spent(time.perf_counter(), time.process_time() + ticks / TICKS)


class Alternate(pl.Callback):
    """After each epoch of ours, takes one of theirs; keeps what both spent."""

    def __init__(self, theirs: Callable[[], None]) -> None:
        self.theirs = theirs
        self.spent: dict[str, list[Spent]] = {"ours": [], "theirs": []}

    def _ended(self, side: str, start: Spent) -> None:
        self.spent[side].append(Spent(*np.subtract(now(), start)))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.start = now()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock; take the other epoch."""
        self._ended("ours", self.start)
        start = now()
        self.theirs()
        self._ended("theirs", start)


def released_epochs(release: Release, data: Smooth, stage: str) -> Callable[[], None]:
    """Return what runs one epoch of the release."""
    px, split = data.input_size, data.split("train")
    large = round(px * 9 / 8)
    augmented = [v2.Resize((large, large)), v2.RandomCrop(px), v2.RandomHorizontalFlip()]
    how: dict[str, Any] = {"shuffle": True, "num_workers": 2, "persistent_workers": True}
    loaders = [
        DataLoader(OneByOne(split, steps), data.batch_size, **how)
        for steps in ([v2.Resize((px, px))], augmented)
    ]
    prompt: torch.optim.Optimizer
    own: torch.optim.Optimizer
    if stage == "find":
        own = torch.optim.Adam(list(release.scores.values()), lr=1e-4, weight_decay=1e-4)
        prompt = torch.optim.Adam([release.program], lr=1e-4, weight_decay=1e-4)
    else:
        rest: dict[str, float] = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
        own = torch.optim.SGD(release.net.parameters(), **rest)
        prompt = torch.optim.SGD([release.program], **rest)

    def epoch() -> None:
        for pair in zip(*loaders, strict=True):
            release.iterate(own, prompt, pair, finding=stage == "find")

    return epoch


def networks(px: int, *, compile: bool) -> tuple[PromptedClassifier, Release]:
    """Return both sides with equal weights and equal first masks."""
    torch.manual_seed(0)
    net, pad = torchvision.models.resnet18(num_classes=SOURCE_CLASSES), max(1, px * 16 // 224)
    release = Release(net, range(CLASSES), canvas=px, pad=pad, density=1 - SPARSITY)
    network = PromptedClassifier(
        copy.deepcopy(net),
        CLASSES,
        prompt=PadPrompt(px, pad),
        mapping=IdentityMapping(slice_head=False),
        pad_plain=False,
        compile=compile,
    )
    network.fit_mapping()
    pruner = Hydra(tie_rule="threshold")
    pruner.attach(network, SPARSITY)
    masks = release.masks()
    assert all(torch.equal(mask, masks[n]) for n, mask in get_masks(network.backbone).items())
    return network, release


def stages(network: PromptedClassifier, epochs: int) -> Iterator[Stage]:
    """Yield both stages with the optimisers of the release."""
    pruner = Hydra(tie_rule="threshold")
    yield MaskFinding(network, pruner, sparsity=SPARSITY, epochs=epochs, **VIEWS)
    pruner.finish(network, SPARSITY)
    yield SubnetworkTuning(network, epochs=epochs, **VIEWS)


def measure(
    px: int, precision: str, *, compile: bool, rounds: int, iterations: int
) -> Iterator[Figure]:
    """Measure both stages at one size."""
    batch_size = BATCHES.get(px, 16)
    network, release = networks(px, compile=compile)
    for stage in stages(network, rounds + 1):
        data = Smooth(iterations * batch_size, input_size=px, batch_size=batch_size)
        alternate = Alternate(released_epochs(release, data, stage.name))
        with quiet_lightning():
            trainer = pl.Trainer(
                accelerator="cpu",
                devices=1,
                precision="bf16-mixed" if precision == "bf16" else "32-true",
                max_epochs=rounds + 1,
                limit_val_batches=0,
                num_sanity_val_steps=0,
                callbacks=[alternate],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(stage, datamodule=data)
        yield from figures(alternate, f"{stage.name}, {px} px, batch {batch_size}", precision, data)


def figures(alternate: Alternate, name: str, precision: str, data: Smooth) -> Iterator[Figure]:
    """Yield how many times as fast ours is, by processor time and by the clock."""
    ours, theirs = alternate.spent["ours"][1:], alternate.spent["theirs"][1:]
    for field in ("processor", "clock"):
        mine, other = ([getattr(s, field) for s in side] for side in (ours, theirs))
        seen = 2 * data.count  # two views
        print(
            f"  {name}, {precision}, {field}: ours {seen / statistics.median(mine):.1f}, "
            f"released {seen / statistics.median(other):.1f} images a second",
            flush=True,
        )
        pairs = [b / a for a, b in zip(mine, other, strict=True)]
        goal = GOALS[64 if data.input_size <= 64 else 224]
        median = statistics.median(pairs)
        yield Figure(
            f"{name}, {precision}, {field}", goal, min(other) / min(mine), median, at_least=True
        )


def main() -> None:
    """Measure and print the ratios."""
    settle()
    options = parser(__doc__, rounds=3)
    options.add_argument("--px", type=int, nargs="+", default=[64, 224], help="image sizes")
    options.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32"])
    options.add_argument("--iterations", type=int, default=4, help="of an epoch")
    options.add_argument("--compile", action="store_true", help="compile ours")
    args = options.parse_args()
    torch.multiprocessing.set_sharing_strategy("file_system")
    found: list[Figure] = []
    for px in args.px:
        for precision in args.precision:
            rounds, iterations = (1, 1) if args.quick else (args.rounds, args.iterations)
            print(f"ResNet-18, {px} px, {precision}, {torch.get_num_threads()} threads", flush=True)
            how = {"compile": args.compile, "rounds": rounds, "iterations": iterations}
            found += measure(px, precision, **how)
    report(found, args.json)


if __name__ == "__main__":
    main()
