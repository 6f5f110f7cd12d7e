"""Sparsity, mask churn and prompt norm, logged after every epoch."""

import lightning.pytorch as pl
import torch
from torch import Tensor

from vpns_lightning.network import PromptedClassifier
from vpns_lightning.network.accounting import network_report
from vpns_lightning.sparsity import get_gates, get_masks
from vpns_lightning.stages import MaskFinding, Stage


class SparsityMonitor(pl.Callback):
    """Log ``<stage>/sparsity``, one value a layer, ``find/mask_churn`` and ``<stage>/prompt_norm``.

    Churn is the fraction of mask entries, or of channels' gates, that changed since the previous
    epoch.
    """

    def __init__(self) -> None:
        self._previous: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the first masks."""
        assert isinstance(pl_module, Stage)
        self._remember(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log."""
        assert isinstance(pl_module, Stage)
        network, stage = pl_module.network, pl_module.name
        report = network_report(network)
        values = {f"{stage}/sparsity": report.sparsity}
        values |= {f"{stage}/sparsity/{name}": v for name, v in report.per_layer.items()}
        if network.prompt is not None:
            values[f"{stage}/prompt_norm"] = float(network.prompt.norm())
        if isinstance(pl_module, MaskFinding):
            values[f"{stage}/mask_churn"] = self._churn(pl_module)
            self._remember(pl_module)
        pl_module.log_dict(values, rank_zero_only=True)

    def _remember(self, stage: Stage) -> None:
        if isinstance(stage, MaskFinding):
            masks = _found(stage.network)
            self._previous = {name: mask.clone() for name, mask in masks.items()}

    @torch.no_grad()
    def _churn(self, stage: Stage) -> float:
        masks = _found(stage.network)
        changed = sum(int((self._previous[name] != mask).sum()) for name, mask in masks.items())
        return changed / max(1, sum(mask.numel() for mask in masks.values()))


def _found(network: PromptedClassifier) -> dict[str, Tensor]:
    return get_gates(network.backbone) or get_masks(network.backbone)
