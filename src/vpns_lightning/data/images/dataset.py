"""Batches of uint8 images, their labels and their places in the split."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vpns_lightning.data.images.stores import Store
from vpns_lightning.data.workers import handing_back

# images (N, 3, h, w) as uint8, labels (N,), and positions in the split (N,)
IndexedBatch: TypeAlias = tuple[Tensor, Tensor, Tensor]


class ImageDataset(Dataset[IndexedBatch]):
    """Batches of ``(images, labels, rows)`` from a store.

    Args:
        store: Where the pixels come from.
        labels: int64 class indices of shape (N,), one for each position of the store.
        rows: int64 positions of shape (M,): the images of this data set, a part of the store.
    """

    def __init__(self, store: Store, labels: Tensor, rows: Tensor) -> None:
        self.store = store
        self.labels = labels
        self.rows = rows

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def __getitem__(self, index: int) -> IndexedBatch:
        """Return image ``index`` as a batch of one."""
        return self.__getitems__([index])

    @handing_back
    def __getitems__(self, indices: list[int]) -> IndexedBatch:
        """Return a batch.

        Args:
            indices: Positions in this data set.

        Returns:
            uint8 images of shape (N, 3, h, w), int64 labels of shape (N,), and int64 positions in
            the whole split of shape (N,), which identify an image whatever part is held out.
        """
        rows = self.rows[torch.tensor(indices, device="cpu")]
        images, good = self.store.fetch(rows)
        if good is not None:
            rows = rows[good]
        return images, self.labels[rows], rows
