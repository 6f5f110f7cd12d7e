"""``metrics.csv``: one line a metric, whole lines only."""

import csv
from pathlib import Path
from typing import Any

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
                rows.append({**row, **numbers, "value": float(row["value"])})
            except (TypeError, ValueError):
                continue
    return rows
