"""GraSP: gradient signal preservation (Wang et al., 2020, https://arxiv.org/abs/2002.07376)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from vpns_lightning.base.batches import Batch
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners.base import StageLike
from vpns_lightning.pruners.data_saliency import DataSaliency
from vpns_lightning.pruners.scoring import BNMode, twice_differentiable
from vpns_lightning.sparsity import Scope, TieRule, masked_layers

DOUBLE_BACKWARD = 3  # forward-backward passes that one Hessian-gradient product is counted as


class GraSP(DataSaliency):
    """Keep the weights whose removal would weaken the gradient most: highest ``weight * Hg``.

    ``g`` is the gradient and ``H`` the Hessian of the loss over all images; scores are signed, and
    removing a weight changes the squared norm of ``g`` by ``-2 * weight * Hg`` to first order.
    The images are kept until the end of the epoch, because ``g`` must be whole before ``Hg``. Batch
    normalisation uses the statistics of each chunk, as in the authors' code, which leaves its copy
    of the network in training mode (https://github.com/alecwangcq/GraSP); their chunks are half of
    the images on CIFAR and 20 images on ImageNet.

    Args:
        temperature: Divides the logits.
        samples_per_class: See :class:`DataSaliency`, as for the others; all these images are held
            in memory (0.6 MB each at 224 px).
        chunk: Images in one pass of a process; a double backward takes about thrice the memory.
        bn_mode: ``"train"``: statistics of the chunk. ``"eval"``: the stored ones, which the code
            of SynFlow's authors scores GraSP with, and version 0.1.0 did.
        reinit_linear: Score with linear layers drawn anew (Xavier normal; the run's seed decides),
            as the authors' code does. By default the pretrained weights are what is scored.
        scope: Rank over all layers or within each.
        tie_rule: What happens to ties at the threshold.

    Raises:
        UserError: The temperature is not positive, or see :class:`DataSaliency`.
    """

    def __init__(
        self,
        *,
        temperature: float = 200.0,
        samples_per_class: int = 10,
        chunk: int = 32,
        bn_mode: BNMode = "train",
        reinit_linear: bool = False,
        scope: Scope = "global",
        tie_rule: TieRule = "exact",
    ) -> None:
        super().__init__(
            samples_per_class=samples_per_class,
            chunk=chunk,
            bn_mode=bn_mode,
            scope=scope,
            tie_rule=tie_rule,
        )
        if not temperature > 0:
            raise UserError(f"temperature must be above 0, got {temperature}; the paper's is 200")
        self.temperature = temperature
        self.reinit_linear = reinit_linear

    @property
    def collects(self) -> bool:
        """Return True: the gradient must be whole before its product with the Hessian."""
        return True

    def score_held(self, stage: StageLike) -> None:
        """Write ``weight * Hg`` of all collected images, from the same chunks as ``g``."""
        with twice_differentiable(), self._reinitialised(stage.network):
            super().score_held(stage)
            gradient = list(self.scores(stage.network).values())
            self.sums.copy_(self.over_chunks(stage, partial(self._product, gradient)))

    def saliency(self, stage: StageLike, view: str, batch: Batch) -> dict[str, Tensor]:
        """Return the gradient of the loss summed over a batch."""
        weights = stage.network.prunable()
        with _softened(stage.network, self.temperature):
            loss = stage.loss(view, batch) * len(batch[1])
        return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))

    def _product(
        self, gradient: Sequence[Tensor], stage: StageLike, view: str, batch: Batch
    ) -> dict[str, Tensor]:
        """Return the part of ``weight * Hg`` that comes from a batch."""
        images, labels = batch
        weights = stage.network.prunable()
        logits = stage.network(images, prompted=view == "prompted") / self.temperature
        loss = functional.cross_entropy(logits, labels, reduction="sum")
        product = hessian_times(loss, list(weights.values()), gradient)
        stage.passes += DOUBLE_BACKWARD
        # the paper removes the highest -weight * Hg; here the highest are kept
        return {n: w.detach() * p for (n, w), p in zip(weights.items(), product, strict=True)}

    @contextmanager
    def _reinitialised(self, network: PromptedClassifier) -> Iterator[None]:
        """Give linear layers new weights, the same in both passes; the old ones return."""
        layers = [m for _, m in masked_layers(network.backbone) if isinstance(m, nn.Linear)]
        kept = [layer.weight.detach().clone() for layer in layers if self.reinit_linear]
        draws = torch.Generator().manual_seed(self.run_seed)
        try:
            for layer, weight in zip(layers, kept, strict=False):
                drawn = nn.init.xavier_normal_(torch.empty(weight.shape), generator=draws)
                layer.weight.data.copy_(drawn)
            yield
        finally:
            for layer, weight in zip(layers, kept, strict=False):
                layer.weight.data.copy_(weight)


def hessian_times(
    loss: Tensor, weights: Sequence[Tensor], vector: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Return the product of the Hessian of ``loss`` with ``vector``, one tensor a weight.

    Args:
        loss: 0-d, a function of ``weights`` that can be differentiated twice.
        weights: Tensors that require gradients.
        vector: Tensors of the same shapes.
    """
    grads = torch.autograd.grad(loss, weights, create_graph=True)
    inner = torch.stack([(g * v).sum() for g, v in zip(grads, vector, strict=True)]).sum()
    return torch.autograd.grad(inner, weights)


@contextmanager
def _softened(network: PromptedClassifier, temperature: float) -> Iterator[None]:
    """Divide the logits, so that the stage's own loss is that of the softened network."""
    handle = network.register_forward_hook(lambda _, __, logits: logits / temperature)
    try:
        yield
    finally:
        handle.remove()
