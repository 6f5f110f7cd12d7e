"""What a step computes, from images to the loss, as one graph where the network asks for that."""

from collections.abc import Callable
from functools import cached_property, partial

import torch
from torch import Tensor

from vpns_lightning.network import PromptedClassifier

Objective = Callable[[Tensor, Tensor], Tensor]


class Forward:
    """Images to loss and logits: prompt, normalisation, backbone, mapping and loss.

    With ``network.compile`` all of it is compiled for batches of ``whole_batch`` images while the
    network trains. Smaller batches, such as an epoch's last, and networks in evaluation mode run
    uncompiled: graphs of their own would cost more than they save.

    Args:
        network: The network.
        objective: Of logits (N, C) and targets, to the mean loss, 0-d.

    Attributes:
        whole_batch: Images in a batch to compile for; 0 compiles for any.
    """

    def __init__(self, network: PromptedClassifier, objective: Objective) -> None:
        self.network = network
        self.objective = objective
        self.whole_batch = 0

    def __call__(self, images: Tensor, targets: Tensor, *, prompted: bool) -> tuple[Tensor, Tensor]:
        """Return the loss, 0-d, and the logits (N, C), detached."""
        network = self.network
        whole = self.whole_batch in (0, len(images))
        if not (network.compiled and network.training and whole):
            return _from_images(network, self.objective, images, targets, prompted)
        if network.prompt is not None and network.prompt.draws and prompted:
            shown = network.shown(images, prompted=prompted)
            return self._compiled[1](network, self.objective, shown, targets)
        return self._compiled[0](network, self.objective, images, targets, prompted)

    @cached_property
    def _compiled(self) -> tuple[Callable[..., tuple[Tensor, Tensor]], ...]:
        _forget_other_backbones(self.network.backbone_name)
        compiled = partial(torch.compile, dynamic=False)
        return compiled(_from_images), compiled(_from_shown)


def _from_images(
    network: PromptedClassifier,
    objective: Objective,
    images: Tensor,
    targets: Tensor,
    prompted: bool,
) -> tuple[Tensor, Tensor]:
    return _from_shown(network, objective, network.shown(images, prompted=prompted), targets)


def _from_shown(
    network: PromptedClassifier, objective: Objective, shown: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    logits = network.answers(shown)
    return objective(logits, targets), logits.detach()


_latest = {"backbone": ""}


def _forget_other_backbones(name: str) -> None:
    """Drop the graphs of another backbone; equal ones share theirs.

    All are graphs of one function, of which torch keeps eight and then compiles no more.
    """
    if _latest["backbone"] not in ("", name):
        torch.compiler.reset()
    _latest["backbone"] = name
