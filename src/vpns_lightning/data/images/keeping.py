"""Which images are kept where: the decision behind ``cache=auto``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from vpns_lightning.base.errors import UserError
from vpns_lightning.data.images.cache import MixedSizesError, PixelCache, build, open_pixels
from vpns_lightning.data.images.decode import OnBadImage
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
    """

    input_size: int
    mode: CacheMode
    limit: float
    on_bad_image: OnBadImage


@dataclass(frozen=True)
class Stores:
    """Open images.

    Attributes:
        mode: How they are kept, never ``auto``.
        augmented: Training images for the training transform.
        plain: Images of each split for the evaluation transform.
        good: int64 positions of the images of each split that can be decoded.
    """

    mode: CacheMode
    augmented: Store
    plain: Mapping[str, Store]
    good: Mapping[str, Tensor]


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
    splits = {"train": train, "test": test}
    mode = plan.mode
    if mode == "auto":
        mode = _automatic(folder, splits, plan)
    if mode == "source":
        try:
            return _kept(name, folder, splits, plan, sizes=(None, None), mode=mode)
        except MixedSizesError:
            if plan.mode == "source":
                raise
            mode = "resized"
    if mode == "resized":
        sizes = (train_size(plan.input_size), plan.input_size)
        return _kept(name, folder, splits, plan, sizes=sizes, mode=mode)
    return _decoding(splits, plan)


def _kept(
    name: str,
    folder: Path,
    splits: Mapping[str, Split],
    plan: Plan,
    *,
    sizes: tuple[int | None, int | None],
    mode: CacheMode,
) -> Stores:
    """Return cached stores; ``sizes`` are those for the training and the evaluation transform."""
    plain: dict[str, Store] = {}
    good: dict[str, Tensor] = {}
    augmented: Store | None = None
    for kind, split in splits.items():
        if split.pixels is not None and sizes[1] is None:
            plain[kind] = ArrayStore(partial(np.asarray, split.pixels))
            good[kind] = torch.arange(len(split))
        else:
            wanted = dict.fromkeys((sizes[1], sizes[0] if kind == "train" else sizes[1]))
            caches = [PixelCache(folder, f"{name}-{kind}", split, size) for size in wanted]
            build(caches, plan.on_bad_image)
            plain[kind] = ArrayStore(partial(open_pixels, caches[0].path))
            good[kind] = _good_rows(split, caches[0].bad_rows(plan.on_bad_image))
            if kind == "train":
                augmented = ArrayStore(partial(open_pixels, caches[-1].path))
    return Stores(mode, augmented or plain["train"], plain, good)


def _decoding(splits: Mapping[str, Split], plan: Plan) -> Stores:
    size = plan.input_size
    return Stores(
        "none",
        DecodingStore(splits["train"], train_size(size), plan.on_bad_image),
        {kind: DecodingStore(split, size, plan.on_bad_image) for kind, split in splits.items()},
        {kind: torch.arange(len(split)) for kind, split in splits.items()},
    )


def _good_rows(split: Split, bad: list[int]) -> Tensor:
    good = torch.ones(len(split), dtype=torch.bool)
    good[bad] = False
    return good.nonzero().flatten()


def _automatic(folder: Path, splits: Mapping[str, Split], plan: Plan) -> CacheMode:
    """Return the first of source, resized and none that is possible and small enough."""
    images = sum(len(split) for split in splits.values())
    side = _common_side(splits["train"])
    if side and side <= _LARGEST_SOURCE and images * side**2 * 3 <= plan.limit * _GIB:
        return "source"
    size = plan.input_size
    area = len(splits["train"]) * (train_size(size) ** 2 + size**2) + len(splits["test"]) * size**2
    if area * 3 > plan.limit * _GIB:
        rank_zero_info(
            f"images are decoded in every epoch: a cache would take {area * 3 / _GIB:.1f} GiB, "
            f"more than --data.cache_limit {plan.limit:g}"
        )
        return "none"
    return "resized" if _writable(folder, area * 3) else "none"


def _writable(folder: Path, size: int) -> bool:
    """Return whether ``folder`` has room for ``size`` bytes, or something is kept there already."""
    if folder.exists() and any(folder.glob("*.json")):
        return True
    parent = folder if folder.exists() else folder.parent
    if os.access(parent, os.W_OK) and shutil.disk_usage(parent).free > size:
        return True
    rank_zero_warn(
        f"images are decoded in every epoch: {folder} cannot take a cache of "
        f"{size / _GIB:.1f} GiB; free some space or make it writable"
    )
    return False


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
