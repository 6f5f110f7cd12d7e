"""Checkpoints of the authors' released code, read as tensors and plain values only.

Such a file is a pickled dictionary. ``state_dict`` has ``weight`` and ``popup_scores`` of every
convolution and linear layer, ``visual_prompt`` has ``program`` and ``mask``, and
``mapping_sequence`` names the source class of each target class. The mask of the weights is not
stored: what is strictly above the k-th smallest absolute score of all layers together is kept.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from vpns_lightning.base.errors import UserError

SCORES = ".popup_scores"
PARALLEL = "module."  # what DataParallel puts before every name


class Released(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        path: The file.
        weights: State dict of the backbone.
        scores: Layer name to score, of the weight's shape.
        program: Values of the prompt, (3, S, S), or None without a prompt.
        region: Where the prompt acts, bool (S, S), or None without a prompt.
        sequence: int64 (C,), source class of each target class.
        epoch: Number of the last epoch, where it is stored.
    """

    path: Path
    weights: dict[str, Tensor]
    scores: dict[str, Tensor]
    program: Tensor | None
    region: Tensor | None
    sequence: Tensor
    epoch: int | None


def read_released(path: str | Path) -> Released:
    """Read a checkpoint; nothing in it is executed.

    Raises:
        UserError: The file is missing, damaged, or no such checkpoint; the first key that is
            missing or wrong is named.
    """
    path = Path(path).expanduser()
    content = _content(path)
    for key in ("state_dict", "visual_prompt", "mapping_sequence"):
        if key not in content:
            refuse(path, f"key {key!r} is missing")
    state = content["state_dict"]
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        refuse(path, "'state_dict' does not map names to tensors")
    state = {name.removeprefix(PARALLEL): value for name, value in state.items()}
    scores = {n.removesuffix(SCORES): v for n, v in state.items() if n.endswith(SCORES)}
    weights = {n: v for n, v in state.items() if not n.endswith(SCORES)}
    if not scores:
        refuse(path, "no layer has 'popup_scores', so nothing says which weights are kept")
    for name, score in scores.items():
        weight = weights.get(f"{name}.weight")
        if weight is None or weight.shape != score.shape:
            refuse(path, f"{name + SCORES!r} has no weight of its shape {tuple(score.shape)}")
    program, region = _prompt_in(path, content["visual_prompt"])
    epoch = content.get("epoch")
    return Released(
        path=path,
        weights=weights,
        scores=scores,
        program=program,
        region=region,
        sequence=_sequence_in(path, content["mapping_sequence"]),
        epoch=epoch if isinstance(epoch, int) else None,
    )


def refuse(path: Path, reason: str) -> NoReturn:
    """Say why a file is no such checkpoint.

    Raises:
        UserError: Always.
    """
    raise UserError(
        f"{path} is no checkpoint of the authors' released code: {reason}; give the best.pth that "
        "it writes"
    )


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError) as error:
        raise UserError(f"checkpoint {path} is damaged or cut off: {_first_line(error)}") from None
    except Exception:  # torch raises pickle.UnpicklingError and kin for foreign content
        # its own words are left out: they offer to open the file without protection
        raise UserError(
            f"checkpoint {path} holds more than tensors and plain values, and was not opened "
            "further: give the best.pth as the released code writes it"
        ) from None
    if not isinstance(content, dict):
        refuse(path, f"it holds a {type(content).__name__}, not a dictionary")
    return dict(content)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _prompt_in(path: Path, prompt: Any) -> tuple[Tensor | None, Tensor | None]:
    """Return the prompt's values, (3, S, S), and its region, bool (S, S)."""
    if prompt is None:
        return None, None
    for key in ("program", "mask"):
        if not isinstance(prompt, Mapping) or not isinstance(prompt.get(key), Tensor):
            refuse(path, f"'visual_prompt' lacks the tensor {key!r} (a random prompt has no mask)")
    program, mask = prompt["program"].detach(), prompt["mask"]
    side = program.shape[-1] if program.ndim else 0
    if not side or program.shape != (3, side, side) or mask.shape != program.shape:
        refuse(
            path,
            f"'program' and 'mask' must be (3, S, S), got {tuple(program.shape)} and "
            f"{tuple(mask.shape)}",
        )
    region = mask[0] != 0
    if not torch.equal(mask != 0, region.expand_as(mask)) or bool(
        ((mask != 0) & (mask != 1)).any()
    ):
        refuse(path, "the prompt's 'mask' is not of zeros and ones, equal in all channels")
    return program.float(), region


def _sequence_in(path: Path, stored: Any) -> Tensor:
    try:
        sequence = torch.as_tensor(stored)
        whole = sequence.ndim == 1 and torch.equal(sequence, sequence.long())
    except (TypeError, ValueError, RuntimeError):
        whole = False
    if not whole or not len(sequence):
        refuse(path, "'mapping_sequence' is no list of source classes")
    return sequence.long()
