"""What steps on the device cost between two log points: waits, copies, operators, bytes."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.optim import SGD, Adam, AdamW

from contract_pruners import ARGUMENTS, found, sparsity_of
from emulated_cuda import Counts, counting
from toy_run import Parts

pytestmark = pytest.mark.usefixtures("cuda")
# updates of masks look at values; they are rare, and lie here between two epochs of six steps
RARE = {"RigL", "GradualMagnitude"}
# look at a few images of each class, and have to know which
ONE_SHOT = {"SNIP": 9, "GraSP": 15, "Wanda": 9}
FAST = {"Hydra", "StructuredVPNs"}


class Between(pl.Callback):
    """Counts the second to the last but one of the steps of every stage.

    Attributes:
        counts: By the name of the stage.
        steps: How many were counted.
    """

    def __init__(self) -> None:
        self.counts: dict[str, Counts] = {}
        self.steps = 0
        self._open = ExitStack()

    def __deepcopy__(self, memo: object) -> "Between":
        return self  # runs copy callbacks

    def on_train_batch_start(
        self, trainer: pl.Trainer, stage: Any, batch: object, batch_idx: int
    ) -> None:
        if batch_idx == 1:
            self.counts[stage.name] = self._open.enter_context(counting())
        if batch_idx == trainer.num_training_batches - 1:
            self._open.close()
            self.steps = batch_idx - 1

    def on_train_end(self, trainer: pl.Trainer, stage: Any) -> None:
        self._open.close()  # pruners may leave out the rest of an epoch


def counted(parts: Parts, folder: Path, **trainer: Any) -> Between:
    """Run finding and tuning with log points at the end only; return what a few steps cost."""
    parts.warmup = None
    parts.data.batch_size = 8
    between = Between()
    options = {"log_every_n_steps": 1000, "limit_val_batches": 0, "enable_progress_bar": False}
    parts.fit(folder, between, accelerator="gpu", devices=1, **options, **trainer)
    assert between.steps == 4
    return between


def pruned(name: str) -> Parts:
    sparsity = sparsity_of(name, 0.5)
    with pytest.MonkeyPatch.context() as patch:
        if name in RARE:
            patch.setitem(ARGUMENTS, name, {"every": 6})
        pruner = found()[name](sparsity)
    return Parts(pruner=pruner, sparsity=sparsity, epochs=2 if name in RARE else 1)


def free_of_waits(counts: Counts) -> None:
    assert not counts.waits
    assert not counts.uploads
    assert not counts.downloads


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in FAST else [pytest.mark.slow]) for n in found()]
)
def test_no_step_waits_for_the_device(name: str, tmp_path: Path) -> None:
    between = counted(pruned(name), tmp_path)
    for stage, counts in between.counts.items():
        if stage == "find" and name in ONE_SHOT:
            assert sum(counts.waits.values()) <= ONE_SHOT[name] * between.steps
            assert not counts.uploads
        else:
            free_of_waits(counts)
            assert counts.batches % (3 * between.steps) == 0  # images, labels, rows


SCALED = [n for n in found() if n not in (*ONE_SHOT, "BiP", "DepGraph", "Slim")]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in FAST else [pytest.mark.slow]) for n in SCALED]
)
def test_scaled_gradients_are_looked_at_once_a_step(name: str, tmp_path: Path) -> None:
    between = counted(pruned(name), tmp_path, precision="16-mixed")
    for counts in between.counts.values():
        # whether a gradient has overflowed, which the scaler asks before it lets a step be taken
        assert sum(counts.waits.values()) == between.steps
        assert not counts.uploads
        assert any(operator.startswith("_foreach_") for operator in counts.operators)


OPTIMIZERS: dict[str, tuple[Callable[[Any], torch.optim.Optimizer], str]] = {
    "silent Adam": (partial(Adam, lr=0.01), "_fused_adam_"),
    "silent AdamW": (partial(AdamW, lr=0.01), "_fused_adamw_"),
    "silent SGD": (partial(SGD, lr=0.01, momentum=0.9, nesterov=True), "_fused_sgd_"),
    "several at once": (partial(Adam, lr=0.01, foreach=True), "_foreach_addcdiv_"),
    "one at a time": (partial(SGD, lr=0.01, foreach=False), "add_"),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimisers_are_fused_unless_the_config_says_otherwise(name: str, tmp_path: Path) -> None:
    build, operator = OPTIMIZERS[name]
    parts = Parts(epochs=1)
    parts.find.build_optimizer = build
    between = counted(parts, tmp_path)
    counts = between.counts["find"]
    assert counts.operators[operator] >= between.steps
    # optimisers that cannot skip a step by themselves have to be told that the loss is a number
    expected = 0 if name.startswith("silent") else between.steps
    assert sum(counts.waits.values()) == expected
