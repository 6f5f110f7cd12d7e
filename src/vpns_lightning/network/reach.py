"""Which masked layers a network really calls; a mask on any other would be ignored."""

import warnings

import torch
from torch import nn
from torch.func import functional_call

from vpns_lightning.sparsity import masked_layers, replace_module, unmask_layers


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
