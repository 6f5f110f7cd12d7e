"""What a step computes, from images to the loss, as one graph where the network asks for that."""

from collections.abc import Callable
from functools import partial

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
        objective: Of logits (N, C) and targets, to the mean loss, 0-d.

    Attributes:
        whole_batch: Images in a batch to compile for; 0 compiles for any.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.whole_batch = 0
        self._graphs: tuple[Callable[..., tuple[Tensor, Tensor]], ...] = ()

    def __call__(
        self, network: PromptedClassifier, images: Tensor, targets: Tensor, *, prompted: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the loss, 0-d, and the logits (N, C), detached."""
        whole = self.whole_batch in (0, len(images))
        if not (network.compiled and network.training and whole):
            # the module itself is called, so that hooks on it are heard, GraSP's among them
            logits = network(images, prompted=prompted)
            return self.objective(logits, targets), logits.detach()
        if network.prompt is not None and network.prompt.draws and prompted:
            shown = network.shown(images, prompted=prompted)
            return self._compiled(network)[1](network, self.objective, shown, targets)
        return self._compiled(network)[0](network, self.objective, images, targets, prompted)

    def _compiled(
        self, network: PromptedClassifier
    ) -> tuple[Callable[..., tuple[Tensor, Tensor]], ...]:
        if not self._graphs:
            _forget_other_backbones(network.backbone_name)
            compiled = partial(torch.compile, dynamic=False)
            self._graphs = compiled(_from_images), compiled(_from_shown)
        return self._graphs


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
