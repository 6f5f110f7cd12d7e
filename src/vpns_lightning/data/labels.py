"""From the labels of a table or of another data set to class indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vpns_lightning.base.errors import UserError, nearest

Label = int | str


def classes_of(labels: Sequence[Label], said: Sequence[str] | None = None) -> list[str]:
    """Return the names of classes, in index order.

    Numbers are indices, and count from 0; names are sorted.

    Args:
        labels: Those of the training images.
        said: Names that the data set gives, in index order.
    """
    if said is not None:
        return list(said)
    if all(isinstance(label, int) for label in labels):
        return [str(number) for number in range(max(map(int, labels), default=-1) + 1)]
    return sorted({str(label) for label in labels})


def indexed(labels: Sequence[Label], class_names: Sequence[str], where: str) -> list[int]:
    """Return the class index of each label.

    Args:
        labels: Indices or names.
        class_names: What ``classes_of`` returned.
        where: Data set and split, for messages.

    Raises:
        UserError: A label is hidden, or of no class.
    """
    index: Mapping[str, int] = {name: place for place, name in enumerate(class_names)}
    found = []
    for row, label in enumerate(labels):
        place = label if isinstance(label, int) else index.get(label, -1)
        if not 0 <= place < len(class_names):
            kept_back = " (labels that are kept back?)" if label == -1 else ""
            raise UserError(
                f"{where}: image {row} has the label {label!r}{kept_back}, which is none of the "
                f"{len(class_names)} classes of the training images"
                f"{nearest(str(label), class_names)}"
            )
        found.append(place)
    return found
