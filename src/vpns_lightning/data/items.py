"""Data sets of others: any sequence of (image, label), those of Hugging Face included."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, overload

import numpy as np
from PIL import Image
from rich.progress import track
from torch import Tensor
from torch.utils.data import ConcatDataset, IterableDataset, Subset

from vpns_lightning.base.errors import UserError

Columns: TypeAlias = tuple[str, str]
Label: TypeAlias = int | str
SPOT_CHECKS = 8


class Items(Sequence[Image.Image]):
    """The images of a data set, made one at a time.

    Args:
        dataset: Has a length, and gives (image, label) or a mapping for every index.
        where: Data set and split, for messages.
        columns: Keys of image and label where items are mappings; None finds them.

    Raises:
        UserError: It is no such data set.
    """

    def __init__(self, dataset: Any, where: str, columns: Columns | None = None) -> None:
        indexed = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
        if not indexed or isinstance(dataset, IterableDataset):
            raise UserError(
                f"{where}: {type(dataset).__name__} has no length or no items: give a map-style "
                f"data set of (image, label), not one that streams"
            )
        self.where = where
        # Hugging Face's: as images, whatever format or transform has been set
        self.tabular = hasattr(dataset, "column_names") and hasattr(dataset, "features")
        self.dataset = dataset.with_format(None) if self.tabular else dataset
        self.columns = _found_columns(self.dataset, where) if self.tabular else None
        self.columns = columns or self.columns
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.dataset)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[Image.Image]: ...
    def __getitem__(self, index: int | slice) -> Image.Image | list[Image.Image]:
        """Return one image, or a list of some.

        Raises:
            UserError: It is of no kind that is understood.
        """
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return as_image(self._item(index)[0], f"{self.where}, image {index}")

    def labels(self) -> list[Label]:
        """Return the label of every item, without its image where that is possible.

        Raises:
            UserError: A label is no number and no text.
        """
        if self.tabular and self.columns:
            column = self.columns[1]
            if column not in self.dataset.column_names:
                raise UserError(
                    f"{self.where}: there is no column {column!r}; there are "
                    f"{', '.join(self.dataset.column_names)}"
                )
            given: list[Any] = list(self.dataset[column])
        else:
            given = _known_labels(self.dataset) or []
        labels = [self._label(value, row) for row, value in enumerate(given)]
        if len(labels) == len(self) and self._agree(labels):
            return labels
        rows = track(range(len(self)), f"reading labels of {self.where}")
        return [self._label(self._item(row)[1], row) for row in rows]

    def check_repeatable(self) -> None:
        """Refuse images that are drawn anew whenever they are asked for.

        Raises:
            UserError: Some image is another one the second time.
        """
        for row in _spread(len(self)):
            if self[row].tobytes() != self[row].tobytes():
                raise UserError(
                    f"{self.where}: image {row} is another one each time: give the data set "
                    f"without random transforms; images are cropped and flipped here"
                )

    def _item(self, index: int) -> tuple[Any, Any]:
        with self._lock:  # nothing is known of how the data set bears threads
            item = self.dataset[index]
        if isinstance(item, Mapping):
            if self.columns is None or any(key not in item for key in self.columns):
                raise UserError(
                    f"{self.where}: items have the keys {', '.join(map(str, item))}; name those of "
                    f"image and label, columns=('image', 'label')"
                )
            return item[self.columns[0]], item[self.columns[1]]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise UserError(
                f"{self.where}: expected items (image, label), got {type(item).__name__}"
                f"{f' of {len(item)}' if isinstance(item, tuple | list) else ''}"
            )
        return item[0], item[1]

    def _label(self, value: Any, row: int) -> Label:
        if isinstance(value, Tensor | np.ndarray | np.generic) and np.prod(value.shape) == 1:
            value = value.item()
        if isinstance(value, str):
            return value
        if isinstance(value, int):  # True and False are two classes
            return int(value)
        raise UserError(
            f"{self.where}: label {row} is {_in_words(value)}, expected the number or the name of "
            f"one class"
        )

    def _agree(self, labels: Sequence[Label]) -> bool:
        """Return whether items have the labels that were read without them."""
        if self.tabular:
            return True
        return all(
            self._label(self._item(row)[1], row) == labels[row] for row in _spread(len(self))
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the lock behind, which no process shares with another."""
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def as_image(value: Any, where: str) -> Image.Image:
    """Return a PIL image of a PIL image, an array (h, w[, c]) or a tensor ([c, ]h, w).

    Args:
        value: uint8 in 0..255 or floating point in [0, 1]; c is 1, 3 or 4.
        where: Data set and image, for messages.

    Raises:
        UserError: It is nothing of that.
    """
    if isinstance(value, Image.Image):
        return value
    pixels: Any = None
    if isinstance(value, Tensor):
        pixels = (value.permute(1, 2, 0) if value.ndim == 3 else value).cpu().numpy()
    elif isinstance(value, np.ndarray):
        pixels = value
    if (
        pixels is None
        or pixels.ndim not in {2, 3}
        or (pixels.ndim == 3 and pixels.shape[2] not in {1, 3, 4})
    ):
        raise UserError(
            f"{where} is {_in_words(value)}: give PIL images, arrays (h, w, c) or tensors "
            f"(c, h, w) of 1, 3 or 4 channels"
        )
    if pixels.dtype.kind == "f":
        if not (pixels.size and pixels.min() >= 0 and pixels.max() <= 1):
            raise UserError(
                f"{where} has values from {pixels.min():.3g} to {pixels.max():.3g}, expected "
                f"[0, 1]: leave out Normalize, which the network does itself"
            )
        pixels = np.rint(pixels * 255)
    elif pixels.dtype != np.uint8:
        raise UserError(f"{where} is of {pixels.dtype}, expected uint8, or float in [0, 1]")
    plain = pixels.astype(np.uint8)
    return Image.fromarray(plain[..., 0] if plain.ndim == 3 and plain.shape[2] == 1 else plain)


