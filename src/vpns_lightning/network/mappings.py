"""Label mappings: from the source classes of a pretrained head to the target classes."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from vpns_lightning.base.errors import UserError


def greedy_assignment(counts: Tensor) -> Tensor:
    """Assign one source class to every target class, most frequent pair first.

    The largest cell is taken (lowest row-major index on ties), its row and column are struck out,
    and so on; cells with zero counts are assignable.

    Args:
        counts: Tensor of shape (source classes, target classes): how often images of a target
            class were predicted as a source class.

    Returns:
        int64 tensor of shape (target classes,): the source class of each target class.

    Raises:
        UserError: There are fewer source than target classes.
    """
    source, target = counts.shape
    _check_enough(source, target)
    left = counts.to("cpu", torch.int64, copy=True)
    sequence = torch.empty(target, dtype=torch.int64)
    for _ in range(target):
        row, column = divmod(int(left.argmax()), target)
        sequence[column] = row
        left[row, :] = -1
        left[:, column] = -1
    return sequence


def _check_enough(source: int, target: int) -> None:
    if source < target:
        raise UserError(
            f"{target} target classes cannot be mapped onto {source} source classes: use the "
            "LinearHead mapping, or weights with more classes"
        )


class LabelMapping(nn.Module, ABC):
    """Which logits of the source head speak for the target classes.

    Attributes:
        sequence: int64 buffer of shape (target classes,): source class of each target class.
        fitted: bool buffer: ``sequence`` is final, not the placeholder of a fresh network.
        needs_counts: Fitting needs a pass over the training images.
        slice_head: Keep only the mapped rows of the classifier, so that rows which never matter
            are neither ranked nor kept.
        every: Epochs between refits while training; 0 fits once.
    """

    sequence: Tensor
    fitted: Tensor
    needs_counts: bool = False
    every: int = 0

    def __init__(self, *, slice_head: bool = True) -> None:
        super().__init__()
        self.slice_head = slice_head
        self.sliced = False
        self.register_buffer("sequence", torch.empty(0, dtype=torch.int64))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    def prepare(self, source_classes: int, num_classes: int) -> None:
        """Learn both class counts; called once by the network that owns the mapping.

        Raises:
            UserError: There are fewer source than target classes.
        """
        _check_enough(source_classes, num_classes)
        self.sequence = torch.arange(num_classes)

    @abstractmethod
    def assign(self, counts: Tensor | None, source_classes: int) -> Tensor:
        """Return the sequence.

        Args:
            counts: (source, target) counts of predictions, given if ``needs_counts``.
            source_classes: Classes of the source head.
        """

    @torch.no_grad()
    def fit(self, counts: Tensor | None, source_classes: int) -> None:
        """Set ``sequence`` from :meth:`assign` and mark the mapping as fitted."""
        self.sequence.copy_(self.assign(counts, source_classes))
        self.fitted.fill_(True)

    def forward(self, logits: Tensor) -> Tensor:
        """Return target logits (N, C) from those of the head, (N, source) or already (N, C)."""
        return logits if self.sliced else logits.index_select(1, self.sequence)


class FrequencyMapping(LabelMapping):
    """Most frequent prediction first, fitted once on the dense pretrained network (default)."""

    needs_counts = True

    def assign(self, counts: Tensor | None, source_classes: int) -> Tensor:
        """Return the greedy assignment of ``counts``."""
        assert counts is not None
        return greedy_assignment(counts)


class IterativeMapping(FrequencyMapping):
    """Frequency mapping refitted every few epochs (ILM, Chen et al., 2023).

    The head keeps all rows, because later epochs may choose others.
    https://arxiv.org/abs/2211.11635

    Args:
        every: Epochs between refits.

    Raises:
        UserError: ``every`` is not positive.
    """

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise UserError(f"IterativeMapping refits every >= 1 epochs, got {every}")
        super().__init__(slice_head=False)
        self.every = every


class RandomMapping(LabelMapping):
    """Distinct source classes drawn at random.

    Args:
        seed: Seed of the draw.
        slice_head: See :class:`LabelMapping`.
    """

    def __init__(self, seed: int = 0, *, slice_head: bool = True) -> None:
        super().__init__(slice_head=slice_head)
        self.seed = seed

    def assign(self, counts: Tensor | None, source_classes: int) -> Tensor:
        """Return the first C entries of a seeded permutation of the source classes."""
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(source_classes, generator=generator)
        return order[: len(self.sequence)]


class IdentityMapping(LabelMapping):
    """Target class c is source class c."""

    def assign(self, counts: Tensor | None, source_classes: int) -> Tensor:
        """Return 0, 1, ..., C - 1."""
        return torch.arange(len(self.sequence))


class LinearHead(IdentityMapping):
    """A fresh linear classifier of C outputs in place of the pretrained one."""

    def prepare(self, source_classes: int, num_classes: int) -> None:
        """Accept any class counts: the head is replaced."""
        self.sequence = torch.arange(num_classes)
