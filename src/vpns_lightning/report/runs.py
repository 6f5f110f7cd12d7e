"""Finished runs as rows: what ``result.json`` files say, read without torch."""

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vpns_lightning.base.errors import UserError

UNKNOWN = "unknown"
SCHEMA = 1
# without these a result cannot be placed anywhere
REQUIRED = ("method", "backbone", "dataset", "seed", "sparsity_requested", "sparsity", "stages")
NUMBERS = (
    *("seed", "sparsity_requested", "sparsity", "test_accuracy", "test_accuracy_plain"),
    *("dense_accuracy", "accuracy_before_prompt", "gradient_steps", "seconds", "epochs"),
    *("forward_backward_passes", "macs", "effective_macs", "parameters_kept", "schema"),
    *("classes", "train_images", "test_images", "batch_size", "input_size"),
)
TEXTS = ("method", "backbone", "dataset", "headline", "command", "data_folder")
MAPPINGS = ("stages", "grid", "prompt", "views", "mapping", "pruner", "budget", "optimizers")
DENSE = ("Dense", "VPNs w. Dense")


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        path: Its ``result.json``.
        facts: The content; keys that older versions did not write may be absent.
    """

    path: Path
    facts: Mapping[str, Any]

    @cached_property
    def label(self) -> str:
        """The method, with a remark where the prompt is missing from a stage, or imported."""
        method = str(self.facts["method"])
        if self.facts.get("imported"):
            return f"{method} (imported)"
        views = self.facts.get("views") or {}
        find, tune = views.get("find"), views.get("tune")
        if not self.facts.get("prompt") or self.pilot or find is None or tune is None:
            return method
        if "prompted" in find and "prompted" not in tune:
            return f"{method}, prompt in mask finding only"
        if "prompted" in tune and "prompted" not in find:
            return f"{method}, prompt in tuning only"
        return method

    @property
    def grid(self) -> str:
        """Name of the grid it belongs to, empty for a run started by hand."""
        return str((self.facts.get("grid") or {}).get("name", ""))

    @property
    def grid_label(self) -> str:
        """The method as its grid calls it, else :attr:`label`."""
        return str((self.facts.get("grid") or {}).get("method") or self.label)

    @cached_property
    def dataset(self) -> str:
        """The data set; for folders of images also which one."""
        name = str(self.facts["dataset"])
        axes = (self.facts.get("grid") or {}).get("axes") or {}
        # older results tell image folders apart only by their command
        root = re.search(r"--data(?:\.init_args)?\.root[= ](\S+)", self.facts.get("command") or "")
        folder = self.facts.get("data_folder") or (Path(root.group(1)).name if root else "")
        if name == "ImageFolder" and (axes.get("data") or folder):
            return f"{name} {axes.get('data') or folder}"
        return name

    @property
    def pilot(self) -> bool:
        """Whether a prompt was learned after all else, alone."""
        return "prompt_tuning" in self.facts["stages"]

    @property
    def structured(self) -> bool:
        """Whether channels were removed."""
        return bool(self.facts.get("structured"))

    @property
    def dense(self) -> bool:
        """Whether nothing was removed."""
        return self.facts["method"] in DENSE

    @property
    def asked(self) -> float:
        """Sparsity asked for, a fraction."""
        return float(self.facts["sparsity_requested"])

    @property
    def seed(self) -> int | None:
        """Seed, None for an imported run."""
        seed = self.facts["seed"]
        return None if seed is None else int(seed)

    @property
    def accuracy(self) -> float:
        """Test accuracy in percent, with or without the prompt as the run is judged."""
        return 100 * float(self.facts[self.facts.get("headline") or "test_accuracy"])

    def number(self, key: str) -> float | None:
        """Return a number of the result, None where it is absent."""
        value = self.facts.get(key)
        return None if value is None else float(value)


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
        ValueError: The file is no result of this package, or of a newer schema.
    """
    facts = json.loads(path.read_text())
    if not isinstance(facts, dict):
        raise ValueError("is not a JSON object")
    # an imported run says that its seed is not known
    missing = [
        key for key in REQUIRED if facts.get(key) is None and (key != "seed" or key not in facts)
    ]
    if missing:
        raise ValueError(f"has no {', '.join(missing)}")
    for key in NUMBERS:
        if facts.get(key) is not None and not _is_number(facts[key]):
            raise ValueError(f"has {facts[key]!r} where {key} should be a number")
    if (facts.get("schema") or SCHEMA) > SCHEMA:
        raise ValueError(f"has schema {facts['schema']}, newer than {SCHEMA}: upgrade to read it")
    for key in TEXTS:
        if facts.get(key) is not None and not isinstance(facts[key], str):
            raise ValueError(f"has {facts[key]!r} where {key} should be a text")
    for key in (*MAPPINGS, "sparsity_per_layer"):
        if not isinstance(facts.get(key) or {}, dict):
            raise ValueError(f"has no names and values in {key}")
    if not isinstance((facts.get("grid") or {}).get("axes") or {}, dict):
        raise ValueError("has no names and values in grid.axes")
    if not all(map(_is_number, (facts.get("sparsity_per_layer") or {}).values())):
        raise ValueError("has a layer whose sparsity is no number")
    if not isinstance(facts["stages"], dict):
        raise ValueError("has no names and values in stages")
    if not all(isinstance(stage, dict) for stage in facts["stages"].values()):
        raise ValueError("has a stage without names and values")
    judged = facts.get("headline") or "test_accuracy"
    if facts.get(judged) is None:
        raise ValueError(f"has no {judged}")
    run = Run(path, facts)
    if not math.isfinite(run.accuracy) or not 0 <= run.asked < 1:
        raise ValueError("has an accuracy or sparsity that is out of range")
    return run


def _is_number(value: object) -> bool:
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return real and math.isfinite(value)  # type: ignore[arg-type]  # it is one


def in_order(seeds: Iterable[int | None]) -> tuple[int | None, ...]:
    """Return seeds in ascending order, those that are not known last."""
    return tuple(sorted(seeds, key=lambda seed: math.inf if seed is None else seed))


def describe(value: object) -> str:
    """Return a setting as text: ``PadPrompt(canvas_size=64, pad_size=4)``, or ``none``."""
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
    *("pruner", "budget", "optimizers", "views", "epochs", "gradient_steps"),
    *("forward_backward_passes", "seconds", "weights_kept", "weights_prunable", "parameters"),
    *("parameters_kept", "macs", "effective_macs"),
)


def rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return one flat row a run; what a result does not say is ``unknown``."""
    table = []
    for run in runs:
        row: dict[str, Any] = {"grid": run.grid, "label": run.label, "data": run.dataset}
        for column in COLUMNS:
            value = run.facts.get(column, UNKNOWN)
            plain = value is None or isinstance(value, (int, float, str))
            row[column] = ("" if value is None else value) if plain else describe(value)
        if run.facts.get("prompt", UNKNOWN) is None:
            row["prompt"] = "none"
        row |= {"command": run.facts.get("command", UNKNOWN), "file": str(run.path)}
        table.append(row)
    return table


def to_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of equal keys as CSV text."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(table[0]) if table else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue()
