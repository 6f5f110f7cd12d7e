"""Which weights of a network masks reach: what is called as a layer; all else stays dense."""

import warnings

import torch
from torch import nn
from torch.func import functional_call

from vpns_lightning.sparsity import masked_layers, replace_module, unmask_layers

MASKED_PARTS = ("weight", "scores")


def leave_bypassed_layers_dense(backbone: nn.Module, size: int) -> None:
    """Turn masked layers that a forward pass does not call back into plain ones, and say so.

    Some attention modules hand the weights of their layers to a function instead of calling the
    layers; a mask there would change nothing. A backbone that cannot be run on shapes alone, or not
    at this size, is left as it is.

    Args:
        backbone: The masked network.
        size: Side of its input, px.
    """
    bypassed = _bypassed(backbone, size)
    for name in bypassed:
        holder = nn.Module()
        holder.layer = backbone.get_submodule(name)
        replace_module(backbone, name, unmask_layers(holder).get_submodule("layer"))
    if bypassed:
        warnings.warn(
            f"{len(bypassed)} layers of this backbone are not called as layers and stay dense: "
            f"{', '.join(bypassed[:3])}{', ...' if len(bypassed) > 3 else ''}",
            stacklevel=3,
        )


@torch.no_grad()
def _bypassed(backbone: nn.Module, size: int) -> list[str]:
    called: set[nn.Module] = set()
    layers = dict(masked_layers(backbone))
    handles = [
        layer.register_forward_pre_hook(lambda module, _: called.add(module))
        for layer in layers.values()
    ]
    state = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
    was_training = backbone.training
    try:
        images = torch.empty(1, 3, size, size, device="meta")
        functional_call(backbone.eval(), shapes, (images,))
    except (RuntimeError, NotImplementedError, ValueError, AssertionError):
        return []
    finally:
        backbone.train(was_training)
        for handle in handles:
            handle.remove()
    return [name for name, layer in layers.items() if layer not in called]


def dense_weights(backbone: nn.Module) -> dict[str, int]:
    """Return name and number of values of all weights that carry no mask.

    Weights have two dimensions or more: biases and factors of normalisations never carry one.
    """
    masked = {f"{name}.{part}" for name, _ in masked_layers(backbone) for part in MASKED_PARTS}
    return {
        name: parameter.numel()
        for name, parameter in backbone.named_parameters()
        if parameter.dim() > 1 and name not in masked
    }


def own_side(backbone: nn.Module) -> int | None:
    """Return the side in px of the only images that a backbone takes; None where it takes many."""
    side = getattr(backbone, "image_size", None)  # of torchvision's vision transformers
    if isinstance(side, int):
        return side
    sides = getattr(getattr(backbone, "patch_embed", None), "img_size", None)  # of timm's
    return int(sides[0]) if isinstance(sides, tuple) and sides else None
