"""``metrics.csv``: one line a metric, whole lines only."""

import csv
from pathlib import Path
from typing import Any

from vpns_lightning.base.renamed import present_stage

COLUMNS = ("stage", "epoch", "step", "metric", "value")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a ``metrics.csv``, a line cut off by a kill left out."""
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            try:
                numbers = {"epoch": int(row["epoch"]), "step": int(row["step"])}
                stage = present_stage(row["stage"])
                rows.append({**row, **numbers, "stage": stage, "value": float(row["value"])})
            except (TypeError, ValueError):
                continue
    return rows
