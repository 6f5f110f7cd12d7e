"""What a step costs that no clock is needed for: operators, host reads, graphs, imports.

    python benchmarks/counts.py

Both stages run under a real Trainer while a dispatch mode counts what reaches torch between two log
points. Host reads on other devices are counted by taking the pruner's step on the `meta` device,
where nothing can be read back at all. `tests/test_step_cost.py` holds the same numbers in CI.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import torch
import torchvision
from _harness import Figure, parser, report
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from steps import LightStage
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.fx import GraphModule
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from vpns_lightning.network import IdentityMapping, PadPrompt, PromptedClassifier
from vpns_lightning.pruners import Hydra
from vpns_lightning.pruners.base import Batch
from vpns_lightning.sparsity import TieRule
from vpns_lightning.stages import MaskFinding, Stage, SubnetworkTuning

CLASSES, SIZE, PAD, BATCH = 10, 32, 4, 4
STEPS = 4

# the host waits for the device in these
READS = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "_unique2")


class Operators(TorchDispatchMode):
    """Counts operators by name, views left out.

    Attributes:
        work: Operators that compute or copy.
        reads: Those that read a value back to the host.
        copies: Those that move a tensor to another device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.work: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Count one operator and run it."""
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        source = next((a for a in args if isinstance(a, Tensor)), None)
        if name in READS:
            self.reads[name] += 1
        if self._moves(name, source, args, kwargs):
            self.copies[name] += 1
        if not func.is_view and name != "detach":
            self.work[name] += 1
        return func(*args, **kwargs)

    @staticmethod
    def _moves(name: str, source: Tensor | None, args: tuple[Any, ...], kwargs: Any) -> bool:
        if source is None:
            return False
        if name == "_to_copy":
            return kwargs.get("device") not in {None, source.device}
        return name == "copy_" and args[0].device != args[1].device


class Between(pl.Callback):
    """Counts from the start of batch 1 to the start of the last: whole steps, no log point."""

    def __init__(self) -> None:
        self.operators = Operators()
        self.steps = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start or stop counting."""
        if batch_idx == 1:
            self.operators.__enter__()
        if batch_idx == trainer.num_training_batches - 1:
            self.operators.__exit__(None, None, None)
            self.steps = batch_idx - 1


class Batches(pl.LightningDataModule):
    """The same few random images, over and over."""

    def train_dataloader(self) -> CombinedLoader:
        """Return one view."""
        batches = [new_batch(seed) for seed in range(STEPS)]
        return CombinedLoader({"prompted": DataLoader(batches, batch_size=None)}, "min_size")


def new_batch(seed: int = 0, device: str = "cpu") -> Batch:
    """Return random images in [0, 1] and labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(BATCH, 3, SIZE, SIZE, generator=generator)
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    return images.to(device), labels.to(device)


def new_network(backbone: str | nn.Module = "resnet18") -> PromptedClassifier:
    """Return a network of random weights with a pad prompt, its mapping fitted."""
    torch.manual_seed(0)
    network = PromptedClassifier(
        backbone, CLASSES, prompt=PadPrompt(SIZE, PAD), mapping=IdentityMapping()
    )
    network.fit_mapping()
    return network


def finding(network: PromptedClassifier, sparsity: float = 0.9) -> MaskFinding:
    """Return a finding stage of one epoch."""
    return MaskFinding(network, Hydra(), sparsity=sparsity, epochs=1)


def tuning(network: PromptedClassifier, sparsity: float | None = None) -> SubnetworkTuning:
    """Return a tuning stage of one epoch; with a sparsity, of what the first scores select."""
    if sparsity is not None:
        pruner = Hydra()
        pruner.attach(network, sparsity)
        pruner.finish(network, sparsity)
    return SubnetworkTuning(network, epochs=1)


@contextmanager
def silence() -> Iterator[None]:
    """Keep Lightning's remarks and warnings out of the figures."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(level)


def fit(stage: Stage, *callbacks: pl.Callback) -> None:
    """Train a stage on a few batches, its last one the only log point."""
    with silence():
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=stage.epochs,
            log_every_n_steps=10**6,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(stage, datamodule=Batches())


def step_operators(stage: Stage) -> tuple[Operators, int]:
    """Return what ran between two log points of a stage, and how many steps that were."""
    between = Between()
    fit(stage, between)
    assert between.steps == STEPS - 2
    return between.operators, between.steps


