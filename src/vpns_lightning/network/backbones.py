"""Backbones by name, built with weights that are checked before use."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor, nn

from vpns_lightning.base.errors import UserError, nearest
from vpns_lightning.network.downloads import download
from vpns_lightning.network.fitting import (
    Target,
    differing_key,
    fit_names,
    refuse_misfit,
    without_auxiliary,
)
from vpns_lightning.network.specification import (
    Specification,
    classifier_names,
    is_timm,
    specify,
)
from vpns_lightning.network.timm_weights import adapted_by_timm, timm_weights_file
from vpns_lightning.network.weights import Weights, looks_like_file, read_weights

SKELETON_CLASSES = 1000


def head_of(backbone: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Return (name, layer) of the classifier: the one timm names, else the last of its kind.

    Raises:
        UserError: The network has no linear or convolution layer.
    """
    found = [(n, m) for n, m in backbone.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    named = getattr(backbone, "get_classifier", None)
    heads = [named()] if callable(named) else []
    own = [(name, module) for name, module in found if any(module is head for head in heads)]
    if not found:
        raise UserError("the backbone has no linear or convolution layer to use as classifier")
    return (own or found)[-1]


def num_outputs(layer: nn.Module) -> int:
    """Return the classes of a head returned by :func:`head_of`."""
    count = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    assert isinstance(count, int)
    return count


def build_backbone(
    backbone: str | Mapping[str, Any] | Specification,
    weights: str | None,
    num_classes: int,
    *,
    keeps_head: bool = True,
) -> nn.Module:
    """Build a backbone and load its weights.

    Args:
        backbone: A name, such as ``resnet18``, ``timm/vit_tiny_patch16_224`` or that of a class or
            function of a plug-in; or ``{class_path: name, init_args: {...}}``.
        weights: A name of pretrained weights (``IMAGENET1K_V1``, ``DEFAULT``, a tag of timm), the
            path of a file or of a folder with one, or None for random initialisation.
        num_classes: Classes of the head where ``weights`` is None; otherwise the weights decide.
        keeps_head: Weights must have the head; False leaves it random.

    Raises:
        UserError: The name or the weights are unknown, or the file is of another network; the
            first differing key is named.
    """
    spec = backbone if isinstance(backbone, Specification) else specify(backbone)
    if weights is None:
        return _without_auxiliary(spec.construct(num_classes))
    skeleton = spec.skeleton(SKELETON_CLASSES)
    target = Target(str(spec), skeleton.state_dict(), head_of(skeleton)[0], keeps_head)
    fitted = _fitted(load_weights(spec, weights), target, weights, spec)
    made = spec.construct(_classes(fitted, target) or num_classes)
    _take(made, fitted, target, weights)
    return _without_auxiliary(made)


def take_weights(backbone: nn.Module, weights: str, *, keeps_head: bool = True) -> None:
    """Load weights into a module that the caller has built.

    Args:
        backbone: Changed in place.
        weights: The path of a file or of a folder with one.
        keeps_head: Weights must have the head.

    Raises:
        UserError: See :func:`build_backbone`.
    """
    target = Target(
        type(backbone).__name__, backbone.state_dict(), head_of(backbone)[0], keeps_head
    )
    fitted = _fitted(load_weights(None, weights), target, weights, None)
    _take(backbone, fitted, target, weights)


def _fitted(
    read: Weights, target: Target, weights: str, spec: Specification | None
) -> dict[str, Tensor]:
    """Return weights under the names of a network, and say what that took."""
    fitted = fit_names(read, without_auxiliary(target, read.state))
    target = without_auxiliary(target, fitted.state)
    if spec is not None and is_timm(spec.name) and differing_key(fitted.state, target):
        fitted = adapted_by_timm(spec, fitted, target) or fitted
    refuse_misfit(weights, fitted.state, target, lambda: _fits(fitted.state, target))
    if fitted.notes:
        from vpns_lightning.base.processes import say  # which asks Lightning, unlike this room

        say(f"weights {weights}: {'; '.join(fitted.notes)}")
    return fitted.state


def load_weights(spec: Specification | None, weights: str) -> Weights:
    """Return the state dict that ``weights`` names; nothing in a file is ever executed.

    Raises:
        UserError: Neither a file nor a name of weights, or not a readable state dict.
    """
    if looks_like_file(weights):
        return read_weights(Path(weights))
    if spec is not None and is_timm(spec.name):
        return read_weights(timm_weights_file(spec, weights))
    known: dict[str, Any] = {}
    if spec is not None and spec.of_torchvision:
        known = dict(torchvision.models.get_model_weights(spec.name).__members__)
    if weights not in known:
        raise UserError(
            f"weights {weights!r} are neither a file nor known for {spec or 'this module'}"
            f"{nearest(weights, known)}; allowed: {', '.join([*known, 'a file path'])}, or null"
        )
    return read_weights(download(known[weights].url))


def _classes(state: Mapping[str, Tensor], target: Target) -> int | None:
    """Return how many classes the head in fitted weights has; None where they have no head."""
    weight = state.get(f"{target.head}.weight")
    return None if weight is None else weight.shape[0]


def _take(made: nn.Module, state: Mapping[str, Tensor], target: Target, weights: str) -> None:
    """Load fitted weights; a head that is not to be kept stays as it is."""
    own = made.state_dict()
    taken = dict(own)
    for key, value in state.items():
        if own[key].shape == value.shape:
            taken[key] = value
        elif target.keeps_head:
            raise UserError(
                f"weights {weights} have a classifier of {value.shape[0]} classes, but "
                f"{target.name} is built with {own[key].shape[0]}: change num_classes in "
                "network.backbone.init_args, or set network.mapping to LinearHead"
            )
    made.load_state_dict(taken)


def _fits(state: Mapping[str, Tensor], target: Target) -> str:
    """Return which of torchvision's classifiers misfitting weights are of, as a phrase."""
    for name in classifier_names():
        if name.startswith("regnet"):
            continue  # they need their real size while they are built
        known, head = _skeleton(name)
        other = without_auxiliary(Target(name, known, head, target.keeps_head), state)
        if name != target.name and differing_key(state, other) is None:
            return f"; they are of {name}: set network.backbone to that"
    return ""


@cache  # of all of torchvision's, which takes seconds
def _skeleton(name: str) -> tuple[Mapping[str, Tensor], str]:
    """Return the keys and shapes of a classifier of torchvision, and the key of its head."""
    skeleton = specify(name).skeleton(SKELETON_CLASSES)
    return skeleton.state_dict(), head_of(skeleton)[0]


def _without_auxiliary(backbone: nn.Module) -> nn.Module:
    """Drop auxiliary classifiers, so that training and evaluation return the same logits."""
    if getattr(backbone, "aux_logits", False):
        setattr(backbone, "aux_logits", False)  # noqa: B010  # not declared by nn.Module
        for name in ("AuxLogits", "aux1", "aux2"):
            if hasattr(backbone, name):
                setattr(backbone, name, None)
    return backbone


def skeleton(name: str, num_classes: int) -> nn.Module:
    """Return a backbone whose tensors have shapes, but mostly no storage.

    Raises:
        UserError: The name is unknown.
    """
    return specify(name).skeleton(num_classes)


def classes_in(name: str, state: dict[str, Tensor], weights: str) -> int:
    """Return how many classes the head in a state dict has.

    Args:
        name: Of the backbone.
        state: Its state dict.
        weights: Where that came from, for the message.

    Raises:
        UserError: There is no such head: the state is of another network.
    """
    head_name, _ = head_of(skeleton(name, SKELETON_CLASSES))
    key = f"{head_name}.weight"
    if key not in state:
        raise UserError(
            f"weights {weights} are not of {name}: key {key!r} is missing (the file has "
            f"{next(iter(state), 'nothing')!r}, ...)"
        )
    return state[key].shape[0]
