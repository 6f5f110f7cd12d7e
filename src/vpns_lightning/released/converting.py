"""The network that a checkpoint of the released code holds: masks, prompt and label mapping."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from vpns_lightning.base.errors import UserError
from vpns_lightning.network import (
    FixPrompt,
    FrequencyMapping,
    PadPrompt,
    Prompt,
    PromptedClassifier,
)
from vpns_lightning.network.backbones import classes_in, skeleton
from vpns_lightning.released.reading import Released, refuse
from vpns_lightning.sparsity import check_scores, check_sparsity, keep_highest, set_masks

PromptKind: TypeAlias = Literal["auto", "pad", "fix"]
TOLERANCE = 1e-3  # of sparsity; more is removed only where scores tie


def masks_from(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Return the masks at a sparsity: strictly above the k-th smallest absolute score.

    ``k = int((1 - density) N)`` of all N scores; nothing is removed where k is 0.

    Args:
        scores: Layer name to score.
        sparsity: Fraction removed, in [0, 1).

    Raises:
        UserError: The sparsity is out of range, a score is NaN or infinite, or so many scores tie
            at the threshold that another sparsity comes out.
    """
    density = round(1 - check_sparsity(sparsity), 12)
    check_scores(scores)
    total = sum(score.numel() for score in scores.values())
    masks = {name: torch.empty_like(score, dtype=torch.bool) for name, score in scores.items()}
    keep_highest(
        list(scores.values()),
        int((1 - density) * total),
        list(masks.values()),
        absolute=True,
        tie_rule="threshold",
    )
    removed = 1 - sum(int(mask.sum()) for mask in masks.values()) / total
    if abs(removed - sparsity) > TOLERANCE + 1 / total:
        raise UserError(
            f"scores tie at the threshold of sparsity {sparsity}: {removed:.4f} of the weights "
            "would be removed. The checkpoint was not trained at that sparsity: give its own"
        )
    return masks


def network_arguments(
    released: Released, backbone: str, num_classes: int, prompt: PromptKind = "auto"
) -> dict[str, Any]:
    """Return the arguments of the network in a checkpoint, as a config holds them.

    Args:
        released: The checkpoint.
        backbone: A torchvision classifier.
        num_classes: Target classes of the data set.
        prompt: What the prompt is where its mask covers the whole image; else that says it.

    Raises:
        UserError: The checkpoint is of another backbone or data set, or its prompt is unknown.
    """
    path = str(released.path)
    source = classes_in(backbone, released.weights, path)
    if len(released.sequence) != num_classes:
        raise UserError(
            f"{path} maps {len(released.sequence)} classes, but the data set has {num_classes}: "
            "give the data set that it was trained on"
        )
    if not bool(((released.sequence >= 0) & (released.sequence < source)).all()):
        refuse(released.path, f"'mapping_sequence' leaves the head's {source} classes")
    biases = [
        f"{name}.bias"
        for name, module in skeleton(backbone, source).named_modules()
        if isinstance(module, torch.nn.Conv2d) and module.bias is not None
    ]
    return {
        "backbone": backbone,
        "source_classes": source,
        "prompt": _prompt_config(released, prompt),
        "mapping": {
            "class_path": "vpns_lightning.FrequencyMapping",
            "init_args": {"slice_head": False},
        },
        "pad_plain": False,
        "drop_conv_bias": any(name not in released.weights for name in biases),
    }


def _prompt_config(released: Released, kind: PromptKind) -> dict[str, Any] | None:
    """Return class path and sizes of the prompt, read from where it acts."""
    region = released.region
    if region is None:
        return None
    side = region.shape[-1]
    width, square = _border(region), int(region[0].sum())
    pad = {"class_path": "vpns_lightning.PadPrompt", "init_args": {"canvas_size": side}}
    pad["init_args"] |= {"pad_size": width or 0}  # type: ignore[operator]
    arguments = {"canvas_size": side, "size": square, "squash": "sigmoid"}
    fix = {"class_path": "vpns_lightning.FixPrompt", "init_args": arguments}
    if bool(region.all()):
        if kind == "auto":
            raise UserError(
                f"the prompt in {released.path} covers the whole image, so its mask does not say "
                "of which kind it is: add --prompt pad or --prompt fix"
            )
        return pad if kind == "pad" else fix
    if width is not None:
        return pad
    if bool(region[:square, :square].all()) and int(region.sum()) == square**2:
        return fix
    refuse(released.path, "the prompt's mask is neither a border of one width nor a square")


def _border(region: Tensor) -> int | None:
    """Return the width of four equal strips, px, or None where the region is something else."""
    side = region.shape[-1]
    middle = region[side // 2]
    width = side // 2 if bool(middle.all()) else int((~middle).int().argmax()) if side else 0
    frame = torch.ones_like(region)
    frame[width : side - width, width : side - width] = False
    return width if torch.equal(frame, region) else None


def network_from(
    released: Released, arguments: Mapping[str, Any], sparsity: float
) -> PromptedClassifier:
    """Return the finished network of a checkpoint, in eval mode.

    Args:
        released: The checkpoint.
        arguments: Of :func:`network_arguments`.
        sparsity: Fraction of weights removed.

    Raises:
        UserError: The checkpoint is of another backbone (the first differing key is named), or
            its scores do not give this sparsity.
    """
    masks = masks_from(released.scores, sparsity)
    with torch.random.fork_rng(devices=[]):
        network = PromptedClassifier(
            arguments["backbone"],
            len(released.sequence),
            source_classes=arguments["source_classes"],
            prompt=_build_prompt(arguments["prompt"]),
            mapping=FrequencyMapping(slice_head=False),
            pad_plain=arguments["pad_plain"],
            drop_conv_bias=arguments["drop_conv_bias"],
        )
    _load_weights(network, released)
    set_masks(network.backbone, masks)
    if network.prompt is not None:
        network.prompt.load_state_dict({"delta": released.program, "region": released.region})
    network.mapping.sequence.copy_(released.sequence)
    network.mapping.fitted.fill_(True)
    return network.eval()


def _build_prompt(config: Mapping[str, Any] | None) -> Prompt | None:
    if config is None:
        return None
    kinds: dict[str, type[PadPrompt | FixPrompt]] = {"PadPrompt": PadPrompt, "FixPrompt": FixPrompt}
    return kinds[config["class_path"].rpartition(".")[2]](**config["init_args"])


def _load_weights(network: PromptedClassifier, released: Released) -> None:
    own = {n: v for n, v in network.backbone.state_dict().items() if not n.endswith(".mask")}
    name = network.backbone_name
    for key in [*own, *released.weights]:
        if key not in released.weights:
            problem = "is missing in the file"
        elif key not in own:
            problem = "is unknown to the network"
        elif own[key].shape != released.weights[key].shape:
            shapes = tuple(released.weights[key].shape), tuple(own[key].shape)
            problem = f"is {shapes[0]} in the file, {shapes[1]} here"
        else:
            continue
        raise UserError(f"{released.path} is not of {name}: key {key!r} {problem}")
    network.backbone.load_state_dict(released.weights, strict=False)
