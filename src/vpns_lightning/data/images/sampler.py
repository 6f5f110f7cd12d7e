"""Orders that depend on (seed, stage, view, epoch) alone, with one process or many."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import cast

import torch
from torch.utils.data import Dataset, DistributedSampler

from vpns_lightning.base.seeds import stream_key


class ViewSampler(DistributedSampler[int]):
    """Shuffles the training images for one view of one stage.

    All ranks together see each image once in an epoch; the last rank repeats a few images where
    the number of images is not a multiple of the number of ranks.

    Args:
        dataset: Anything with a length.
        view: Name of the view; two views have different orders.
        stage: Name of the stage; two stages have different orders.
        seed: Seed of the run.
        num_replicas: Number of ranks.
        rank: This rank.
        epoch: Epoch to begin with.
        start: How many images this rank already saw in ``epoch``. They are left out of that epoch
            and of no other; the length stays that of a full epoch, as Lightning's counters expect.
    """

    def __init__(
        self,
        dataset: Sized,
        view: str = "prompted",
        *,
        stage: str = "fit",
        seed: int = 7,
        num_replicas: int = 1,
        rank: int = 0,
        epoch: int = 0,
        start: int = 0,
    ) -> None:
        super().__init__(cast("Dataset[int]", dataset), num_replicas, rank, shuffle=True, seed=seed)
        self.view = view
        self.stage = stage
        self.epoch = epoch
        self._resumed_epoch = epoch
        self._start = start

    @property
    def start(self) -> int:
        """Number of this rank's images that the present epoch leaves out."""
        return self._start if self.epoch == self._resumed_epoch else 0

    def __iter__(self) -> Iterator[int]:
        """Iterate over this rank's positions for the present epoch."""
        generator = torch.Generator("cpu")
        generator.manual_seed(stream_key(self.seed, self.stage, self.view, self.epoch, "order"))
        order = torch.randperm(len(cast("Sized", self.dataset)), generator=generator, device="cpu")
        padded = order.repeat(-(-self.total_size // len(order)))[: self.total_size]
        mine = padded[self.rank :: self.num_replicas]
        return iter(mine[self.start :].tolist())


class EvalSampler(DistributedSampler[int]):
    """Gives rank r of w the images r, r + w, r + 2w, ... in order, and none twice.

    Args:
        dataset: Anything with a length.
        num_replicas: Number of ranks.
        rank: This rank.
    """

    def __init__(self, dataset: Sized, *, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(cast("Dataset[int]", dataset), num_replicas, rank, shuffle=False)
        self._mine = range(rank, len(dataset), num_replicas)

    def __iter__(self) -> Iterator[int]:
        """Iterate over this rank's positions."""
        return iter(self._mine)

    def __len__(self) -> int:
        """Return the number of this rank's images."""
        return len(self._mine)
