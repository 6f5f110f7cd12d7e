"""What a grid tells the runs that it starts, and the dense warm-up that they share."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.files import whole_file
from vpns_lightning.runs.folder import RunFolder
from vpns_lightning.runs.handoff import copy_network, read_about

VARIABLE = "VPNS_GRID"
FACTS = ("name", "cell", "method", "axes")


def environment(facts: Mapping[str, Any], warmup: Path | None) -> dict[str, str]:
    """Return the variable that makes a run a cell: not a config key, since no number depends on it.

    Args:
        facts: The grid's ``name``, the ``cell``, its ``method`` and its ``axes``.
        warmup: Folder of the warm-up that cells with an equal one share, or None.
    """
    shared = None if warmup is None else str(warmup.absolute())
    return {VARIABLE: json.dumps({**facts, "warmup": shared})}


def grid_facts() -> dict[str, Any] | None:
    """Return name, cell, method and axes where this process is a cell of a grid, else None."""
    about = _about()
    return {key: about[key] for key in FACTS if key in about} or None


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
        source: str = about["shared_by"]
        if about["stage"] != "warmup":
            raise UserError(f"{shared} is of stage {about['stage']!r}, not of a warm-up")
        warmup = {**about["stages"]["warmup"], "reused_from": source}
        changes = {"stages": {**about["stages"], "warmup": warmup}}
        if (folder / run.metrics.name).is_file():
            with whole_file(run.metrics) as temporary:
                shutil.copyfile(folder / run.metrics.name, temporary)
        copy_network(shared, run.handoff, changes, drop=("shared_by", "tensors_sha256"))
    except (UserError, KeyError) as error:
        print(f"the shared warm-up is not used, this run makes its own: {error}", flush=True)
        return None
    return source


def share_warmup(run: RunFolder) -> None:
    """Leave the warm-up that this run has just finished for the other cells."""
    folder, about = _shared(), _about()
    if folder is None or (folder / run.handoff.name).is_file():
        return
    if run.metrics.is_file():
        with whole_file(folder / run.metrics.name) as temporary:
            shutil.copyfile(run.metrics, temporary)
    # last: it is what the other cells look for
    copy_network(run.handoff, folder / run.handoff.name, {"shared_by": about.get("cell", "")})


def _shared() -> Path | None:
    folder = _about().get("warmup")
    return Path(folder) if folder else None


def _about() -> dict[str, Any]:
    text = os.environ.get(VARIABLE)
    if not text:
        return {}
    try:
        about = json.loads(text)
    except json.JSONDecodeError:
        about = None
    if not isinstance(about, dict):
        raise UserError(f"the variable {VARIABLE} is set by vpns grid and is no JSON: unset it")
    return about
