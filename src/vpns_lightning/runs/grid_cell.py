"""What a grid tells the runs that it starts, and the dense warm-up that they share."""

import os
import shutil
from pathlib import Path

import msgspec
from msgspec import UNSET

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.files import whole_file
from vpns_lightning.runs.folder import RunFolder
from vpns_lightning.runs.handoff import copy_network, read_about
from vpns_lightning.runs.record import GridRecord, decode, encode

VARIABLE = "VPNS_GRID"


class _Told(GridRecord, frozen=True, kw_only=True):
    """What the variable holds: where the run stands, and where its warm-up may be shared."""

    warmup: str | None = None


def environment(cell: GridRecord, warmup: Path | None) -> dict[str, str]:
    """Return the variable that makes a run a cell: not a config key, since no number depends on it.

    Args:
        cell: The grid, the cell, its method and its axes.
        warmup: Folder of the warm-up that cells with an equal one share, or None.
    """
    shared = None if warmup is None else str(warmup.absolute())
    return {VARIABLE: encode(_Told(**msgspec.structs.asdict(cell), warmup=shared))}


def grid_record() -> GridRecord | None:
    """Return where this process stands in a grid, None where it is no cell of one."""
    told = _told()
    if told is None or not told.name:
        return None
    return GridRecord(name=told.name, cell=told.cell, method=told.method, axes=told.axes)


def take_warmup(run: RunFolder) -> str | None:
    """Copy the shared warm-up into a run folder that has not finished a stage, if there is one.

    Returns:
        The cell that computed it; None where the run has to compute its own.
    """
    folder = _shared()
    if folder is None or run.handoff.exists() or not (folder / run.handoff.name).is_file():
        return None
    shared = folder / run.handoff.name
    try:
        about = read_about(shared)
        if about.stage != "warmup":
            raise UserError(f"{shared} is of stage {about.stage!r}, not of a warm-up")
        source = about.shared_by or "another cell"
        reused = msgspec.structs.replace(about.stages["warmup"], reused_from=source)
        for file in (run.metrics, run.prompts):
            _copy(folder / file.name, file)
        copy_network(
            shared,
            run.handoff,
            stages={**about.stages, "warmup": reused},
            shared_by=UNSET,
        )
    except (UserError, KeyError) as error:
        print(f"the shared warm-up is not used, this run makes its own: {error}", flush=True)
        return None
    return source


def share_warmup(run: RunFolder) -> None:
    """Leave the warm-up that this run has just finished for the other cells."""
    folder, told = _shared(), _told()
    if folder is None or told is None or (folder / run.handoff.name).is_file():
        return
    for file in (run.metrics, run.prompts):
        _copy(file, folder / file.name)
    # last: it is what the other cells look for
    copy_network(run.handoff, folder / run.handoff.name, shared_by=told.cell)


def _copy(source: Path, target: Path) -> None:
    """Copy a file, if there is one."""
    if source.is_file():
        with whole_file(target) as temporary:
            shutil.copyfile(source, temporary)


def _shared() -> Path | None:
    told = _told()
    return Path(told.warmup) if told is not None and told.warmup else None


def _told() -> _Told | None:
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    try:
        return decode(text, _Told)
    except ValueError as error:
        raise UserError(
            f"the variable {VARIABLE} is set by vpns grid, and {error}: unset it"
        ) from None
