"""The parts of `gpu.py`: each measures one thing on a device and yields rows of its table."""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import checkpoint
import lightning.pytorch as pl
import torch
import torchvision
from counts import silence
from input_path import run_ours, write_images
from steps import LightStage, autocast, dense_step, finding_step, new_batch, tuning_step
from torch import Tensor, nn

from vpns_lightning.data import ImageFolder
from vpns_lightning.network import IdentityMapping, PadPrompt, PromptedClassifier
from vpns_lightning.pruners import Hydra
from vpns_lightning.sparsity import get_masks, keep_highest, prune_count
from vpns_lightning.sparsity.device_search import by_operators, compiles
from vpns_lightning.stages import MaskFinding

SPARSITY = 0.9


class Row(NamedTuple):
    """One row of the table.

    Attributes:
        what: What was measured.
        value: With its unit.
        beside: What it is to be compared with, or how it was taken.
    """

    what: str
    value: str
    beside: str = ""


class Size(NamedTuple):
    """How much is measured.

    Attributes:
        device: Where.
        backbones: Of the selections and the steps.
        px: Side of the images.
        batch: Images in a step.
        images: In the folder of the runs from end to end.
        epochs: Of those runs.
        seconds: Spent on each time, about; three calls are always taken.
    """

    device: torch.device
    backbones: Sequence[str] = ("resnet18", "resnet50", "vgg16")
    px: int = 224
    batch: int = 256
    images: int = 8192
    epochs: int = 4
    seconds: float = 1.0


def wait(device: torch.device) -> None:
    """Return once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(call: Callable[[], object], size: Size) -> float:
    """Return the median time of a call, several between two waits where one is short."""
    for _ in range(2):
        start = time.perf_counter()
        call()
        wait(size.device)
        first = time.perf_counter() - start
    calls = max(1, min(20, int(0.01 / first)))
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 3 or (len(times) < 30 and time.perf_counter() - begin < size.seconds):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        wait(size.device)
        times.append((time.perf_counter() - start) / calls)
    return 1e3 * statistics.median(times)


def new_scores(backbone: str, device: torch.device) -> list[Tensor]:
    """Return scores shaped and laid out as those of a network with 1,000 classes."""
    with torch.device("meta"):
        network = torchvision.models.get_model(backbone)
    generator = torch.Generator().manual_seed(0)
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    scores = [torch.randn(layer.weight.shape, generator=generator) for layer in layers]
    last = torch.channels_last
    return [s.to(device, memory_format=last) if s.dim() == 4 else s.to(device) for s in scores]


def selections(size: Size) -> Iterator[Row]:
    """Time the refresh of all masks, and torch's ways to the threshold alone."""
    if size.device.type == "cuda":
        yield Row("kernels of the selection", "Triton" if compiles(size.device) else "operators")
    for backbone in size.backbones:
        scores = new_scores(backbone, size.device)
        masks = [torch.empty_like(score, dtype=torch.bool) for score in scores]
        total = sum(score.numel() for score in scores)
        n_prune = prune_count(total, SPARSITY)
        flat = torch.cat([score.abs().flatten() for score in scores])
        ways: dict[str, Callable[[], object]] = {
            "ours, masks too": partial(keep_highest, scores, n_prune, masks, absolute=True),
            "torch's operators, masks too": partial(
                by_operators, scores, n_prune, masks, absolute=True, exact=True
            ),
            "topk, threshold alone": partial(torch.topk, flat, total - n_prune + 1, sorted=False),
            "sort, threshold alone": flat.sort,
            "kthvalue, threshold alone": partial(torch.kthvalue, flat, n_prune),
        }
        times = {name: milliseconds(call, size) for name, call in ways.items()}
        ours = times["ours, masks too"]
        for name, found in times.items():
            beside = "" if found == ours else f"{found / ours:.1f}x of ours"
            yield Row(f"select among {total / 1e6:.1f} M, {name}", f"{found:.3f} ms", beside)


