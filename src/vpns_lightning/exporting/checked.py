"""Export: the sparse network in a file that needs no vpns_lightning, checked before it appears."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor

from vpns_lightning._version import __version__
from vpns_lightning.base.errors import UserError
from vpns_lightning.base.files import whole_file
from vpns_lightning.exporting.formats import BACKBONE_ONLY, FORMATS, Writer, writer_of
from vpns_lightning.network import ExpansivePrompt, PromptedClassifier
from vpns_lightning.network.accounting import network_report
from vpns_lightning.sparsity import (
    get_masks,
    masked_layers,
    unbake,
    unmask_layers,
)

BATCHES = (1, 2, 5)
TOLERANCE = 1e-4  # of the largest logit
_NOT_WRITTEN = "nothing was written: try another format and please report it with the config"


def export(
    network: PromptedClassifier,
    path: str | Path,
    *,
    input_size: int | None = None,
    compact: bool = False,
    opset: int | None = None,
) -> Path:
    """Write a finished network as ``.safetensors``, ``.pt2`` or ``.onnx``; return its path.

    ``.safetensors`` is the backbone alone under torchvision's keys, zeros in place and the head in
    target order: ``resnet18(num_classes=C).load_state_dict(load_file(path))`` (for googlenet and
    inception_v3 with ``aux_logits=False``). Its prompt, if any, lies in ``masks.safetensors``.
    ``.pt2`` (``torch.export``) and ``.onnx`` hold the whole graph from images (N, 3, i, i) in
    [0, 1] to logits (N, C), prompt, normalisation and mapping included, for any N. Mean, standard
    deviation, sparsity and more are in the metadata.

    Of a network whose channels were cut, ``.safetensors`` holds the smaller tensors, which take the
    place of torchvision's.

    What is read back must answer as the masked network does, or no file appears. Zeros are stored
    like any weight: the file is neither smaller nor faster than a dense one, unless ``compact``
    leaves them out; ``docs/formats.md`` shows how each format is read.

    Args:
        network: A network without scores, its label mapping fitted; left as it is.
        path: The file to write or replace.
        input_size: Side i of the images, px. Where None: an ExpansivePrompt's ``image_size``, any
            other prompt's ``canvas_size``; without a prompt what the backbone is built for, or 224.
        compact: Store the weights kept and a bit for every place; ``.safetensors`` only.
        opset: Version of ONNX's operators, where a runtime asks for one; ``.onnx`` only.

    Raises:
        UserError: The suffix is unknown, a package is missing, the network is not finished or
            cannot be traced, or images of ``input_size`` do not fit it.
        RuntimeError: The file would answer otherwise than the network.
    """
    path = Path(path)
    write = writer_of(path, compact=compact, opset=opset)
    _check_finished(network)
    size = _input_size_of(network, input_size)
    with torch.no_grad(), whole_file(path) as temporary:
        _write_checked(network, write, size, temporary)
    return path


def _write_checked(network: PromptedClassifier, write: Writer, size: int, file: Path) -> None:
    """Write ``file`` from a copy of the network and compare what it reads back; size in px."""
    frozen = deepcopy(network).cpu().float().eval().requires_grad_(False)
    unbake(frozen.backbone)
    images = torch.rand(max(BATCHES), 3, size, size, generator=torch.Generator().manual_seed(0))
    with _refusing(f"images of {size} px cannot be shown to {frozen.backbone_name}"):
        expected = {n: frozen(images[:n]) for n in BATCHES}
    if write in BACKBONE_ONLY:
        frozen.slice_head()
    masks, facts = get_masks(frozen.backbone), _facts(frozen, size)
    # torch.export would warn of channels-last weights, and safetensors refuse them
    unmask_layers(frozen.backbone).to(memory_format=torch.contiguous_format)
    frozen.channels_last = False
    with _refusing(f"{frozen.backbone_name} cannot be exported in this format"):
        exported = write(frozen, images[:2], facts, file)
        answers = {n: exported.answer(images[:n]) for n in BATCHES}
    _check_answers(expected, answers)
    _check_zeros(masks, exported.tensors)


def _check_finished(network: PromptedClassifier) -> None:
    scored = [name for name, layer in masked_layers(network.backbone) if layer.scores is not None]
    if scored:
        raise UserError(
            f"layer {scored[0]!r} still learns its mask (it has scores): finish the run first, "
            "and export the network it hands back"
        )
    if not bool(network.mapping.fitted):
        raise UserError(
            "the label mapping is not fitted: finish the run, or call "
            "network.fit_mapping(network.count_predictions(batches)) first"
        )


def _input_size_of(network: PromptedClassifier, input_size: int | None) -> int:
    prompt = network.prompt
    if input_size is None:
        return prompt.image_size if isinstance(prompt, ExpansivePrompt) else network.input_side()
    if input_size < 1:
        raise UserError(f"input_size must be at least 1 px, got {input_size}")
    if prompt is not None:
        prompt.check_input_size(input_size)
    return input_size


def _facts(network: PromptedClassifier, input_size: int) -> dict[str, str]:
    return {
        "backbone": network.backbone_name,
        "classes": str(network.num_classes),
        "input_size": str(input_size),
        "prompt": type(network.prompt).__name__ if network.has_prompt else "none",
        "sparsity": f"{network_report(network).sparsity:.8f}",
        "structured": str(bool(network.cuts.groups())).lower(),
        "mean": json.dumps([round(value, 6) for value in network.mean.flatten().tolist()]),
        "std": json.dumps([round(value, 6) for value in network.std.flatten().tolist()]),
        "vpns_lightning": __version__,
    }


@contextmanager
def _refusing(problem: str) -> Iterator[None]:
    """Turn what networks, torch's exporters and onnxruntime raise into one line."""
    try:
        yield
    except OSError:
        raise  # the disk's, which whole_file reports
    except Exception as error:  # their classes are many and mostly private
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{problem} ({reason}): pass data.input_size as input_size, or choose another of "
            f"{', '.join(FORMATS)}"
        ) from error


def _check_answers(expected: Mapping[int, Tensor], answers: Mapping[int, Tensor]) -> None:
    for count, logits in expected.items():
        difference = float((answers[count] - logits).abs().max())
        allowed = TOLERANCE * float(logits.abs().max())
        same = torch.equal(answers[count].argmax(1), logits.argmax(1))
        if not (same and difference <= allowed):  # so written, NaN is refused
            raise RuntimeError(
                f"logits of {count} random images differ from the network's by {difference:.2g}, "
                f"allowed are {allowed:.2g} and equal classes; {_NOT_WRITTEN}"
            )


def _check_zeros(masks: Mapping[str, Tensor], stored: Iterable[Tensor]) -> None:
    """Compare zeros per tensor size, because a graph may rename and transpose weights."""
    zeros = _zeros_by_size(stored)
    # ONNX stores small tensors that are equal only once, as those of layers with nothing kept are
    pruned = _zeros_by_size(mask for mask in masks.values() if bool(mask.any()))
    for size, count in pruned.items():
        if zeros[size] < count:
            raise RuntimeError(
                f"of {count} pruned weights in layers of {size} weights, {zeros[size]} are zero "
                f"in the exported file; {_NOT_WRITTEN}"
            )


def _zeros_by_size(tensors: Iterable[Tensor]) -> Counter[int]:
    zeros: Counter[int] = Counter()
    for tensor in tensors:
        zeros[tensor.numel()] += tensor.numel() - int(tensor.count_nonzero())
    return zeros
