"""The formats of exports: how each is written, and what it reads back."""

import json
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.export import Dim, ExportedProgram

from vpns_lightning.base.errors import UserError, nearest
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.network.backbones import build_backbone
from vpns_lightning.network.cuts import slice_layer
from vpns_lightning.sparsity import pack, unpack


class Exported(NamedTuple):
    """What was read back: images (N, 3, i, i) to logits (N, C), and all tensors of the file."""

    answer: Callable[[Tensor], Tensor]
    tensors: list[Tensor]


# of a network without masks: images (2, 3, i, i), what is known of it, and where to write
Writer = Callable[[PromptedClassifier, Tensor, dict[str, str], Path], Exported]


def writer_of(path: Path, *, compact: bool, opset: int | None = None) -> Writer:
    """Return what writes the format that a file's suffix names.

    Args:
        path: The file.
        compact: Leave zeros out; ``.safetensors`` only.
        opset: Version of ONNX's operators; ``.onnx`` only.

    Raises:
        UserError: The suffix is unknown, the format cannot be compact, or a package is missing.
    """
    if path.suffix not in FORMATS:
        raise UserError(
            f"a network is exported as one of {', '.join(FORMATS)}, got {path.name!r}"
            f"{nearest(path.suffix, FORMATS)}: end the file name in one of these"
        )
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if path.suffix == ".onnx" and missing:
        raise UserError(
            f"{path.suffix} needs {', '.join(missing)} to be written and checked: "
            'pip install "vpns-lightning[export]", or export as .pt2'
        )
    if compact and path.suffix != ".safetensors":
        raise UserError(f"only a .safetensors file can be compact, got {path.name!r}")
    if opset is not None:
        if path.suffix != ".onnx":
            raise UserError(f"only an .onnx file has an opset, got {path.name!r}")
        return partial(write_onnx, opset=opset)
    return write_compact if compact else FORMATS[path.suffix]


def write_safetensors(
    network: PromptedClassifier,
    images: Tensor,
    facts: dict[str, str],
    file: Path,
    *,
    compact: bool = False,
) -> Exported:
    """Write the backbone alone under torchvision's keys, every bias there; read it back.

    Args:
        network: A network without masks; its backbone becomes the one that was read back.
        images: Not looked at.
        facts: What is known of the network.
        file: The file.
        compact: Leave zeros out.
    """
    state = {k: v.clone() for k, v in network.backbone.state_dict().items()}  # some may be shared
    plain = deepcopy(network.backbone)
    spec = network.specification
    # a plug-in may take no number of classes, and its head may be sliced
    if spec is not None and spec.of_library:
        with torch.random.fork_rng(devices=[]):
            plain = build_backbone(spec, None, network.num_classes)
        for name, cut in network.cuts.layers().items():
            slice_layer(plain, name, cut)
    for name, value in plain.state_dict().items():
        if name not in state and name.endswith(".bias"):  # by drop_conv_bias; loading is strict
            state[name] = torch.zeros_like(value)
    layout = {"format": "pt", "layout": "compact" if compact else "plain"}
    # by way of memory: safetensors and torch do not say that a disk is full, and torch ends the
    # process
    file.write_bytes(save(pack(state) if compact else state, metadata=layout | facts))
    stored = unpack(load_file(file))
    plain.load_state_dict(stored)
    network.backbone = plain.eval()
    return Exported(network.source_logits, list(stored.values()))


write_compact = partial(write_safetensors, compact=True)


def _trace(network: PromptedClassifier, images: Tensor) -> ExportedProgram:
    return torch.export.export(network, (images,), dynamic_shapes=({0: Dim("batch")},))


def write_pt2(
    network: PromptedClassifier, images: Tensor, facts: dict[str, str], file: Path
) -> Exported:
    """Write the graph from images (2, 3, i, i) to logits by ``torch.export``; read it back."""
    # in memory first: on a full disk torch would end the process
    written = BytesIO()
    program = _trace(network, images)
    torch.export.save(program, written, extra_files={"vpns.json": json.dumps(facts)})
    file.write_bytes(written.getbuffer())
    with file.open("rb") as source:
        program = torch.export.load(source)
    return Exported(program.module(), list(program.state_dict.values()))


def write_onnx(
    network: PromptedClassifier,
    images: Tensor,
    facts: dict[str, str],
    file: Path,
    *,
    opset: int | None = None,
) -> Exported:
    """Write the graph from images (batch, 3, i, i) to logits by ONNX; read it back in its runtime.

    Args:
        network: A network without masks.
        images: Two.
        facts: What is known of the network.
        file: The file.
        opset: Version of ONNX's operators; the exporter's choice where None.

    Raises:
        UserError: The graph cannot be said in that version.
    """
    import onnx
    import onnxruntime

    traced, given, got = _trace(network, images), ["images"], ["logits"]
    program = torch.onnx.export(
        traced,
        input_names=given,
        output_names=got,
        verbose=False,
        opset_version=opset,
        # of a traced program this gives the dimension its name
        dynamic_shapes=({0: "batch"},),
    )
    assert program is not None
    written = program.model.opset_imports.get("")
    if opset not in (None, written):
        raise UserError(f"the graph needs opset {written} or newer, asked for is {opset}")
    program.model.metadata_props.update(facts)
    program.save(file, external_data=False)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    stored = [onnx.numpy_helper.to_array(each) for each in onnx.load(file).graph.initializer]
    return Exported(
        lambda batch: torch.from_numpy(session.run(got, {"images": batch.numpy()})[0]),
        [torch.from_numpy(array.copy()) for array in stored],
    )


FORMATS = {".safetensors": write_safetensors, ".pt2": write_pt2, ".onnx": write_onnx}
BACKBONE_ONLY = (write_safetensors, write_compact)  # no mapping, so the head's rows follow it
