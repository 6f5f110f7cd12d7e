"""What a pruner is: six hooks, one of them abstract."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

from torch import Tensor, nn
from torch.optim import Optimizer

from vpns_lightning.base.batches import Batch
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.sparsity import get_masks, masked_layers, sparsity_report

BuildOptimizer: TypeAlias = Callable[[Iterable[Any]], Optimizer]


class StageLike(Protocol):
    """What a pruner may ask of the stage that runs it.

    Attributes:
        network: The network, not wrapped.
        passes: Forward-backward passes so far; :meth:`loss` counts its own.
        period: Epochs from one fresh schedule to the next, see :meth:`Pruner.period`.
        shuffle: Which of :attr:`Pruner.shuffles` the batch at hand is from.
    """

    network: PromptedClassifier
    passes: int
    period: int
    shuffle: str

    @property
    def current_epoch(self) -> int:
        """Return the epoch at hand, from 0."""

    @property
    def global_rank(self) -> int:
        """Return the index of this process, from 0."""

    @property
    def world_size(self) -> int:
        """Return how many processes train together."""

    def loss(self, view: str, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of one view's batch, 0-d."""

    def optimizers(self) -> Any:  # Lightning: one optimiser or a list of them
        """Return what :meth:`Pruner.optimizers` built, wrapped for mixed precision."""

    def manual_backward(self, loss: Tensor) -> None:
        """Backpropagate ``loss``, scaled where the precision needs it."""

    def reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum of ``tensor`` over all processes."""

    def progress(self) -> tuple[int, int]:
        """Return how many iterations lie before the one at hand, and how many the stage has."""

    def restart(self) -> None:
        """Build optimisers and schedulers anew, as at the start of the stage."""


def gradient_step(stage: StageLike, view: str, batch: Batch) -> None:
    """Take one optimiser step on one view's batch with the stage's only optimiser."""
    optimizer = stage.optimizers()
    loss = stage.loss(view, batch)
    optimizer.zero_grad()
    stage.manual_backward(loss)
    optimizer.step()


class Pruner(nn.Module, ABC):
    """Decides which weights survive. Knows networks and tensors; no Trainer and no config.

    The hooks run in this order: ``attach``, ``optimizers``, for every batch of every view ``step``,
    ``end_epoch`` after every epoch, ``finish``. A pruner is an ``nn.Module``, so what it remembers
    in buffers moves between devices and resumes with the stage.

    Attributes:
        done: Nothing is left to learn from this epoch's batches; equal on all processes.
        finish_passes: Forward-backward passes that :meth:`finish` took.
        image_size: Side of the data's images before prompting, px; the stage sets it before
            :meth:`attach`. None where there is no stage.
        run_seed: Seed of the run; the stage sets it before :meth:`attach`.
        levels: Layer name to its own sparsity, for layers that have one; the stage sets it before
            anything else. The sparsity that hooks are given is that of all other layers together.
        takes_levels: It heeds ``levels``.
        shuffles: Names of the independent orders in which an iteration draws batches of each view;
            ``step`` is called on each in turn. One, without a name, for most.
        trains_weights: Finding trains the weights themselves, so its optimiser is by default that
            of tuning.
        scaled_gradients: Float16's scaled gradients do no harm.
    """

    shuffles: tuple[str, ...] = ("",)
    trains_weights: bool = False
    scaled_gradients: bool = True
    finish_passes: int = 0
    image_size: int | None = None
    run_seed: int = 7
    levels: Mapping[str, float] = MappingProxyType({})
    takes_levels: bool = False

    @property
    def done(self) -> bool:
        """Return whether the rest of the epoch can be left out; it never can by default."""
        return False

    def attach(self, network: PromptedClassifier, sparsity: float) -> None:
        """Make what is learned and freeze what is not; calling it again changes nothing.

        Args:
            network: The network, its label mapping fitted.
            sparsity: Fraction of prunable weights to remove, in [0, 1).
        """

    def optimizers(self, network: PromptedClassifier, build: BuildOptimizer) -> list[Optimizer]:
        """Return the optimisers of the finding stage; an empty list if nothing is trained.

        Args:
            network: The network, after :meth:`attach`.
            build: Makes the configured optimiser from parameters or parameter groups.
        """
        return [build(parameter_groups(network))]

    def step(self, stage: StageLike, view: str, batch: Batch) -> None:
        """Learn from one batch of one view; default: one optimiser step on its loss."""
        gradient_step(stage, view, batch)

    def regularize(self, network: PromptedClassifier) -> None:
        """Change gradients just before an optimiser step, where they are unscaled."""

    def end_epoch(self, stage: StageLike) -> None:
        """Act at the end of an epoch, as iterative schedules do."""

    @abstractmethod
    def finish(self, network: PromptedClassifier, sparsity: float) -> None:
        """Write the final masks and leave a network that the tuning stage can train."""

    def epochs(self, requested: int, sparsity: float = 0.0) -> int:
        """Return the epochs that finding takes; 0 needs no data at all.

        Args:
            requested: Epochs that the stage was given.
            sparsity: Fraction of prunable weights to remove, in [0, 1).
        """
        return requested

    def period(self, requested: int, sparsity: float = 0.0) -> int:
        """Return the epochs that a learning-rate schedule spans; by default all of finding."""
        return self.epochs(requested, sparsity)

    def seen_size(self, network: PromptedClassifier) -> int | None:
        """Return the side of the images that the backbone sees, px; None where it is not known.

        The prompt's canvas, or the data's own size without a prompt.
        """
        return self.image_size if network.prompt is None else network.prompt.canvas_size

    def method(self, *, prompted: bool) -> str:
        """Return the method's name as the paper writes it."""
        name = type(self).__name__
        return f"VPNs w. {name}" if prompted else name


def parameter_groups(network: PromptedClassifier) -> list[dict[str, Any]]:
    """Return optimiser groups of all trainable parameters: the backbone's, then the prompt's.

    Groups carry a ``name`` ("backbone", "prompt") and are left out where empty.
    """
    prompt = [] if network.prompt is None else list(network.prompt.parameters())
    ours = {id(parameter) for parameter in prompt}
    rest = [p for p in network.parameters() if p.requires_grad and id(p) not in ours]
    learned = [p for p in prompt if p.requires_grad]
    groups = {"backbone": rest, "prompt": learned}
    return [{"params": params, "name": name} for name, params in groups.items() if params]


def keep_everything(network: PromptedClassifier) -> None:
    """Set every mask to ones."""
    for mask in get_masks(network.backbone).values():
        mask.fill_(True)


def thaw(network: PromptedClassifier) -> None:
    """Drop scores and make every parameter trainable again, as tuning needs it."""
    for _, layer in masked_layers(network.backbone):
        layer.scores = None
    network.requires_grad_(True)


def collapsed_layers(network: PromptedClassifier) -> list[str]:
    """Return the names of layers in which nothing is kept."""
    return sparsity_report(network.backbone).collapsed


def require_prunable(network: PromptedClassifier) -> None:
    """Refuse a network without masks.

    Raises:
        UserError: No layer can be pruned.
    """
    if not network.prunable():
        raise UserError(
            "no layer is left to prune: network.exclude matches them all, or the backbone has "
            "no plain convolution or linear layer"
        )
