"""Checkpoints that survive a kill, and that training hardly waits for."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor
from torch.utils import _pytree as pytree

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.files import whole_file


class AtomicCheckpointIO(CheckpointIO):
    """Write in a thread, to a temporary name in the same folder, then rename.

    Training waits only for a copy of the state in memory. A second save, loading, and teardown wait
    for the write at hand and raise what went wrong in it.
    """

    def __init__(self) -> None:
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._copies: list[Tensor] = []

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any = None,
    ) -> None:
        """Copy the state and start writing it.

        Raises:
            UserError: The previous write failed (disk full, folder gone).
        """
        self.flush()
        self._pending = self._writer.submit(_write, self._snapshot(checkpoint), Path(path))

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Return a checkpoint.

        Raises:
            UserError: It holds other content than tensors and plain values, or is damaged.
        """
        self.flush()
        try:
            loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (UnpicklingError, RuntimeError, EOFError, ValueError, OSError):
            # torch's own words are left out: they offer to open the file without protection
            raise UserError(
                f"checkpoint {path} is damaged or was not written by a run: delete it to repeat "
                "that stage from its start"
            ) from None
        return loaded

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint if it is there."""
        self.flush()
        Path(path).unlink(missing_ok=True)

    def flush(self) -> None:
        """Wait for the write at hand."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def teardown(self) -> None:
        """Finish writing."""
        self.flush()

    def _snapshot(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """Return the checkpoint with all tensors copied to memory that later calls reuse.

        Fresh memory of that size would cost more in page faults than the copy itself.
        """
        leaves, layout = pytree.tree_flatten(checkpoint)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if [_kind(t) for t in tensors] != [_kind(t) for t in self._copies]:
            self._copies = [torch.empty_like(t, device="cpu", requires_grad=False) for t in tensors]
        for copy, tensor in zip(self._copies, tensors, strict=True):
            copy.copy_(tensor.detach())
        copies = iter(self._copies)
        leaves = [next(copies) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return pytree.tree_unflatten(leaves, layout)  # type: ignore[no-any-return]  # a dict went in


def _kind(tensor: Tensor) -> tuple[object, ...]:
    return tensor.dtype, tensor.shape, tensor.stride()


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    with whole_file(path) as temporary:
        torch.save(checkpoint, temporary)


class EpochCheckpoint(Checkpoint):
    """Save the whole state after every epoch, once schedulers and epoch hooks have run.

    Args:
        path: The file, replaced at each epoch.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop on a bad loss, else save."""
        pl_module.check_finite()  # type: ignore[operator]  # every Stage has it
        trainer.save_checkpoint(self.path, weights_only=False)
