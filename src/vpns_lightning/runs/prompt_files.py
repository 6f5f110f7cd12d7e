"""``prompts.safetensors``: what a prompt looked like after some epochs, read without torch."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.files import whole_file
from vpns_lightning.runs.mask_files import arrays_hash

# half precision: a picture needs no more, and the hand-off has the last prompt as it was trained
Picture = NDArray[np.float16]
HASH = "tensors_sha256"


class Moment(NamedTuple):
    """When a prompt looked so.

    Attributes:
        stage: Name of the stage.
        epochs: Of that stage that were done.
    """

    stage: str
    epochs: int


def read_prompts(path: Path) -> dict[Moment, Picture]:
    """Return what was added to images at several moments, (3, S, S); empty without the file.

    Args:
        path: The file.

    Raises:
        UserError: It is damaged, or holds something else.
    """
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
            stored = file.metadata() or {}
        if stored.get(HASH) != arrays_hash(tensors):
            raise ValueError("its tensors have another hash than when they were written")
        return {_moment(name): picture for name, picture in tensors.items()}
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise UserError(
            f"cannot read prompts from {str(path)!r} ({' '.join(str(error).split())}): delete it; "
            "only pictures of the prompt while it was learned are lost"
        ) from None


def write_prompts(path: Path, prompts: dict[Moment, Picture]) -> None:
    """Write what :func:`read_prompts` returns; the file is never seen half-written."""
    tensors = {f"{stage}.{epochs}": picture for (stage, epochs), picture in prompts.items()}
    needed = sum(picture.nbytes for picture in tensors.values())
    with whole_file(path, needed=needed, faults=(SafetensorError,)) as temporary:
        save_file(tensors, temporary, metadata={HASH: arrays_hash(tensors)})


def _moment(name: str) -> Moment:
    stage, _, epochs = name.rpartition(".")
    return Moment(stage, int(epochs))
