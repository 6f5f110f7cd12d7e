"""Images named in a table."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from vpns_lightning.base.errors import UserError
from vpns_lightning.data.labels import classes_of, indexed
from vpns_lightning.data.layout import Layout
from vpns_lightning.data.module import ImageData, SplitName
from vpns_lightning.data.split import Paths, Split

# what may stand in the column of splits; of several names of test images the first is taken
TRAIN = ("train", "training")
TEST = ("test", "val", "valid", "validation")


class _Row(NamedTuple):
    """A line of the table."""

    path: str
    label: str
    split: str


class CSVImages(ImageData):
    """Images that a table names: a file, a label and a split in each line.

    The first line names the columns. Paths are relative to the table's folder, or absolute. Labels
    are names, or whole numbers; classes are sorted, numbers by value. Splits are ``train``, and one
    of ``test``, ``val``, ``valid`` and ``validation``.

    Args:
        root: Folder that holds the table.
        table: Name of the table; ``.tsv`` is separated by tabs, any other by commas.
        columns: Names of the columns of path, label and split.
        **kwargs: See ``ImageData``.

    Raises:
        UserError: The table is not there, has not these columns, or names a split or a label that
            means nothing.
    """

    def __init__(
        self,
        root: str = "data",
        *,
        table: str = "images.csv",
        columns: tuple[str, str, str] = ("path", "label", "split"),
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.layout = Layout((table,))
        self.table = table
        self.columns = columns
        rows = _rows(self.found().paths[0], columns)
        counts = Counter(row.split for row in rows)
        for wanted in (TRAIN, TEST):
            if not any(counts[name] for name in wanted):
                raise UserError(
                    f"{self.root / table} has no images of split {' or '.join(wanted)}, but "
                    f"{', '.join(f'{count:,} of {name!r}' for name, count in counts.items())}"
                )
        self._test = next(name for name in TEST if counts[name])
        self._rows: dict[SplitName, list[_Row]] = {
            "train": [row for row in rows if row.split in TRAIN],
            "test": [row for row in rows if row.split == self._test],
        }
        self._unused = [name for name in TEST if counts[name] and name != self._test]
        # text in the order of numbers, where all are numbers
        labels = sorted({row.label for row in self._rows["train"]})
        numbers = all(label.isdecimal() for label in labels)
        self._classes = classes_of(labels, sorted(labels, key=int) if numbers else None)
        self.num_classes = len(self._classes)

    def read(self, split: SplitName) -> Split:
        """Return the files of one split."""
        rows, folder = self._rows[split], self.found().paths[0].parent
        where = f"{self.root / self.table}, {split} split"
        labels = indexed([row.label for row in rows], self._classes, where)
        files = Paths(folder / row.path for row in rows)
        return Split(labels, self._classes, files, remarks=self._remarks(split))

    def _remarks(self, split: SplitName) -> list[str]:
        if split == "train":
            return []
        lines = [f"the test images are those of split {self._test!r}"] * (self._test != TEST[0])
        both = {r.path for r in self._rows["train"]} & {r.path for r in self._rows["test"]}
        if both:
            lines.append(f"{len(both):,} of its images are training images too: {min(both)}")
        return lines + [f"images of split {name!r} are not used" for name in self._unused]


def _rows(table: Path, columns: tuple[str, str, str]) -> list[_Row]:
    """Return the lines of a table.

    Raises:
        UserError: A column is missing, a value is empty, or a split has another name.
    """
    with table.open(newline="", encoding="utf-8-sig") as file:
        try:
            reader = csv.DictReader(file, delimiter="\t" if table.suffix == ".tsv" else ",")
            header = list(reader.fieldnames or ())
            missing = [name for name in columns if name not in header]
            if missing:
                raise UserError(
                    f"{table} has no column {', '.join(missing)}; its first line names "
                    f"{', '.join(header) or 'none'}: write columns as [path, label, split] are "
                    f"called there"
                )
            lines = [
                (reader.line_num, [(line[name] or "").strip() for name in columns])
                for line in reader
            ]
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{table} is no table of text in UTF-8: {error}") from None
    rows = []
    for number, (path, label, split) in lines:
        name = split.lower()
        if not (path and label) or name not in {*TRAIN, *TEST}:
            raise UserError(
                f"{table}, line {number}: expected a path, a label and a split of "
                f"{', '.join((*TRAIN, *TEST))}, got {path!r}, {label!r} and {split!r}"
            )
        rows.append(_Row(path, label, name))
    return rows
