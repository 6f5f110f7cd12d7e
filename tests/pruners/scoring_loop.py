"""What a one-shot pruner needs of a stage, as plain loops over one process or several."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from reference.toy_networks import ToyNet
from vpns_lightning.network import IdentityMapping, PadPrompt, PromptedClassifier
from vpns_lightning.pruners import Pruner
from vpns_lightning.pruners.base import Batch

SPARSITIES = [0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]


class Loop:
    """A stage of one process."""

    current_epoch = 0
    global_rank = 0
    world_size = 1

    def __init__(self, network: PromptedClassifier) -> None:
        self.network = network
        self.passes = 0

    def loss(self, view: str, batch: Batch) -> Tensor:
        images, labels = batch
        self.passes += 1
        return functional.cross_entropy(self.network(images, prompted=view == "prompted"), labels)

    def optimizers(self) -> list[object]:
        return []

    def manual_backward(self, loss: Tensor) -> None:
        loss.backward()

    def reduce(self, tensor: Tensor) -> Tensor:
        return tensor

    def run(self, pruner: Pruner, batches: Sequence[Batch], view: str = "prompted") -> None:
        for batch in batches:
            if pruner.done:
                break
            pruner.step(self, view, batch)
        pruner.end_epoch(self)


def new_network(prompt: bool = True, seed: int = 0) -> PromptedClassifier:
    network = PromptedClassifier(
        ToyNet(seed=seed), 4, prompt=PadPrompt(12, 2) if prompt else None, mapping=IdentityMapping()
    )
    network.fit_mapping()
    # statistics as pretrained ones, neither zero nor one
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for bn in (network.backbone.bn1, network.backbone.bn2):
            bn.running_mean.normal_(0, 0.1, generator=generator)
            bn.running_var.uniform_(0.5, 2, generator=generator)
        if network.prompt is not None:
            network.prompt.delta.normal_(0, 0.1, generator=generator)
    return network


def found(pruner: Pruner, network: PromptedClassifier, batches: Sequence[Batch]) -> Loop:
    """Attach a pruner and show it batches; nothing is ranked yet."""
    loop = Loop(network)
    pruner.attach(network, 0.5)
    if pruner.epochs(30):
        loop.run(pruner, batches)
    return loop
