"""``metrics.csv``: one line a metric, whole lines only."""

import csv
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.renamed import present_stage

COLUMNS = ("stage", "epoch", "step", "metric", "value")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a ``metrics.csv``, a line cut off by a kill left out.

    Raises:
        UserError: The file cannot be read, or something else has written into it.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(_whole_rows(csv.DictReader(file)))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path} holds what no run wrote ({error}): delete it or move it away, and the same "
            "command goes on; only curves of what was done so far are lost"
        ) from None


def _whole_rows(lines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for line in lines:
        with suppress(KeyError, TypeError, ValueError):
            numbers = {"epoch": int(line["epoch"]), "step": int(line["step"])}
            stage = present_stage(line["stage"])
            yield {**line, **numbers, "stage": stage, "value": float(line["value"])}
