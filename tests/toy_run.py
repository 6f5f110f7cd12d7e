"""A whole run on toy data in about a second, for tests of the pipeline."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn
from torch.optim import SGD, Adam

import vpns_lightning as vpns
from reference.toy_networks import ToyNet
from vpns_lightning.data import Layout, Split


class Stripes(vpns.ImageData):
    """48 training and 24 test images of 12 px: four classes of stripes under noise."""

    num_classes = 4
    layout = Layout(())

    def read(self, split: str) -> Split:
        count = 48 if split == "train" else 24
        random = np.random.default_rng(len(split))
        labels = np.arange(count) % 4
        images = random.integers(0, 120, (count, 12, 12, 3), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            (image if label % 2 else image.transpose(1, 0, 2))[:: 2 + label // 2] += 100
        return Split(labels.tolist(), ["a", "b", "c", "d"], pixels=images)


class Killed(Exception):
    """What a kill looks like from inside one process."""


class KillAt(pl.Callback):
    """Raise at a batch (or, with batch -1, at the end) of an epoch of a stage, once a process."""

    fired = False

    def __init__(self, stage: str, epoch: int, batch: int) -> None:
        self.stage, self.epoch, self.batch = stage, epoch, batch

    def _kill(self, trainer: pl.Trainer, stage: Any, batch: int) -> None:
        here = (stage.name, trainer.current_epoch, batch)
        if here == (self.stage, self.epoch, self.batch) and not KillAt.fired:
            KillAt.fired = True
            raise Killed

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        stage: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._kill(trainer, stage, batch_idx)

    def on_validation_end(self, trainer: pl.Trainer, stage: Any) -> None:
        self._kill(trainer, stage, -1)


class KillAtEnd(pl.Callback):
    """Raise after the last checkpoint of a stage, before its hand-off."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def on_train_end(self, trainer: pl.Trainer, stage: Any) -> None:
        if stage.name == self.stage:
            raise Killed


class Parts:
    """Fresh objects of one run, as a new process would make them."""

    def __init__(
        self,
        *,
        prompt: bool = True,
        views: Sequence[str] = ("prompted",),
        sparsity: float = 0.8,
        pruner: vpns.Pruner | None = None,
        epochs: int = 2,
        mapping: vpns.LabelMapping | None = None,
        tune_views: Sequence[str] | None = None,
        prompt_stage: Mapping[str, Any] | None = None,
        backbone: nn.Module | None = None,
    ) -> None:
        torch.manual_seed(0)
        self.data = Stripes(input_size=12, batch_size=16)
        self.network = vpns.PromptedClassifier(
            backbone or ToyNet(classes=6),
            4,
            prompt=vpns.PadPrompt(16, 2) if prompt else None,
            mapping=mapping,
        )
        self.warmup: vpns.SubnetworkTuning | None = vpns.SubnetworkTuning(
            self.network,
            epochs=epochs,
            name="warmup",
            optimizer=lambda p: SGD(p, lr=0.05, momentum=0.9, fused=True),
        )
        self.find = vpns.MaskFinding(
            self.network,
            pruner or vpns.Hydra(),
            sparsity=sparsity,
            epochs=epochs,
            views=views,
            optimizer=lambda p: Adam(p, lr=0.01, fused=True),
        )
        self.tune = vpns.SubnetworkTuning(self.network, epochs=epochs, views=tune_views or views)
        self.prompt = (
            None if prompt_stage is None else vpns.PromptTuning(self.network, **prompt_stage)
        )

    def fit(
        self,
        run_dir: Path,
        *callbacks: pl.Callback,
        seed: int = 3,
        other_processes: bool = False,
        source: Path | None = None,
        **trainer: Any,
    ) -> dict[str, Any]:
        options = {"accelerator": "cpu", "callbacks": list(callbacks), "log_every_n_steps": 1}
        return vpns.fit_stages(
            self.network,
            self.data,
            warmup=self.warmup,
            find=self.find,
            tune=self.tune,
            prompt_tuning=self.prompt,
            run_dir=str(run_dir),
            trainer=options | trainer,
            seed=seed,
            other_processes=other_processes,
            source=source,
        )
