"""GraSP: gradient signal preservation (Wang et al., 2020, https://arxiv.org/abs/2002.07376)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners.base import Batch, StageLike
from vpns_lightning.pruners.data_saliency import DataSaliency, flat
from vpns_lightning.pruners.scoring import BNMode, scoring, twice_differentiable
from vpns_lightning.sparsity import Scope, TieRule, masked_layers

DOUBLE_BACKWARD = 3  # forward-backward passes that one Hessian-gradient product is counted as


class GraSP(DataSaliency):
    """Keep the weights whose removal would weaken the gradient most: highest ``weight * Hg``.

    ``g`` is the gradient and ``H`` the Hessian of the loss over all images; scores are signed, and
    removing a weight changes the squared norm of ``g`` by ``-2 * weight * Hg`` to first order.
    The images are kept until the end of the epoch, because ``g`` must be whole before ``Hg``.

    Args:
        temperature: Divides the logits.
        samples_per_class: See :class:`DataSaliency`, as for the others; all these images are held
            in memory (0.6 MB each at 224 px).
        chunk: Images in one pass of a process; a double backward takes about thrice the memory.
        bn_mode: Statistics that batch normalisation uses.
        reinit_linear: Score with linear layers drawn anew (Xavier normal; the run's seed decides),
            as the paper's code does. By default the pretrained weights are what is scored.
        scope: Rank over all layers or within each.
        tie_rule: What happens to ties at the threshold.

    Attributes:
        held: View, images and labels of every batch so far, of all processes.

    Raises:
        UserError: The temperature is not positive, or see :class:`DataSaliency`.
    """

    def __init__(
        self,
        *,
        temperature: float = 200.0,
        samples_per_class: int = 10,
        chunk: int = 32,
        bn_mode: BNMode = "eval",
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
        self.held: list[tuple[str, Tensor, Tensor]] = []

    def saliency(self, stage: StageLike, view: str, batch: Batch) -> dict[str, Tensor]:
        """Return the gradient of the loss summed over a batch."""
        weights = stage.network.prunable()
        with _softened(stage.network, self.temperature), self._reinitialised(stage.network):
            loss = stage.loss(view, batch) * len(batch[1])
        return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))

    def add(self, stage: StageLike, view: str, batch: Batch, chosen: Tensor) -> None:
        """Add to the gradient, and hold the chosen images of all processes."""
        super().add(stage, view, batch, chosen)
        images, labels = (gathered(stage, part, chosen) for part in batch)
        self.held.append((view, images, labels))

    def end_epoch(self, stage: StageLike) -> None:
        """Replace the summed gradient by the scores."""
        if not self.held:
            return
        network = stage.network
        gradient = list(super().scores(network).values())
        found = torch.zeros_like(self.sums)
        with scoring(network, self.bn_mode), twice_differentiable(), self._reinitialised(network):
            weights = network.prunable()
            for view, images, labels in self._my_share(stage):
                logits = network(images, prompted=view == "prompted") / self.temperature
                loss = functional.cross_entropy(logits, labels, reduction="sum")
                product = hessian_times(loss, list(weights.values()), gradient)
                # the paper removes the highest -weight * Hg; here the highest are kept
                found += flat(
                    {n: w.detach() * p for (n, w), p in zip(weights.items(), product, strict=True)},
                    network,
                )
                stage.passes += DOUBLE_BACKWARD
        self.sums.copy_(stage.reduce(found))
        self.held.clear()

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

    def _my_share(self, stage: StageLike) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield every so many-th chunk of the held images."""
        chunks = [
            (view, part, of_part)
            for view, images, labels in self.held
            for part, of_part in zip(
                torch.split(images, self.chunk), torch.split(labels, self.chunk), strict=True
            )
        ]
        for view, images, labels in chunks[stage.global_rank :: stage.world_size]:
            yield view, images.to(self.sums.device), labels.to(self.sums.device)

    def get_extra_state(self) -> list[tuple[str, Tensor, Tensor]]:
        """Return the held images, for a checkpoint inside the epoch."""
        return self.held

    def set_extra_state(self, state: Any) -> None:
        """Hold the images of a checkpoint."""
        self.held = list(state)


def gathered(stage: StageLike, part: Tensor, chosen: Tensor) -> Tensor:
    """Return what is chosen of all processes' batches, on every process.

    A checkpoint is written by one process for all, so each must hold everything.

    Args:
        stage: The stage.
        part: This process's images or labels, of shape (N, ...).
        chosen: Bool tensor of shape (N, processes), the same on all processes.

    Returns:
        Tensor of shape (chosen entries, ...), in the order of ``chosen``.
    """
    mine = chosen[:, stage.global_rank]
    places = chosen.flatten().cumsum(0).view_as(chosen)[:, stage.global_rank] - 1
    whole = part.new_zeros(int(chosen.sum()), *part.shape[1:])
    whole[places[mine]] = part[mine]
    return stage.reduce(whole)


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
