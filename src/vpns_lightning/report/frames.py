"""Results and masks as pandas data frames, for notebooks."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpns_lightning.base.errors import UserError
from vpns_lightning.report.runs import UNKNOWN, read_results, rows
from vpns_lightning.runs.folder import RunFolder
from vpns_lightning.runs.mask_files import read_masks

if TYPE_CHECKING:
    import pandas as pd


def results(folders: str | Path | Sequence[str | Path] = "runs") -> "pd.DataFrame":
    """Return one row for each finished run below some folders, nothing aggregated.

    Columns are those of a report's ``runs.csv``; accuracies and sparsity are fractions, and what a
    result does not say is missing. Files that cannot be read are named in a warning.

    Args:
        folders: A folder that holds run folders, or several.

    Raises:
        UserError: pandas is not installed, a folder does not exist, or there is no result.
    """
    pandas = _pandas()
    several = [folders] if isinstance(folders, str | Path) else folders
    runs, broken = read_results([Path(folder).expanduser() for folder in several])
    for one in broken:
        warnings.warn(f"left out: {one.path} {one.reason}", stacklevel=2)
    known = [{k: None if v in ("", UNKNOWN) else v for k, v in row.items()} for row in rows(runs)]
    frame: pd.DataFrame = pandas.DataFrame(known)
    return frame


def masks(run: str | Path) -> "pd.DataFrame":
    """Return one row for each layer of a run: its mask, and how many weights it keeps.

    Args:
        run: The run folder, or its ``masks.safetensors``.

    Returns:
        Indexed by layer name: ``shape`` of the weight, ``weights``, ``kept``, ``sparsity`` (the
        fraction removed), and ``mask``, a bool array of that shape, True where a weight is kept.

    Raises:
        UserError: pandas is not installed, or there are no masks.
    """
    pandas = _pandas()
    path = Path(run).expanduser()
    stored = read_masks(RunFolder(path).masks if path.is_dir() else path)
    layers = [
        {
            "layer": name,
            "shape": mask.shape,
            "weights": mask.size,
            "kept": int(mask.sum()),
            "sparsity": 1 - mask.mean(),
            "mask": mask,
        }
        for name, mask in stored.items()
    ]
    frame: pd.DataFrame = pandas.DataFrame(layers).set_index("layer")
    return frame


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise UserError(
            "results as data frames need pandas: pip install 'vpns-lightning[notebook]'"
        ) from None
    return pandas
