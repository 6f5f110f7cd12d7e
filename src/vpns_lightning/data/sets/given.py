"""Data sets that were made in Python: torchvision's, Hugging Face's, or any of (image, label)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from vpns_lightning.base.errors import UserError
from vpns_lightning.data.items import Columns, Items, class_names_of, name_of
from vpns_lightning.data.labels import classes_of, indexed
from vpns_lightning.data.layout import Layout
from vpns_lightning.data.module import ImageData, SplitName
from vpns_lightning.data.split import Split


class FromDatasets(ImageData):
    """Images of two data sets that ``from_datasets`` has put in; a config cannot name them.

    Attributes:
        classes: Their names, in index order.
    """

    layout = Layout(())

    def hold(
        self,
        train: Any,
        test: Any,
        *,
        columns: Columns | None,
        class_names: Sequence[str] | None,
        name: str | None,
    ) -> None:
        """Take two data sets, of which only the labels are read; see ``from_datasets``."""
        # it names files
        self.name = re.sub(r"[^\w.-]+", "-", name or name_of(train))
        self._items: dict[SplitName, Items] = {
            "train": Items(train, f"{self.name}, train split", columns),
            "test": Items(test, f"{self.name}, test split", columns),
        }
        labels = {split: items.labels() for split, items in self._items.items()}
        said = class_names or class_names_of(train, self._items["train"].columns)
        self.classes = classes_of(labels["train"], said)
        self._labels = {
            split: indexed(labels[split], self.classes, items.where)
            for split, items in self._items.items()
        }

    @property
    def num_classes(self) -> int:  # type: ignore[override]  # known once there are data
        """Number of classes.

        Raises:
            UserError: There are no data.
        """
        return len(self._held().classes)

    def read(self, split: SplitName) -> Split:
        """Return the images of one split, after a look whether they are always the same."""
        items = self._held()._items[split]
        items.check_repeatable()
        taken = f" by {' and '.join(items.columns)}" if items.columns else ""
        remark = f"images and labels of {type(items.dataset).__name__}{taken}"
        return Split(self._labels[split], self.classes, images=items, remarks=[remark])

    def _held(self) -> FromDatasets:
        if not hasattr(self, "classes"):
            raise UserError(
                "FromDatasets has no data: they were given in Python, by vpns.from_datasets, and a "
                "config cannot bring them back; on the command line use a subclass of ImageData in "
                "a file that --plugins names"
            )
        return self


def from_datasets(
    train: Any,
    test: Any,
    *,
    columns: Columns | None = None,
    class_names: Sequence[str] | None = None,
    name: str | None = None,
    **options: Any,
) -> ImageData:
    """Return a data module of two data sets that you have in Python.

    Any map-style data set of (image, label) will do: torchvision's, ``Subset``, ``ConcatDataset``,
    your own, and those of Hugging Face ``datasets``. Images are PIL images of any size and mode,
    uint8 arrays (h, w[, c]), or tensors ([c, ]h, w) of uint8 or in [0, 1]; without random
    transforms and without normalisation, which are done here. Labels are class indices or names.

    Args:
        train: Training images with labels.
        test: Test images with labels.
        columns: Keys of image and label, where items are mappings; None finds them.
        class_names: Names in index order; None takes what the data set says, else what the
            training labels are.
        name: Of the data set in results; None takes the data set's own.
        **options: Those of ``ImageData``: ``input_size``, ``batch_size``, ``cache``,
            ``limit_per_class`` and the others.

    Raises:
        UserError: A data set is none of (image, label), or labels are of no class.
    """
    module = FromDatasets(**options)
    module.hold(train, test, columns=columns, class_names=class_names, name=name)
    return module