def equality(size: Size) -> Iterator[Row]:
    """Compare the device's masks with the CPU's, with ties and without."""
    for backbone in size.backbones:
        there = new_scores(backbone, size.device)
        for kind, values in (("", there), (", with ties", [s.mul(64).round() / 64 for s in there])):
            host = [value.cpu() for value in values]
            masks = [torch.empty_like(value, dtype=torch.bool) for value in values]
            expected = [torch.empty_like(value, dtype=torch.bool) for value in host]
            n_prune = prune_count(sum(value.numel() for value in host), SPARSITY)
            bar = keep_highest(values, n_prune, masks, absolute=True).cpu()
            same = torch.equal(bar, keep_highest(host, n_prune, expected, absolute=True))
            same &= all(torch.equal(m.cpu(), e) for m, e in zip(masks, expected, strict=True))
            if not same:
                raise ArithmeticError(f"masks of {backbone}{kind} differ from the CPU's")
        yield Row(f"masks of {backbone} equal the CPU's", "yes", "random scores, and many ties")


def phases(size: Size) -> Iterator[Row]:
    """Time the phases of an eager step of finding, each awaited."""
    for backbone in size.backbones:
        batch = on_device(size)
        step, network = finding_step(size.px, batch, precision="bf16", backbone=backbone)
        step()
        pruner: Hydra = step.func.__self__  # type: ignore[attr-defined]  # a partial of a method
        stage: LightStage = step.args[0]  # type: ignore[attr-defined]  # same
        optimizer = stage.optimizers()

        def forward(stage: LightStage = stage, batch: Any = batch) -> Tensor:
            with autocast("bf16", size.device):
                return stage.loss("prompted", batch)

        def both(forward: Callable[[], Tensor] = forward) -> None:
            forward().backward()

        ahead, back = milliseconds(forward, size), milliseconds(both, size)
        parts = {
            "forward": ahead,
            "backward": back - ahead,
            "optimiser": milliseconds(optimizer.step, size),
            "masks": milliseconds(partial(pruner.refresh, network), size),
        }
        told = ", ".join(f"{name} {found:.2f}" for name, found in parts.items())
        yield Row(f"find {backbone} by phase", f"{sum(parts.values()):.2f} ms", told)


def steps(size: Size, *, compiled: bool) -> Iterator[Row]:
    """Time whole steps of both stages over a dense step."""
    for backbone in size.backbones:
        batch, how = on_device(size), {"precision": "bf16", "compile": compiled}
        dense = milliseconds(dense_step(size.px, batch, backbone=backbone, **how), size)
        mode = "compiled" if compiled else "eager"
        place = f"{backbone}, {size.px} px, batch {size.batch}, bf16, {mode}"
        yield Row(f"dense {place}", f"{dense:.2f} ms", f"{1e3 * size.batch / dense:.0f} images/s")
        for name, new in (("find", finding_step), ("tune", tuning_step)):
            found = milliseconds(new(size.px, batch, backbone=backbone, **how)[0], size)
            yield Row(f"{name} {place}", f"{found:.2f} ms", f"{found / dense:.3f}x of dense")


def on_device(size: Size) -> tuple[Tensor, Tensor]:
    """Return a random batch on the device."""
    images, labels = new_batch(size.px, size.batch)
    return images.to(size.device), labels.to(size.device)


@contextmanager
def folder_of_images(size: Size) -> Iterator[ImageFolder]:
    """Yield a folder of small images, decoded and resized once."""
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name), size.images)
        common = {"batch_size": size.batch, "num_workers": 0, "cache": "resized"}
        yield ImageFolder(name, input_size=size.px, **common)


