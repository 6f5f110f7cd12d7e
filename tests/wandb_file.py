"""What a W&B run has written to its ``.wandb`` file.

W&B has no public reader of these files any more; ``wandb sync`` alone reads them, in Go. The format
is LevelDB's log: after a header of 7 bytes blocks of 32 KiB, in each of them pieces of records with
checksum (4 bytes), length (2) and kind (1: whole, first, middle, last), and every record a protocol
buffer whose class W&B ships.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

HEADER, PIECE, BLOCK = 7, 7, 1 << 15
WHOLE, LAST = 1, 4


def records(path: Path) -> Iterator[Any]:
    """Yield the records of a file, those that a kill cut off left out."""
    content, place, parts = path.read_bytes(), HEADER, b""
    assert content[:4] == b":W&B"
    while place + PIECE <= len(content):
        if BLOCK - place % BLOCK < PIECE:
            place += BLOCK - place % BLOCK
            continue
        length = int.from_bytes(content[place + 4 : place + 6], "little")
        kind = content[place + 6]
        parts += content[place + PIECE : place + PIECE + length]
        place += PIECE + length
        if kind in (WHOLE, LAST):
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def _value(item: Any) -> Any:
    return json.loads(item.value_json)


def _key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


@dataclass
class Written:
    """One run as its file tells it.

    Attributes:
        run: Project, group, job type, tags and name.
        config: Key to value.
        summary: The last value of each key.
        history: Rows in order.
        files: Files that were stored beside it.
        artifacts: Name to kind of what was logged as an artifact.
        kinds: How many records there are of each kind.
    """

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    artifacts: dict[str, Any] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)


def written(path: Path) -> Written:
    """Return what a ``.wandb`` file holds."""
    found = Written()
    for record in records(path):
        kind = record.WhichOneof("record_type")
        found.kinds[kind] = found.kinds.get(kind, 0) + 1
        if kind == "run":
            found.run = record.run
            found.config |= {_key(i): _value(i) for i in record.run.config.update}
            found.summary |= {_key(i): _value(i) for i in record.run.summary.update}
        elif kind == "config":
            found.config |= {_key(i): _value(i) for i in record.config.update}
        elif kind == "summary":
            found.summary |= {_key(i): _value(i) for i in record.summary.update}
        elif kind == "history":
            found.history.append({_key(i): _value(i) for i in record.history.item})
        elif kind == "files":
            found.files += [file.path for file in record.files.files]
        elif kind == "request" and record.request.HasField("log_artifact"):
            artifact = record.request.log_artifact.artifact
            found.artifacts[artifact.name] = artifact
        elif kind == "artifact":
            found.artifacts[record.artifact.name] = record.artifact
    return found


def ended(path: Path, seconds: float = 60) -> Written:
    """Return what a file holds once its run has ended: W&B's process writes on for a while."""
    until = time.monotonic() + seconds
    while "exit" not in (found := written(path)).kinds and time.monotonic() < until:
        time.sleep(0.05)
    return found


def runs_below(folder: Path) -> dict[str, Written]:
    """Return the runs below a folder by their ids; of a resumed run, all that its files hold."""
    found: dict[str, Written] = {}
    for path in sorted(folder.rglob("*.wandb"), key=lambda path: path.stat().st_mtime):
        new = ended(path)
        old = found.get(path.stem.removeprefix("run-"))
        if old is not None:
            new.summary = old.summary | new.summary
            new.history = old.history + new.history
        found[path.stem.removeprefix("run-")] = new
    return found
