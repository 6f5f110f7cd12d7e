"""Which images are kept where: the decision behind ``cache=auto``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from vpns_lightning.base.errors import UserError
from vpns_lightning.data.images.building import build
from vpns_lightning.data.images.cache import MixedSizesError, PixelCache, open_pixels
from vpns_lightning.data.images.decode import OnBadImage
from vpns_lightning.data.images.encoded import ReadingStore
from vpns_lightning.data.images.stores import ArrayStore, DecodingStore, Store
from vpns_lightning.data.images.transforms import train_size
from vpns_lightning.data.split import Split

CacheMode: TypeAlias = Literal["auto", "source", "resized", "none"]

_LARGEST_SOURCE = 64
_GIB = 1 << 30


@dataclass(frozen=True)
class Plan:
    """What a user asked for.

    Attributes:
        input_size: Side in pixels of the images the network gets.
        mode: How images are kept.
        limit: Largest cache in GiB that ``auto`` makes.
        on_bad_image: What to do about images that cannot be decoded.
        on_device: Images that are not kept are decoded on the device.
    """

    input_size: int
    mode: CacheMode
    limit: float
    on_bad_image: OnBadImage
    on_device: bool = False


@dataclass(frozen=True)
class Stores:
    """Open images.

    Attributes:
        augmented: Training images for the training transform.
        plain: Images of each split for the evaluation transform.
        good: int64 positions of the images of each split that can be decoded.
        caches: The caches among them, on disk.
    """

    augmented: Store
    plain: Mapping[str, Store]
    good: Mapping[str, Tensor]
    caches: Sequence[PixelCache] = ()


class _Array(NamedTuple):
    """The images of one split at one size; None is their own size."""

    kind: str
    size: int | None


def open_stores(name: str, folder: Path, train: Split, test: Split, plan: Plan) -> Stores:
    """Open the images of a data set, decoding them first where a cache is wanted and missing.

    Args:
        name: Data set, for file names.
        folder: Where caches are kept.
        train: Training images.
        test: Test images.
        plan: What the user asked for.

    Raises:
        UserError: An image cannot be decoded, or the cache cannot be written.
    """
    return _Keeper(name, folder, {"train": train, "test": test}, plan).opened()


class _Keeper:
    """What is known while it is decided what to keep."""

    def __init__(self, name: str, folder: Path, splits: Mapping[str, Split], plan: Plan) -> None:
        self.name = name
        self.folder = folder
        self.splits = splits
        self.plan = plan

    def opened(self) -> Stores:
        mode = self.plan.mode
        if mode == "source" or (mode == "auto" and self._small()):
            try:
                return self._open((None, None), [_Array("train", None), _Array("test", None)])
            except MixedSizesError:
                if mode == "source":
                    raise
        augmented, plain = train_size(self.plan.input_size), self.plan.input_size
        # what every epoch needs comes first; the last is for the mapping pass, once in most runs
        arrays = [_Array("train", augmented), _Array("test", plain), _Array("train", plain)]
        if mode == "auto":
            arrays = self._affordable(arrays)
        return self._open((augmented, plain), arrays if mode != "none" else [])

    def _cache(self, array: _Array) -> PixelCache:
        name = f"{self.name}-{array.kind}"
        return PixelCache(self.folder, name, self.splits[array.kind], array.size)

    def _open(self, sizes: tuple[int | None, int | None], kept: Collection[_Array]) -> Stores:
        """Return stores at the sizes for training and for evaluation, those of ``kept`` cached."""
        stores: dict[_Array, Store] = {}
        good: dict[str, Tensor] = {}
        caches: list[PixelCache] = []
        for kind, split in self.splits.items():
            # images for evaluation first: where one size does for both, it is one cache
            wanted = [_Array(kind, sizes[1]), *([_Array(kind, sizes[0])] * (kind == "train"))]
            in_memory = split.pixels is not None and sizes[1] is None
            mine = {} if in_memory else {a: self._cache(a) for a in wanted if a in kept}
            build(list(mine.values()), self.plan.on_bad_image)
            good[kind] = torch.arange(len(split), device="cpu")
            for array in wanted:
                if array in mine:
                    stores[array] = ArrayStore(partial(open_pixels, mine[array].path))
                    bad = mine[array].bad_rows(self.plan.on_bad_image)
                    good[kind] = _good_rows(split, bad)
                elif array.size is None:
                    stores[array] = ArrayStore(partial(np.asarray, split.pixels))
                else:
                    # pixels that a split holds itself are no files
                    on_device = self.plan.on_device and bool(split.files)
                    kind_of_store = ReadingStore if on_device else DecodingStore
                    stores[array] = kind_of_store(split, array.size, self.plan.on_bad_image)
            caches += mine.values()
        plain = {kind: stores[_Array(kind, sizes[1])] for kind in self.splits}
        return Stores(stores[_Array("train", sizes[0])], plain, good, caches)

    def _small(self) -> bool:
        """Return whether images are few and small enough to be kept at their own size."""
        images = sum(len(split) for split in self.splits.values())
        side = _common_side(self.splits["train"])
        limit = self.plan.limit * _GIB
        return bool(side and side <= _LARGEST_SOURCE and images * side**2 * 3 <= limit)

    def _affordable(self, arrays: list[_Array]) -> list[_Array]:
        """Return the first of ``arrays`` that fit the limit and the disk together."""
        sizes = [len(self.splits[array.kind]) * (array.size or 0) ** 2 * 3 for array in arrays]
        whole = f"{sum(sizes) / _GIB:.1f} GiB"
        within = arrays[: _fitting(sizes, self.plan.limit * _GIB)]
        if not within:
            rank_zero_info(
                f"images are decoded in every epoch: a cache would take {whole}, more than "
                f"--data.cache_limit {self.plan.limit:g}"
            )
            return []
        # those that are there take no more room
        new = [s * (not self._cache(a).path.exists()) for a, s in zip(within, sizes, strict=False)]
        kept = within[: _fitting(new, _room(self.folder))]
        if not kept:
            rank_zero_warn(
                f"images are decoded in every epoch: {self.folder} cannot take a cache of {whole}; "
                f"free some space, make it writable, or name another place with --data.cache_dir"
            )
        elif len(kept) < len(arrays):
            left = " and ".join(f"{kind} images at {size} px" for kind, size in arrays[len(kept) :])
            rank_zero_info(
                f"{left} are decoded whenever they are needed: to keep all decoded takes {whole}"
            )
        return kept


def _fitting(sizes: Sequence[int], room: float) -> int:
    """Return how many of the first sizes fit together."""
    return int(np.searchsorted(np.cumsum(sizes), room, side="right"))


def _room(folder: Path) -> int:
    """Return how many bytes can be kept in a folder, which need not be there yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free if os.access(folder, os.W_OK) else 0


def _good_rows(split: Split, bad: list[int]) -> Tensor:
    good = torch.ones(len(split), dtype=torch.bool, device="cpu")
    good[bad] = False
    return good.nonzero().flatten()


def _common_side(split: Split) -> int | None:
    """Return the longer side in pixels of all images, None if a sample has several sizes."""
    rows = np.unique(np.linspace(0, len(split) - 1, 64).astype(int)).tolist()
    if split.pixels is not None:
        rows = rows[:1]
    sizes = set()
    for row in rows:
        try:
            sizes.add(split.image(row).size)
        except UserError:
            continue
    return max(sizes.pop()) if len(sizes) == 1 else None
