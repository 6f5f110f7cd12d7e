"""Grid files and cells for tests, without parsing a config."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from vpns_lightning.grid.cells import Cell, expand
from vpns_lightning.grid.file import read_grid

GRID: dict[str, Any] = {
    "name": "fig0",
    "about": "a test",
    "base": "base.yaml",
    "methods": {"A": [], "B w. C": ["b.yaml", {"find.epochs": 2}]},
    "sparsities": [0.5, 0.9],
    "seeds": [7, 9],
}


def write_grid(folder: Path, **changes: Any) -> Path:
    """Write a grid file; a key whose change is None is left out."""
    content = {key: value for key, value in {**GRID, **changes}.items() if value is not None}
    content.setdefault("runs", str(folder / "runs"))
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def resolve(options: Sequence[str]) -> dict[str, Any]:
    """Return a config as the parser would, with the options kept in it."""
    given = dict(option.removeprefix("--").split("=", 1) for option in options)
    return {
        "seed_everything": 0,
        "data": {"class_path": "vpns_lightning.Digits", "init_args": {"root": "data"}},
        "network": {"weights": given.get("network.weights")},
        "warmup": {"epochs": int(given.get("warmup.epochs", 0))},
        "find": {
            "sparsity": 0.0,
            "epochs": int(given.get("find.epochs", 1)),
            "pruner": {"class_path": "vpns_lightning.Hydra", "init_args": {}},
        },
        "tune": {"epochs": 1},
        "prompt_tuning": {"epochs": 0},
        "trainer": {
            "limit_train_batches": given.get("trainer.limit_train_batches"),
            "devices": given.get("trainer.devices"),
        },
    }


def cells_of(folder: Path, **changes: Any) -> list[Cell]:
    """Return the cells of a small grid."""
    return expand(read_grid(write_grid(folder, **changes)), resolve)
