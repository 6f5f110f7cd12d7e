"""Data loaders, and where in an epoch a resumed run goes on."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, TypedDict, Unpack

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from vpns_lightning.data.images.dataset import ImageDataset, IndexedBatch
from vpns_lightning.data.images.sampler import EvalSampler, ViewSampler
from vpns_lightning.data.workers import Refused, choose_workers, one_ahead, outlive_signals


class Position(NamedTuple):
    """Where training goes on: the epoch, and how many of its batches are done."""

    epoch: int
    batches: int


class Options(TypedDict):
    """What the loaders of a data module have in common."""

    batch_size: int
    num_workers: int
    pin_memory: bool


def options(
    batch_size: int,
    num_workers: int | None,
    decoding: bool,
    trainer: Trainer | None,
    loaders: int = 1,
) -> Options:
    """Return the options of loaders.

    Args:
        batch_size: Images in a batch.
        num_workers: Loader processes; None chooses.
        decoding: Whether loaders decode images, rather than copy decoded ones.
        trainer: Who will use the loaders.
        loaders: How many are read at the same time.
    """
    if num_workers is None:
        ranks = trainer.num_devices if trainer and trainer.world_size > 1 else 1
        num_workers = choose_workers(ranks, loaders) if decoding else 0
    if not decoding:
        # copying decoded images is faster than passing them between processes
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
    on_cuda = trainer is not None and trainer.strategy.root_device.type == "cuda"
    return {"batch_size": batch_size, "num_workers": num_workers, "pin_memory": on_cuda}


class ImageLoader(DataLoader[IndexedBatch]):
    """A loader of whole batches.

    Without processes of its own, and where a device works meanwhile, it gathers the next batch in a
    thread.
    """

    def __iter__(self) -> Any:  # a private class of torch's, or a generator
        """Iterate over one epoch."""
        with torch.device("cpu"):  # whatever the default device while a network is built
            batches = super().__iter__()
        if self.num_workers:
            # a map keeps the processes after its last batch; a generator would let them end
            return map(_accepted, batches)
        return one_ahead(batches) if self.pin_memory else batches


def _accepted(batch: Any) -> Any:
    """Return what a loader process made; raise what it refused to make."""
    if isinstance(batch, Refused):
        raise batch.error
    return batch


class ViewLoader(ImageLoader):
    """A loader that Lightning may resume in mid-epoch; ``ViewSampler`` does the rest."""

    def state_dict(self) -> dict[str, Any]:
        """Return what one finished batch stands for."""
        return {"batch_size": self.batch_size, "ranks": _ranks(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Say so when the rest of the epoch will not be the rest of the interrupted one."""
        if state != self.state_dict():
            rank_zero_warn(
                f"resuming an epoch begun with {state}, now {self.state_dict()}: some of its "
                f"images will be seen twice or not at all; later epochs are complete"
            )


def _ranks(loader: ViewLoader) -> int:
    return int(getattr(loader.sampler, "num_replicas", 1))


def resume_position(trainer: Trainer | None) -> Position:
    """Return the epoch that a trainer is about to run, and how many batches of it are done."""
    if trainer is None:
        return Position(0, 0)
    epochs: Any = trainer.fit_loop.epoch_progress.current
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress
    # Lightning counts an epoch as started before its first batch, as processed after its last
    if epochs.started <= epochs.processed:
        return Position(epochs.processed, 0)
    if batches.is_last_batch:
        return Position(epochs.processed + 1, 0)
    return Position(epochs.processed, batches.current.processed)


def running_epoch(trainer: Trainer | None) -> int:
    """Return the epoch whose batches a trainer is running."""
    if trainer is None:
        return 0
    epochs: Any = trainer.fit_loop.epoch_progress.current
    return int(epochs.processed)


def _collated(batch: Any) -> Any:
    return batch


def train_loader(
    dataset: ImageDataset,
    sampler: ViewSampler,
    **common: Unpack[Options],
) -> ViewLoader:
    """Return a loader that keeps the last, smaller batch, unless that has a single image.

    Batch normalisation cannot train on one image with 1 x 1 feature maps.
    """
    batch_size = common["batch_size"]
    return ViewLoader(
        dataset,
        sampler=sampler,
        collate_fn=_collated,
        drop_last=batch_size > 1 and len(sampler) > 1 and len(sampler) % batch_size == 1,
        # a generator of its own: the loader's seeds shall not come from the global stream
        generator=torch.Generator("cpu").manual_seed(sampler.seed),
        worker_init_fn=outlive_signals,
        persistent_workers=common["num_workers"] > 0,
        **common,
    )


def eval_loader(
    dataset: Dataset[Any],
    sampler: EvalSampler,
    **common: Unpack[Options],
) -> DataLoader[Any]:
    """Return a loader over all images of this rank, in order; batches are the data set's own."""
    return ImageLoader(
        dataset,
        sampler=sampler,
        collate_fn=_collated,
        generator=torch.Generator("cpu"),
        worker_init_fn=outlive_signals,
        persistent_workers=common["num_workers"] > 0,
        **common,
    )
