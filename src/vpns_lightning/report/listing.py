"""What lies below some folders: runs finished, running, stopped and failed, one row a method."""

import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, TypeAlias

from vpns_lightning.base.errors import UserError, nearest
from vpns_lightning.base.files import is_held
from vpns_lightning.report.comparability import CURVE_KEYS, difference
from vpns_lightning.report.membership import further_axes
from vpns_lightning.report.runs import Broken, Run, in_order, read_result
from vpns_lightning.runs.folder import RunFolder

State: TypeAlias = Literal["finished", "running", "stopped", "failed"]
STATES: tuple[State, ...] = ("finished", "running", "stopped", "failed")
# folders of loggers and of warm-ups that cells share hold no runs
PASSED_OVER = {"wandb", "lightning_logs", "mlruns", "shared"}
LOG, TAIL, ERROR_LINES = "grid.log", 4096, 3
# pruners that the paper calls otherwise than their class: without and with a prompt
PAPER_NAMES = {
    "Hydra": ("HYDRA", "VPNs"),
    "GradualMagnitude": ("GMP", "VPNs w. GMP"),
    "StructuredVPNs": ("HYDRA (structured)", "VPNs (structured)"),
}


@dataclass(frozen=True)
class Listed:
    """A run folder.

    Attributes:
        path: The folder.
        state: Whether it is finished; one that failed ended with an error that its log holds.
        method: As its grid or the paper calls it.
        data: Data set.
        backbone: Backbone.
        grid: The grid it belongs to, empty for a run started by hand.
        sparsity: What was asked for, a fraction; None where it is not known.
        seed: None where it is not known.
        changed: When it was written last, in seconds since 1970.
        run: Its result, once it is finished.
    """

    path: Path
    state: State
    method: str
    data: str
    backbone: str
    grid: str
    sparsity: float | None
    seed: int | None
    changed: float
    run: Run | None = None


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed alone, in one state.

    Attributes:
        runs: The runs.
    """

    runs: tuple[Listed, ...]

    @property
    def seeds(self) -> tuple[int | None, ...]:
        """Return the seeds in order."""
        return in_order(listed.seed for listed in self.runs)

    @property
    def accuracies(self) -> list[float]:
        """Return test accuracies in percent, of finished runs."""
        return [listed.run.accuracy for listed in self.runs if listed.run]

    @property
    def accuracy(self) -> float | None:
        """Return the mean of :attr:`accuracies`."""
        return statistics.fmean(self.accuracies) if self.accuracies else None

    @property
    def age(self) -> float:
        """Return the seconds since any of the runs was written."""
        return time.time() - max(listed.changed for listed in self.runs)


def list_runs(folders: Iterable[Path]) -> tuple[list[Listed], list[Broken]]:
    """Return the run folders below some folders, and what could not be read.

    Raises:
        UserError: A folder does not exist.
    """
    listed: list[Listed] = []
    broken: list[Broken] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: name one that holds run folders")
        for place in _run_folders(folder, broken):
            try:
                listed.append(read_folder(place))
            except (OSError, ValueError, RecursionError, UserError) as error:
                broken.append(Broken(place, " ".join(str(error).split())))
    unique = {entry.path.resolve(): entry for entry in listed}
    return list(unique.values()), broken


def read_folder(place: Path) -> Listed:
    """Return what a run folder holds.

    Raises:
        OSError: Its result cannot be read.
        ValueError: Its result is damaged.
        UserError: It has no result, and its config is damaged.
    """
    folder = RunFolder(place)
    if folder.result.exists():
        run = read_result(folder.result)
        record = run.record
        changed = folder.result.stat().st_mtime
        method = ", ".join(filter(None, (run.grid_label, further_axes(run))))
        head = (method, run.dataset, record.backbone, run.grid)
        asked = record.sparsity_requested
        return Listed(place, "finished", *head, asked, record.seed, changed, run)
    config = folder.read_config()
    state: State = "running" if is_held(place / ".lock") else "stopped"
    if state == "stopped" and _ended_in_error(place / LOG):
        state = "failed"
    grid, method = _cell(place)
    method = method or method_of(config)
    find, network = _part(config, "find"), _part(config, "network")
    data, backbone = _data(config), _name(network.get("backbone"))
    sparsity, seed = find.get("sparsity"), config.get("seed_everything")
    return Listed(
        place,
        state,
        method,
        data,
        backbone,
        grid,
        float(sparsity) if isinstance(sparsity, int | float) else None,
        seed if isinstance(seed, int) else None,
        _changed(folder),
    )


def rows(listed: Sequence[Listed]) -> list[Row]:
    """Return runs of one method, data, backbone, sparsity and state together.

    Only those that differ in nothing but the seed are; others keep a row of their own.
    """
    groups: dict[tuple[Any, ...], list[list[Listed]]] = defaultdict(list)
    for one in listed:
        key = (one.grid, one.data, one.backbone, one.sparsity or 0.0, one.method, one.state)
        for group in groups[key]:
            if _alike(group, one):
                group.append(one)
                break
        else:
            groups[key].append([one])
    ordered = sorted(groups.items(), key=lambda item: item[0])
    return [Row(tuple(group)) for _, found in ordered for group in found]


def _alike(group: Sequence[Listed], one: Listed) -> bool:
    if one.seed in {other.seed for other in group}:
        return False
    first = group[0].run
    return not (first and one.run) or difference(first, one.run, CURVE_KEYS) is None


def unbegun(folders: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Return each grid below some folders with how many of its cells have no folder, and of all."""
    found = []
    for folder in folders:
        for place, inner, names in os.walk(folder, followlinks=True):
            inner[:] = [name for name in inner if not (Path(place) / name / "config.yaml").exists()]
            if "grid.json" not in names:
                continue
            plan = _plan(Path(place))
            cells = [cell.get("cell", "") for cell in plan.get("cells", ())]
            lacking = sum(not (Path(place) / cell / "config.yaml").exists() for cell in cells)
            if lacking:
                found.append((str(plan.get("grid", place)), lacking, len(cells)))
    return found


