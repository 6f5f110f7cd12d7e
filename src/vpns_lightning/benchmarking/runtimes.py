"""What runs a network: eager torch, compiled torch, ONNX Runtime, and 2:4 sparse kernels."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn

from vpns_lightning.base.errors import UserError, nearest
from vpns_lightning.exporting import export
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.sparsity import unbake, unmask_layers

Answer: TypeAlias = Callable[[Tensor], object]
Precision: TypeAlias = Literal["32-true", "bf16-mixed"]
GROUP = 4  # of so many neighbours, 2:4 kernels skip two
DEFAULT = ("eager", "compiled", "onnxruntime")


class Missing(Exception):
    """A runtime cannot run this network here; the text says why."""


class Runtime(NamedTuple):
    """One way to run a network.

    Attributes:
        prepare: Takes a folded network, its device, its image side in px, a folder for files and
            whether it is the pruned one; returns what answers a batch. Raises Missing.
        dtype: Of the images.
        skips: Whether it can leave out weights that are zero.
        autocasts: Whether it follows the precision that is asked for.
    """

    prepare: Callable[[PromptedClassifier, torch.device, int, Path, bool], Answer]
    dtype: torch.dtype = torch.float32
    skips: bool = False
    autocasts: bool = False


def fold(network: PromptedClassifier) -> PromptedClassifier:
    """Return a copy for inference: masks multiplied into the weights, ordinary layers."""
    copy = deepcopy(network).cpu().float().eval().requires_grad_(False)
    unbake(copy.backbone)
    unmask_layers(copy.backbone)
    return copy


def _eager(
    network: PromptedClassifier, device: torch.device, size: int, folder: Path, pruned: bool
) -> Answer:
    return network.to(device)


def _compiled(
    network: PromptedClassifier, device: torch.device, size: int, folder: Path, pruned: bool
) -> Answer:
    compiled = torch.compile(network.to(device), dynamic=False)

    def answer(images: Tensor) -> object:
        try:
            return compiled(images)
        except Exception as error:  # the compiler's classes are many, and a compiler may be absent
            raise Missing(f"torch.compile failed: {first_line(error)}") from error

    return answer


def _onnxruntime(
    network: PromptedClassifier, device: torch.device, size: int, folder: Path, pruned: bool
) -> Answer:
    absent = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if absent:
        raise Missing(f'{", ".join(absent)} not installed: pip install "vpns-lightning[export]"')
    if device.type != "cpu":
        raise Missing("ONNX Runtime is measured on the CPU only")
    import onnxruntime

    path = export(network, folder / f"{'pruned' if pruned else 'dense'}.onnx", input_size=size)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # threads of one session that spin after its answer would slow the other one
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"images": images.numpy()})


def _semi_structured(
    network: PromptedClassifier, device: torch.device, size: int, folder: Path, pruned: bool
) -> Answer:
    if device.type != "cuda":
        raise Missing("2:4 kernels exist for CUDA devices only")
    if torch.cuda.get_device_capability(device) < (8, 0):
        raise Missing("2:4 kernels need compute capability 8.0 (Ampere) or newer")
    halved = network.to(device).half()
    if pruned and not _use_two_of_four(halved):
        raise Missing(
            "2:4 kernels exist for linear layers only, and the sides of none here fit them"
        )
    try:
        with torch.inference_mode():
            halved(torch.rand(1, 3, size, size).to(device, torch.float16))
    # kernels are tried: which versions of which library take which card is nowhere said
    except Exception as error:
        raise Missing(f"2:4 kernels fail here: {first_line(error)}") from error
    return halved


def _use_two_of_four(network: nn.Module) -> list[str]:
    """Put 2:4 weights into all linear layers whose shape the kernels take; return their names."""
    changed = []
    for name, layer in network.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        try:
            sparse = torch.sparse.to_sparse_semi_structured(two_of_four(layer.weight.data))
        except RuntimeError:  # a shape the kernels do not take
            continue
        layer.weight = nn.Parameter(sparse, requires_grad=False)
        changed.append(name)
    return changed


def two_of_four(weight: Tensor) -> Tensor:
    """Return a weight (rows, columns) whose two smallest of every four neighbours are zero.

    A weight with two zeros in every four is returned as it is. Columns are a multiple of four.
    """
    groups = weight.reshape(-1, GROUP)
    largest = groups.abs().topk(GROUP // 2, dim=1).indices
    kept = torch.zeros_like(groups).scatter_(1, largest, groups.gather(1, largest))
    return kept.view_as(weight)


RUNTIMES = {
    "eager": Runtime(_eager, autocasts=True),
    "compiled": Runtime(_compiled, autocasts=True),
    "onnxruntime": Runtime(_onnxruntime),
    "2:4": Runtime(_semi_structured, torch.float16, skips=True),
}


def runs_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which networks answer and train in a precision."""
    return nullcontext() if precision == "32-true" else torch.autocast(device.type, torch.bfloat16)


def chosen_precision(name: str) -> Precision:
    """Return a precision by its name.

    Raises:
        UserError: It is unknown.
    """
    for allowed in get_args(Precision):
        if name == allowed:
            return allowed  # type: ignore[no-any-return]  # one of them
    raise UserError(
        f"precision {name!r} is unknown{nearest(name, get_args(Precision))}; allowed: "
        f"{', '.join(get_args(Precision))}"
    )


def chosen_runtimes(names: str) -> list[str]:
    """Return the runtimes that a comma-separated list names, each once.

    Raises:
        UserError: One of them is unknown, or there is none.
    """
    wanted = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in wanted or [""]:
        if name not in RUNTIMES:
            raise UserError(
                f"runtime {name!r} is unknown{nearest(name, RUNTIMES)}; allowed: "
                f"{', '.join(RUNTIMES)}, several with commas between them"
            )
    return wanted


def machine_name(device: torch.device) -> str:
    """Return the model name of the processor or graphics card."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else "CPU"
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def first_line(error: Exception) -> str:
    """Return what an error says, without the rest."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
