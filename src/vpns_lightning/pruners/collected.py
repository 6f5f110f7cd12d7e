"""Images of all processes that wait to be scored together."""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from vpns_lightning.pruners.base import StageLike

Collected: TypeAlias = tuple[str, Tensor, Tensor]  # view, images, labels


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


def chunks_of(held: Sequence[Collected], size: int, *, alone: bool) -> Iterator[Collected]:
    """Yield the images of each view, cut into chunks of almost equal sizes.

    However many batches and processes they came from, the chunks are the same.

    Args:
        held: What was collected, in order.
        size: Images in a chunk, at most.
        alone: A chunk may be one image; else it has two at least, if there are two.
    """
    for view in dict.fromkeys(view for view, _, _ in held):
        images = torch.cat([part for of, part, _ in held if of == view])
        labels = torch.cat([part for of, _, part in held if of == view])
        count = -(-len(labels) // size)
        if not alone:
            count = max(1, min(count, len(labels) // 2))
        parts = zip(images.tensor_split(count), labels.tensor_split(count), strict=True)
        yield from ((view, *part) for part in parts)