def method_of(config: Mapping[str, Any]) -> str:
    """Return the method of a run that has no result yet, as the paper writes it."""
    find, network = _part(config, "find"), _part(config, "network")
    pruner = _name(find.get("pruner"))
    prompted = network.get("prompt") is not None and "prompted" in (find.get("views") or ())
    return PAPER_NAMES.get(pruner, (pruner, f"VPNs w. {pruner}"))[prompted]


def _run_folders(folder: Path, broken: list[Broken]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        broken.append(Broken(Path(error.filename), f"cannot be read: {error.strerror}"))

    seen = set()
    for place, inner, names in os.walk(folder, followlinks=True, onerror=unreadable):
        real = os.path.realpath(place)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(n for n in inner if n not in PASSED_OVER and not n.startswith("."))
        if {"result.json", "config.yaml"} & {*names, *inner}:
            yield Path(place)


def _cell(place: Path) -> tuple[str, str]:
    """Return the grid and the method that the plan beside a folder gives it, else nothing."""
    plan = _plan(place.parent)
    for cell in plan.get("cells", ()):
        if cell.get("cell") == place.name:
            return str(plan.get("grid", "")), str(cell.get("method", ""))
    return "", ""


def _plan(folder: Path) -> dict[str, Any]:
    try:
        plan = json.loads((folder / "grid.json").read_text())
    except (OSError, ValueError):
        return {}
    cells = plan.get("cells") if isinstance(plan, dict) else None
    whole = isinstance(cells, list) and all(isinstance(cell, dict) for cell in cells)
    return plan if whole else {}


def _part(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = config.get(key)
    return part if isinstance(part, Mapping) else {}


def _name(part: object) -> str:
    """Return the class or the name that a config gives, without its package."""
    path = part.get("class_path") if isinstance(part, Mapping) else part
    text = str(path or "unknown")
    return text if "/" in text else text.rpartition(".")[2]


def _data(config: Mapping[str, Any]) -> str:
    data = _part(config, "data")
    name = _name(data)
    root = _part(data, "init_args").get("root")
    return f"{name} {Path(str(root)).name}" if name == "ImageFolder" and root else name


def _changed(folder: RunFolder) -> float:
    times = []
    for path in (folder.config, folder.metrics, folder.handoff, *folder.path.glob("*/last.ckpt")):
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)


def _ended_in_error(log: Path) -> bool:
    """Return whether the last words of a run that a grid had started are an error's."""
    try:
        with log.open("rb") as file:
            file.seek(max(log.stat().st_size - TAIL, 0))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return False
    lines = [line for line in lines if line.strip()]
    if lines and lines[-1].startswith("vpns: error:"):
        return True
    # below a traceback Python writes the error from the first column on, as the last thing of all
    begun = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent call")]
    said = [line for line in lines[begun[-1] + 1 :] if not line[0].isspace()] if begun else []
    return 0 < len(said) <= ERROR_LINES


def matching(what: str, wanted: Sequence[str], values: Iterable[str]) -> set[str]:
    """Return the values that names stand for; names may hold jokers, in small letters or large.

    Args:
        what: What the names are of, such as "method".
        wanted: The names.
        values: What there is; the empty one has no name.

    Raises:
        UserError: A name stands for nothing.
    """
    known = sorted({*values} - {""})
    found: set[str] = set()
    for text in wanted:
        meant = {value for value in known if fnmatchcase(value.lower(), text.lower())}
        if not meant:
            raise UserError(
                f"no run has {what} {text!r}{nearest(text, known)}; there are: "
                f"{', '.join(known) or 'none'}"
            )
        found |= meant
    return found