def class_names_of(dataset: Any, columns: Columns | None) -> list[str] | None:
    """Return the names of classes that a data set says, None where it says none."""
    if isinstance(dataset, Subset):
        return class_names_of(dataset.dataset, columns)
    if isinstance(dataset, ConcatDataset):
        return class_names_of(dataset.datasets[0], columns)
    if columns is not None and hasattr(dataset, "features"):
        names = getattr(dataset.features.get(columns[1]), "names", None)
        return None if names is None else list(names)
    names = getattr(dataset, "classes", None)
    return [str(name) for name in names] if isinstance(names, list | tuple) else None


def name_of(dataset: Any) -> str:
    """Return what a data set is called: its class, or what the Hub calls it."""
    if isinstance(dataset, Subset):
        return name_of(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return name_of(dataset.datasets[0])
    hub = getattr(getattr(dataset, "info", None), "dataset_name", None)
    return str(hub or type(dataset).__name__)


def _known_labels(dataset: Any) -> list[Any] | None:
    """Return the labels that a data set keeps in the open, None where it keeps none."""
    if isinstance(dataset, Subset):
        whole = _known_labels(dataset.dataset)
        return whole and [whole[index] for index in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        parts = [_known_labels(part) for part in dataset.datasets]
        return None if None in parts else [label for part in parts for label in part or ()]
    if getattr(dataset, "target_transform", None) is not None:
        return None
    for name in ("targets", "labels"):  # torchvision's names
        kept = getattr(dataset, name, None)
        if isinstance(kept, list | tuple | Tensor | np.ndarray) and len(kept) == len(dataset):
            return list(kept)
    return None


def _found_columns(dataset: Any, where: str) -> Columns | None:
    """Return the columns of image and label by their kinds."""
    kinds = {name: type(kind).__name__ for name, kind in dataset.features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    labels = labels or [name for name in kinds if name in {"label", "labels"}]
    return (images[0], labels[0]) if len(images) == len(labels) == 1 else None


def _spread(count: int) -> list[int]:
    rows = np.linspace(0, count - 1, min(count, SPOT_CHECKS)).astype(int)
    return [int(row) for row in np.unique(rows)]


def _in_words(value: Any) -> str:
    shape: tuple[int, ...] | None = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} {tuple(shape)}"
