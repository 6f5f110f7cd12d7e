"""The model card that lies beside an exported network."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vpns_lightning.base.files import write_text
from vpns_lightning.base.texts import inline
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.network.backbones import head_of
from vpns_lightning.network.specification import TIMM, Specification, is_timm
from vpns_lightning.runs.record import Accuracy, HandOff, RunRecord

STORED = (
    "Zeros are stored and multiplied like any other weight: the file is not smaller and the "
    "network not faster than a dense one, unless channels were cut."
)
PACKED = (
    "Zeros are left out of this file; once unpacked, the network is as large and slow as before."
)
LIMITS = (
    "Accuracy is that of the test images above, each counted once; other images may differ.",
    "One seed: runs with other seeds scatter around these figures.",
)
IMPORTED = (
    "Imported from a checkpoint of the authors' released code: masks follow from its scores at the "
    "sparsity asked for; seed and training are not known here."
)


def write_card(
    export: Path,
    network: PromptedClassifier,
    *,
    config: Mapping[str, Any],
    about: HandOff,
    result: RunRecord | None,
    compact: bool = False,
) -> Path:
    """Write the card of an exported file beside it, under its name with ``.md``; return its path.

    Args:
        export: The exported file.
        network: The network in it.
        config: The run's config.
        about: Facts in the run's hand-off.
        result: The run's ``result.json``, or None where the run is not finished.
        compact: The file leaves zeros out.
    """
    path = export.with_suffix(".md")
    facts = card_facts(network, config, about, result)
    facts["size"] = f"{export.stat().st_size:,} bytes"
    load = _load(export, network, about.input_size, compact=compact)
    limits = _limits(export, network, about, finished=result is not None, compact=compact)
    title = f"{export.name}: {network.backbone_name} on {about.dataset}"
    write_text(path, card_text(title, about, facts, load, limits))
    return path


def card_text(
    title: str,
    about: HandOff,
    facts: Mapping[str, Any],
    load: Sequence[str],
    limits: Sequence[str],
) -> str:
    """Return a card in Markdown.

    Args:
        title: Its title.
        about: Facts in the run's hand-off.
        facts: Rows of its table.
        load: Lines that say how it is loaded.
        limits: What a user must know.
    """
    lines = [f"# {inline(title)}", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {inline(value)} |" for name, value in facts.items()]
    lines += ["", "## Load", "", *load, ""]
    lines += ["## Classes", "", ", ".join(map(inline, about.class_names)), "", "## Limits", ""]
    lines += [f"- {limit}" for limit in limits]
    return "\n".join(lines) + "\n"


def card_facts(
    network: PromptedClassifier,
    config: Mapping[str, Any],
    about: HandOff,
    result: RunRecord | None,
) -> dict[str, Any]:
    """Return the rows of the first table."""
    last = about.stages.get(about.stage)
    accuracy = result or (last.reached if last else Accuracy())
    asked = config.get("find", config.get("imported", {})).get("sparsity")
    prompt = "none" if network.prompt is None else type(network.prompt).__name__
    versions = (result and result.versions) or {"vpns_lightning": about.version}
    command = result and result.command
    with_prompt = "accuracy with the prompt" if network.prompt else "accuracy"
    without = {"accuracy without": _number(accuracy.test_accuracy_plain)} if network.prompt else {}
    return {
        "method": result.method if result else f"not finished: after stage {about.stage}",
        "data": f"{about.dataset}, {network.num_classes} classes, {about.input_size} px",
        "sparsity asked": _number(asked),
        "sparsity measured": _number(about.sparsity),
        with_prompt: _number(accuracy.test_accuracy),
        **without,
        "test images": accuracy.test_images or "not measured",
        "prompt": prompt,
        "pretrained weights": about.weights or "none",
        "seed": "not known" if about.seed is None else about.seed,
        "command": f"`{command.replace('`', chr(39))}`" if command else "not known",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"


def _load(export: Path, network: PromptedClassifier, size: int, *, compact: bool) -> list[str]:
    """Return a code block that loads the file without this package."""
    shown = f"images: (N, 3, {size}, {size}) in [0, 1]"
    if export.suffix == ".pt2":
        code = [
            "import torch",
            "",
            f'network = torch.export.load("{export.name}").module()',
            f"logits = network(images)  # {shown}",
        ]
    elif export.suffix == ".onnx":
        code = [
            "import onnxruntime",
            "",
            f'session = onnxruntime.InferenceSession("{export.name}")',
            f'(logits,) = session.run(["logits"], {{"images": images}})  # {shown}, float32',
        ]
    elif compact:
        return [
            "Packed: `docs/formats.md` of vpns_lightning shows how to unpack it, and "
            f"`network.weights: {export.name}` reads it.",
        ]
    elif network.specification is not None and network.specification.of_library:
        mean, std = (
            json.dumps([round(x, 6) for x in values.flatten().tolist()])
            for values in (network.mean, network.std)
        )
        library, make = _construction(network.specification, network.num_classes)
        code = [
            "import torch",
            "from safetensors.torch import load_file",
            library,
            "",
            f"network = {make}.eval()",
            *_take_state(export.name, whole=fits_constructor(network)),
            f"mean, std = (torch.tensor(v).view(3, 1, 1) for v in ({mean}, {std}))",
            f"logits = network((images - mean) / std)  # {shown}",
        ]
    else:
        return ["The backbone is not torchvision's: rebuild it, then load the state dict."]
    return ["```python", *code, "```"]


def _take_state(file: str, *, whole: bool) -> list[str]:
    """Return the lines that load a state dict, also into layers whose channels were cut."""
    if whole:
        return [f'network.load_state_dict(load_file("{file}"))']
    return [
        f'for name, value in load_file("{file}").items():  # channels were cut: other shapes',
        '    owner, _, key = name.rpartition(".")',
        "    layer = network.get_submodule(owner)",
        "    learned = key in layer._parameters",
        "    setattr(layer, key, torch.nn.Parameter(value) if learned else value)",
    ]


_WITH_AUXILIARY = ("googlenet", "inception_v3")


def _construction(specification: Specification, num_classes: int) -> tuple[str, str]:
    """Return an import, and the call of torchvision or timm that builds a backbone."""
    name = specification.name.removeprefix(TIMM)
    arguments = {"num_classes": num_classes, **specification.arguments}
    if name in _WITH_AUXILIARY:
        arguments["aux_logits"] = False
    given = ", ".join([f'"{name}"', *(f"{key}={value!r}" for key, value in arguments.items())])
    if is_timm(specification.name):
        return "from timm import create_model", f"create_model({given})"
    return "from torchvision.models import get_model", f"get_model({given})"


def fits_constructor(network: PromptedClassifier) -> bool:
    """Return whether the backbone has the shapes that the constructor of its library gives it."""
    specification = network.specification
    if specification is None or not specification.of_library:
        return False
    plain = specification.skeleton(network.num_classes).state_dict()
    own = network.backbone.state_dict()
    shapes = {key: value.shape for key, value in own.items() if not key.endswith(".mask")}
    head, _ = head_of(network.backbone)
    head_keys = (f"{head}.weight", f"{head}.bias")  # rows of target classes, or all before slicing
    return all(
        key in plain and (key in head_keys or plain[key].shape == shape)
        for key, shape in shapes.items()
    )


def _limits(
    export: Path,
    network: PromptedClassifier,
    about: HandOff,
    *,
    finished: bool,
    compact: bool,
) -> list[str]:
    """Return what a user of the file must know."""
    limits = [PACKED if compact else STORED, *LIMITS]
    if export.suffix == ".safetensors" and network.prompt is not None:
        side = network.prompt.canvas_size
        padded = f" on images zero-padded to {side} px" if network.pad_plain else ""
        limits.insert(
            0,
            "The prompt is not in this file (it is in masks.safetensors of the run): the accuracy "
            f"without it counts{padded}.",
        )
    if about.imported:
        limits.append(IMPORTED)
    if not finished:
        limits.append("The run was not finished when this was exported.")
    return limits
