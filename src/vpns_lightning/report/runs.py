"""Finished runs as rows: what ``result.json`` files say, read without torch."""

import csv
import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.texts import is_formula
from vpns_lightning.runs.record import RunRecord, read_record

UNKNOWN = "unknown"
DENSE = ("Dense", "VPNs w. Dense")


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        path: Its ``result.json``.
        record: The content; fields that older versions did not write are ``UNSET``.
    """

    path: Path
    record: RunRecord

    @cached_property
    def label(self) -> str:
        """The method, with a remark where the prompt is missing from a stage, or imported."""
        method = self.record.method
        if self.record.imported:
            return f"{method} (imported)"
        views = self.record.views or {}
        find, tune = views.get("find"), views.get("tune")
        if not self.record.prompt or self.pilot or find is None or tune is None:
            return method
        if "prompted" in find and "prompted" not in tune:
            return f"{method}, prompt in mask finding only"
        if "prompted" in tune and "prompted" not in find:
            return f"{method}, prompt in tuning only"
        return method

    @property
    def grid(self) -> str:
        """Name of the grid it belongs to, empty for a run started by hand."""
        return self.record.grid.name if self.record.grid else ""

    @property
    def grid_label(self) -> str:
        """The method as its grid calls it, else :attr:`label`."""
        return (self.record.grid and self.record.grid.method) or self.label

    @property
    def axes(self) -> Mapping[str, Any]:
        """What its grid varies besides method, sparsity and seed."""
        return (self.record.grid and self.record.grid.axes) or {}

    @cached_property
    def dataset(self) -> str:
        """The data set; for folders of images also which one."""
        # older results tell image folders apart only by their command
        root = re.search(r"--data(?:\.init_args)?\.root[= ](\S+)", self.record.command or "")
        folder = self.record.data_folder or (Path(root.group(1)).name if root else "")
        name = self.record.dataset
        if name == "ImageFolder" and (self.axes.get("data") or folder):
            return f"{name} {self.axes.get('data') or folder}"
        return name

    @property
    def pilot(self) -> bool:
        """Whether a prompt was learned after all else, alone."""
        return "prompt_tuning" in self.record.stages

    @property
    def structured(self) -> bool:
        """Whether channels were removed."""
        return bool(self.record.structured)

    @property
    def dense(self) -> bool:
        """Whether nothing was removed."""
        return self.record.method in DENSE

    @property
    def accuracy(self) -> float:
        """Test accuracy in percent, with or without the prompt as the run is judged."""
        accuracy = self.record.accuracy
        assert accuracy is not None  # read_results takes no other
        return 100 * accuracy


@dataclass(frozen=True)
class Broken:
    """A file that could not be read.

    Attributes:
        path: The file.
        reason: Why.
    """

    path: Path
    reason: str


def read_results(folders: Iterable[Path]) -> tuple[list[Run], list[Broken]]:
    """Return the runs below some folders, sorted by path, and the files that are none.

    Raises:
        UserError: A folder does not exist, or there is no ``result.json`` below any.
    """
    files: dict[Path, Path] = {}
    for folder in folders:
        if not folder.exists():
            raise UserError(f"{folder} does not exist: name a folder that holds run folders")
        found = [folder] if folder.is_file() else sorted(_below(folder))
        for path in found:
            # the same file may be reached by several ways
            files.setdefault(path.resolve(), path)
    if not files:
        raise UserError(
            "there is no result.json in the folders given: a run writes it when it is finished"
        )
    runs, broken = [], []
    for path in files.values():
        try:
            runs.append(read_result(path))
        except (OSError, ValueError, RecursionError) as error:
            broken.append(Broken(path, " ".join(str(error).split())))
    return runs, broken


def _below(folder: Path) -> Iterator[Path]:
    """Yield every ``result.json``; linked folders are followed, each once."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        if "result.json" in (*names, *folders):
            yield Path(place) / "result.json"


def read_result(path: Path) -> Run:
    """Return one run.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is no result of this package, of a newer schema, or has no accuracy.
    """
    record = read_record(path)
    if record.accuracy is None:
        raise ValueError(f"has no {record.headline or 'test_accuracy'}")
    return Run(path, record)


def in_order(seeds: Iterable[int | None]) -> tuple[int | None, ...]:
    """Return seeds in ascending order, those that are not known last."""
    return tuple(sorted(seeds, key=lambda seed: math.inf if seed is None else seed))


def setting(record: RunRecord, field: str) -> Any:  # a field's type
    """Return a field of a record, :data:`UNKNOWN` where it does not say."""
    value = getattr(record, field)
    return UNKNOWN if value is UNSET else value


def number(value: float | UnsetType | None) -> float | None:
    """Return a number of a record, None where it is not stated."""
    return None if value is None or isinstance(value, UnsetType) else float(value)


def plain(value: object) -> object:
    """Return a part of a record as names, lists and plain values."""
    return msgspec.to_builtins(value) if isinstance(value, (Struct, tuple)) else value


def describe(value: object) -> str:
    """Return a setting as text: ``PadPrompt(canvas_size=64, pad_size=4)``, or ``none``."""
    value = plain(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{k}={describe(v)}" for k, v in value.items() if k != "name")
        return f"{value['name']}({inner})" if "name" in value else f"({inner})"
    if isinstance(value, (list, tuple)):
        return "+".join(map(describe, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


# column: where it comes from; one row a run, nothing aggregated
COLUMNS: tuple[str, ...] = (
    *("method", "dataset", "backbone", "weights", "seed", "sparsity_requested", "sparsity"),
    *("effective_sparsity", "test_accuracy", "test_accuracy_plain", "headline", "dense_accuracy"),
    *("accuracy_before_tuning", "accuracy_before_prompt", "test_images", "train_images"),
    *("limit_per_class", "limit_test_per_class", "validation"),
    *("classes", "input_size", "batch_size", "precision", "protocol", "prompt", "mapping"),
    *("pruner", "budget", "optimizers", "lr_schedulers", "training", "views", "epochs"),
    *("gradient_steps", "forward_backward_passes", "seconds", "weights_kept"),
    *("weights_prunable", "parameters", "parameters_kept", "macs", "effective_macs"),
)


def rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return one flat row a run; what a result does not say is ``unknown``."""
    table = []
    for run in runs:
        row: dict[str, Any] = {"grid": run.grid, "label": run.label, "data": run.dataset}
        for column in COLUMNS:
            value = setting(run.record, column)
            plain = value is None or isinstance(value, (int, float, str))
            row[column] = ("" if value is None else value) if plain else describe(value)
        if run.record.prompt is None:
            row["prompt"] = "none"
        row |= {"command": setting(run.record, "command"), "file": str(run.path)}
        table.append(row)
    return table


def to_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of equal keys as CSV text; no cell of it is a formula to a spreadsheet."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(table[0]) if table else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _as_text(value) for key, value in row.items()} for row in table)
    return out.getvalue()


def _as_text(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and is_formula(value) else value