def dense_operators() -> Operators:
    """Return what one step of ordinary fine-tuning of the plain network runs."""
    network = new_network()
    plain = torchvision.models.resnet18(num_classes=CLASSES).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9, fused=True)
    images, labels = new_batch()

    def step() -> None:
        normalised = ((images - network.mean) / network.std).contiguous(
            memory_format=torch.channels_last
        )
        loss = functional.cross_entropy(plain(normalised), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    step()
    with Operators() as operators:
        step()
    return operators


def step_off_the_host(
    tie_rule: TieRule = "exact", backbone: str | nn.Module = "resnet18"
) -> Operators:
    """Take a finding step on `meta` and return what ran; reading any value there raises."""
    network, pruner = new_network(backbone), Hydra(tie_rule=tie_rule)
    pruner.attach(network, 0.9)  # looks at the weights' values, once, before training
    network.to("meta")
    pruner.to("meta")
    stage, batch = LightStage(network), new_batch(device="meta")
    # the stages' fused optimisers do not run on `meta`
    (stage.optimizer,) = pruner.optimizers(network, partial(torch.optim.SGD, lr=0.1))
    with Operators() as operators:
        pruner.step(stage, "prompted", batch)
    return operators


@contextmanager
def counted_graphs() -> Iterator[Callable[[], tuple[int, int, Callable[..., Any]]]]:
    """Yield a function that returns (graphs, breaks, backend) so far; starts from none."""
    graphs = 0

    def backend(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        nonlocal graphs
        graphs += 1
        return graph.forward

    torch._dynamo.reset()
    counters.clear()
    try:
        yield lambda: (graphs, sum(counters["graph_break"].values()), backend)
    finally:
        torch._dynamo.reset()


def graphs_of_two_runs(backbone: Callable[[], str | nn.Module] = lambda: "resnet18") -> Any:
    """Run both stages at two sparsities, compiled; return (graphs, breaks)."""
    with counted_graphs() as count:
        network = new_network(backbone())
        network.compiled = True
        counting = partial(torch.compile, backend=count()[2])
        with patch.object(torch, "compile", counting):
            for sparsity in (0.8, 0.9):
                find = finding(network, sparsity)
                fit(find)
                find.pruner.finish(network, sparsity)
                fit(tuning(network))
        graphs, breaks, _ = count()
    return graphs, breaks


def imported_by(*arguments: str) -> set[str]:
    """Return the top-level modules that `vpns` with these arguments imports."""
    code = (
        "import sys; from vpns_lightning.cli import main; main(sys.argv[1:]); "
        "print('MODULES', *{name.partition('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("MODULES")[2].split())


HEAVY = {"torch", "torchvision", "lightning", "torchmetrics", "numpy", "jsonargparse", "yaml"}


def main() -> None:
    """Count and print."""
    args = parser(__doc__, rounds=1).parse_args()
    torch.set_num_threads(1)
    figures = []
    dense = sum(dense_operators().work.values())
    print(f"dense step: {dense} operators")
    for stage in (finding(new_network()), tuning(new_network(), 0.9)):
        operators, steps = step_operators(stage)
        reads = sum((operators.reads + operators.copies).values()) / steps
        count = sum(operators.work.values()) / steps
        print(f"{stage.name}: {count:.0f} operators a step, {count / dense:.2f}x of dense;")
        print("  " + ", ".join(f"{n} {c / steps:g}" for n, c in operators.work.most_common(12)))
        for name, number in (operators.reads + operators.copies).items():
            print(f"  {name}: {number / steps:g} a step")
        name = f"{stage.name}: host reads and device copies a step"
        figures.append(Figure(name, 0, reads, reads, "", note="between log points"))
    off = step_off_the_host()
    reads = sum((off.reads + off.copies).values())
    name = "find, off the host: reads and device copies a step"
    figures.append(Figure(name, 0, reads, reads, "", note="pruner's step on the meta device"))
    graphs, breaks = graphs_of_two_runs()
    figures.append(Figure("graphs, both stages at two sparsities", 3, graphs, graphs, ""))
    figures.append(Figure("graph breaks in them", 0, breaks, breaks, ""))
    heavy = max(len(imported_by(flag) & HEAVY) for flag in ("--version", "--help"))
    figures.append(Figure("heavy packages imported by vpns --version, --help", 0, heavy, heavy, ""))
    report(figures, args.json)


if __name__ == "__main__":
    main()
