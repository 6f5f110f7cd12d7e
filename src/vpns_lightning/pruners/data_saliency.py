"""One-shot pruners that look at a few images of each class."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vpns_lightning.base.batches import Batch
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners.base import StageLike, keep_everything
from vpns_lightning.pruners.collected import Collected, chunks_of, gathered
from vpns_lightning.pruners.saliency import Saliency
from vpns_lightning.pruners.scoring import BNMode, scoring
from vpns_lightning.sparsity import Scope, TieRule


class DataSaliency(Saliency):
    """Scores are summed over a few images of each class, then ranked once.

    Images are taken from the shuffled stream of each view until every class has its share; the
    rest of the epoch is not read. A new method writes :meth:`saliency`, and :meth:`scores` where
    the sums themselves are not what is ranked. Prompt, weights and statistics stay as they are.

    Args:
        samples_per_class: Images of each class and view, over all processes together.
        chunk: Images in one pass of a process, at most; a matter of memory, not of the result,
            unless batch normalisation uses the statistics of the chunk.
        bn_mode: Batch normalisation uses its stored statistics (``"eval"``) or the chunk's
            (``"train"``): then all images are first collected, and cut into chunks of equal sizes.
        scope: Rank over all layers or within each.
        tie_rule: See :class:`Saliency`.

    Attributes:
        sums: Sums over all images so far, float32 of shape (prunable weights,), in layer order.
        taken: Images so far, int64 of shape (2, classes): prompted ones, plain ones.
        held: View, images and labels collected so far, of all processes.

    Raises:
        UserError: A number is below 1, ``bn_mode`` is unknown, or needs a larger chunk.
    """

    sums: Tensor
    taken: Tensor

    def __init__(
        self,
        *,
        samples_per_class: int = 10,
        chunk: int = 64,
        bn_mode: BNMode = "eval",
        scope: Scope = "global",
        tie_rule: TieRule = "exact",
    ) -> None:
        super().__init__(scope=scope, tie_rule=tie_rule)
        for name, number in (("samples_per_class", samples_per_class), ("chunk", chunk)):
            if number < 1:
                raise UserError(f"{name} must be at least 1 image, got {number}")
        if bn_mode not in ("eval", "train"):
            raise UserError(f"bn_mode must be 'eval' or 'train', got {bn_mode!r}")
        if bn_mode == "train" and chunk < 2:
            raise UserError(
                "one image alone has no statistics: set chunk to 2 or more, or bn_mode to 'eval'"
            )
        self.samples_per_class = samples_per_class
        self.chunk = chunk
        self.bn_mode: BNMode = bn_mode
        self.held: list[Collected] = []
        self.register_buffer("sums", torch.zeros(0))
        self.register_buffer("taken", torch.zeros(2, 0, dtype=torch.int64))

    def epochs(self, requested: int, sparsity: float = 0.0) -> int:
        """Return 1, of which only the first batches are read."""
        return 1

    def attach(self, network: PromptedClassifier, sparsity: float) -> None:
        """Start with sums of zero and masks of ones; again, change nothing.

        Raises:
            UserError: No layer can be pruned.
        """
        super().attach(network, sparsity)
        total = sum(weight.numel() for weight in network.prunable().values())
        if self.sums.numel() == total:
            return
        keep_everything(network)
        self.sums = network.mean.new_zeros(total)
        self.taken = self.sums.new_zeros((2, network.num_classes), dtype=torch.int64)

    @abstractmethod
    def saliency(self, stage: StageLike, view: str, batch: Batch) -> dict[str, Tensor]:
        """Return layer name to a tensor of the weight's shape, summed over the images of a batch.

        Sums, not means: they add up over batches and processes of any size. Signs are kept. The
        network is in the state of :func:`~vpns_lightning.pruners.scoring.scoring`.

        Args:
            stage: Its ``loss(view, batch)`` is the mean over the batch; call it once.
            view: ``"prompted"`` or ``"plain"``.
            batch: Images (N, 3, i, i) in [0, 1] and labels (N,), N >= 1.
        """

    def scores(self, network: PromptedClassifier) -> dict[str, Tensor]:
        """Return the sums, layer by layer.

        Raises:
            UserError: No image was scored.
        """
        if not bool(self.taken.any()):
            raise UserError(
                f"{type(self).__name__} has scored no image, so there is nothing to rank: the data "
                "must have at least one training batch (trainer.limit_train_batches is not 0)"
            )
        weights = network.prunable()
        parts = torch.split(self.sums, [weight.numel() for weight in weights.values()])
        return {n: part.view(w.shape) for (n, w), part in zip(weights.items(), parts, strict=True)}

    @property
    def done(self) -> bool:
        """Return whether every class of every view has its images."""
        full = (self.taken >= self.samples_per_class).all(1)
        begun = self.taken.any(1)
        return bool(begun.any()) and bool((full | ~begun).all())

    def step(self, stage: StageLike, view: str, batch: Batch) -> None:
        """Score those images of a batch whose class has not its share yet, or collect them."""
        chosen = self._choose(stage, view, batch[1])
        if not bool(chosen.any()):
            return
        if self.collects:
            images, labels = (gathered(stage, part, chosen) for part in batch)
            self.held.append((view, images, labels))
        else:
            with scoring(stage.network, self.bn_mode):
                self.add(stage, view, batch, chosen)

    @property
    def collects(self) -> bool:
        """Return whether images are scored at the end of the epoch, all of them together."""
        return self.bn_mode == "train"

    def end_epoch(self, stage: StageLike) -> None:
        """Score the collected images."""
        if self.held:
            with scoring(stage.network, self.bn_mode):
                self.score_held(stage)
            self.held.clear()

    def score_held(self, stage: StageLike) -> None:
        """Write the scores of all collected images."""
        self.sums.copy_(self.over_chunks(stage, self.saliency))

    def over_chunks(
        self, stage: StageLike, score: Callable[[StageLike, str, Batch], dict[str, Tensor]]
    ) -> Tensor:
        """Return a score summed over all collected images of all processes, as one vector.

        Args:
            stage: The stage.
            score: Called as :meth:`saliency` is, for each chunk.
        """
        chunks = list(chunks_of(self.held, self.chunk, alone=self.bn_mode == "eval"))
        found = torch.zeros_like(self.sums)
        for first in range(0, len(chunks), stage.world_size):
            at = first + stage.global_rank
            # a process for which no chunk is left takes any: a stage's loss waits for all processes
            view, *parts = chunks[min(at, len(chunks) - 1)]
            images, labels = (part.to(found.device) for part in parts)
            scores = score(stage, view, (images, labels))
            if at < len(chunks):
                found += flat(scores, stage.network)
        return stage.reduce(found)

    def add(self, stage: StageLike, view: str, batch: Batch, chosen: Tensor) -> None:
        """Add the scores of chosen images to the sums of all processes.

        Args:
            stage: The stage.
            view: The view.
            batch: This process's batch of N images.
            chosen: Bool tensor of shape (N, processes).
        """
        images, labels = batch
        mine = chosen[:, stage.global_rank]
        # as many passes on each process, because a stage's loss waits for the other processes
        passes = -(-int(chosen.sum(0).max()) // self.chunk)
        found = torch.zeros_like(self.sums)
        for part in torch.arange(len(labels), device=labels.device)[mine].tensor_split(passes):
            # no image is left for this pass: any two will do, and do not count
            rows = part if len(part) else slice(0, 2)
            scores = self.saliency(stage, view, (images[rows], labels[rows]))
            if len(part):
                found += flat(scores, stage.network)
        # summed at once and not at the end: a checkpoint is written by one process for all
        self.sums += stage.reduce(found)

    def get_extra_state(self) -> list[Collected]:
        """Return the collected images, for a checkpoint inside the epoch."""
        return self.held

    def set_extra_state(self, state: Any) -> None:
        """Hold the images of a checkpoint."""
        self.held = list(state)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take checkpoints of version 0.1.0, in which only GraSP had collected images."""
        state_dict.setdefault(f"{prefix}_extra_state", [])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _choose(self, stage: StageLike, view: str, labels: Tensor) -> Tensor:
        """Return which images of all processes' batches are taken; the same on all of them.

        One process with a batch as large as all of these would take the same images.
        """
        everywhere = labels.new_zeros(len(labels), stage.world_size)
        everywhere[:, stage.global_rank] = labels
        classes = stage.reduce(everywhere).flatten()
        taken = self.taken[int(view != "prompted")]
        of_class = functional.one_hot(classes, len(taken))
        place = of_class.cumsum(0).gather(1, classes[:, None]).flatten()
        chosen = taken[classes] + place <= self.samples_per_class
        taken += of_class[chosen].sum(0)
        return chosen.view(-1, stage.world_size)


def flat(scores: dict[str, Tensor], network: PromptedClassifier) -> Tensor:
    """Return scores of all layers as one float32 vector, in layer order."""
    return torch.cat([scores[name].detach().float().reshape(-1) for name in network.prunable()])