def fit(size: Size, data: ImageFolder, epochs: int, *callbacks: pl.Callback) -> None:
    """Find masks of the first network under a Trainer."""
    torch.manual_seed(0)
    prompt = PadPrompt(size.px, max(1, size.px * 16 // 224))
    mapping = IdentityMapping()
    network = PromptedClassifier(size.backbones[0], 2, prompt=prompt, mapping=mapping)
    with silence():
        trainer = pl.Trainer(
            accelerator="gpu" if size.device.type == "cuda" else "cpu",
            devices=1,
            precision="bf16-mixed",
            max_epochs=epochs,
            log_every_n_steps=10**6,
            callbacks=list(callbacks),
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        stage = MaskFinding(network, Hydra(), sparsity=SPARSITY, epochs=epochs)
        trainer.fit(stage, datamodule=data)


class Epochs(pl.Callback):
    """Takes the time of every epoch."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        self._start = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        wait(self.device)
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop it once the device is done."""
        wait(self.device)
        self.seconds.append(time.perf_counter() - self._start)


class Waits(pl.Callback):
    """Counts the waits that CUDA reports from the second to the last but one step."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.steps = 0
        self._caught = warnings.catch_warnings(record=True)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start or stop counting."""
        if batch_idx == 1:
            self._record = self._caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        if batch_idx == trainer.num_training_batches - 1:
            torch.cuda.set_sync_debug_mode("default")
            self.found = [str(warning.message) for warning in self._record]
            self._caught.__exit__(None, None, None)
            self.steps = batch_idx - 1


def end_to_end(size: Size) -> Iterator[Row]:
    """Time epochs of finding from files to masks, what delivers their images, and count waits."""
    with folder_of_images(size) as data:
        epochs = Epochs(size.device)
        fit(size, data, size.epochs, epochs)
        rate = size.images / statistics.median(epochs.seconds[1:])
        what = f"find {size.backbones[0]} from files, {size.px} px, batch {size.batch}, bf16"
        yield Row(what, f"{rate:.0f} images/s", f"first epoch {epochs.seconds[0]:.1f} s")
        taken = milliseconds(partial(run_ours, data, size.device), size)
        yield Row("input path alone, cache: resized", f"{1e3 * size.images / taken:.0f} images/s")
        if size.device.type == "cuda":
            waits = Waits()
            fit(size, data, 1, waits)
            first = waits.found[0] if waits.found else "torch.cuda.set_sync_debug_mode"
            number = len(waits.found) / waits.steps
            yield Row("waits for the device, a step of finding", f"{number:g}", first)


def checkpoints(size: Size) -> Iterator[Row]:
    """Time how long training waits for a checkpoint, which is loaded and compared."""
    accelerator = "gpu" if size.device.type == "cuda" else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        timed = checkpoint.train(Path(folder), size.epochs, accelerator, size.backbones[0])
        megabytes = timed.path.stat().st_size / 2**20
    held, whole = (1e3 * statistics.median(t[1:]) for t in (timed.blocking, timed.complete))
    what = f"training waits for a checkpoint of {megabytes:.0f} MB"
    yield Row(what, f"{held:.0f} ms", f"on the disk after {whole:.0f} ms")


def determinism(size: Size) -> Iterator[Row]:
    """Time a step under deterministic algorithms; compare two such series of steps."""
    batch, backbone = on_device(size), size.backbones[0]
    new = partial(finding_step, size.px, batch, precision="bf16", backbone=backbone)
    free = milliseconds(new()[0], size)
    torch.use_deterministic_algorithms(True)
    try:
        bound = milliseconds(new()[0], size)
        ends = []
        for _ in range(2):
            step, network = new()
            for _ in range(5):
                step()
            ends.append([mask.cpu() for mask in get_masks(network.backbone).values()])
    finally:
        torch.use_deterministic_algorithms(False)
    same = all(map(torch.equal, *ends))
    yield Row(
        f"find {backbone}, deterministic", f"{bound:.2f} ms", f"{bound / free:.2f}x of default"
    )
    yield Row("masks of two deterministic runs are equal", "yes" if same else "NO", "five steps")
