"""LTH: iterative magnitude pruning with rewinding (https://arxiv.org/abs/1803.03635)."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners.base import Pruner, StageLike, keep_everything, require_prunable, thaw
from vpns_lightning.sparsity import (
    MaskedConv2d,
    MaskedLayer,
    get_masks,
    masked_layers,
    prune_count,
    ranked_together,
    select,
    set_masks,
)

Snap = Literal["nearest", "clip"]


class LTH(Pruner):
    """Lottery tickets: train, remove 20 % of what remains, rewind, again (Frankle & Carbin, 2019).

    Round k trains the network at density ``0.8 ** k``, round 0 dense, and then removes the smallest
    ``|weight|`` of all layers together. What was removed stays removed. After every round weights,
    biases, batch-norm statistics, head and prompt are back at their pretrained start (Chen et al.,
    2021, https://arxiv.org/abs/2012.06908), and optimiser and schedule begin anew. The tuning stage
    is the last training, so a run costs ``(rounds + 1)`` times the epochs of one.

    Args:
        epochs_per_round: Epochs of each round; those of the finding stage where None.
        fraction: Fraction of the remaining weights that a round removes, in (0, 1).
        snap: ``"nearest"`` ends at the density ``0.8 ** rounds`` closest to the one asked for;
            ``"clip"`` takes one more round where needed and ends exactly at it.
        carry_prompt: Keep what the prompt has learned over a rewind.
        conv_only_skip_stem: Prune convolutions alone, without the first one, as the code of Chen et
            al. does; the sparsity asked for is then that of these layers.

    Raises:
        UserError: ``fraction`` or ``epochs_per_round`` is out of range, or ``snap`` is unknown.
    """

    trains_weights = True
    takes_levels = True
    rounds_done: Tensor

    def __init__(
        self,
        *,
        epochs_per_round: int | None = None,
        fraction: float = 0.2,
        snap: Snap = "nearest",
        carry_prompt: bool = False,
        conv_only_skip_stem: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < fraction < 1:
            raise UserError(f"LTH removes a fraction in (0, 1) each round, got {fraction}")
        if epochs_per_round is not None and epochs_per_round < 0:
            raise UserError(f"epochs_per_round must be >= 0, got {epochs_per_round}")
        if snap not in ("nearest", "clip"):
            raise UserError(f"snap must be 'nearest' or 'clip', got {snap!r}")
        self.epochs_per_round = epochs_per_round
        self.fraction = fraction
        self.snap: Snap = snap
        self.carry_prompt = carry_prompt
        self.conv_only_skip_stem = conv_only_skip_stem
        self.sparsity = 0.0
        self.start = _Snapshot()
        self.register_buffer("rounds_done", torch.zeros((), dtype=torch.int64))

    def rounds(self, sparsity: float, snap: Snap | None = None) -> int:
        """Return how many times weights are removed: ``log(density) / log(0.8)``, snapped.

        Args:
            sparsity: To be reached.
            snap: In place of the pruner's own.

        Raises:
            UserError: The nearest density is that of the dense network, though a sparsity is asked.
        """
        # rounding first: log(.64) / log(.8) is a hair above 2
        exact = round(math.log1p(-sparsity) / math.log1p(-self.fraction), 6)
        rounds = math.ceil(exact) if (snap or self.snap) == "clip" else round(exact)
        if sparsity > 0 and rounds == 0:
            raise UserError(
                f"sparsity {sparsity} is nearer to none than to one round of {self.fraction:g}: "
                "use snap: clip, or a higher sparsity"
            )
        return rounds

    def all_rounds(self, sparsity: float) -> int:
        """Return the rounds until every layer is done; those with a level end exactly at it."""
        own = [self.rounds(level, "clip") for level in self.levels.values()]
        return max([self.rounds(sparsity), *own])

    def epochs(self, requested: int, sparsity: float = 0.0) -> int:
        """Return rounds times epochs of a round."""
        return self.all_rounds(sparsity) * self.period(requested, sparsity)

    def period(self, requested: int, sparsity: float = 0.0) -> int:
        """Return the epochs of one round."""
        return requested if self.epochs_per_round is None else self.epochs_per_round

    def attach(self, network: PromptedClassifier, sparsity: float) -> None:
        """Remember the state to rewind to and start dense.

        Raises:
            UserError: No layer can be pruned.
        """
        require_prunable(network)
        self.sparsity = sparsity
        if self.start.taken:
            return
        thaw(network)
        keep_everything(network)
        self.rounds_done.zero_()
        self.start.take(network)

    def end_epoch(self, stage: StageLike) -> None:
        """After the last epoch of a round: prune, rewind, begin optimiser and schedule anew."""
        if (stage.current_epoch + 1) % stage.period == 0:
            self.end_round(stage.network)
            stage.restart()

    def end_round(self, network: PromptedClassifier) -> None:
        """Remove the smallest of the remaining weights and rewind the rest.

        Raises:
            UserError: A weight is NaN or infinite; the layer is named.
        """
        layers = self._ranked(network)
        for names, level in ranked_together(layers, self.sparsity, levels=self.levels):
            snap: Snap = "clip" if names[0] in self.levels else self.snap
            if int(self.rounds_done) < self.rounds(level, snap):
                self._prune(network, {name: layers[name] for name in names}, level, snap)
        self.start.restore(network, prompt=not self.carry_prompt)
        self.rounds_done += 1

    def _prune(
        self,
        network: PromptedClassifier,
        layers: Mapping[str, MaskedLayer],
        sparsity: float,
        snap: Snap,
    ) -> None:
        """Remove the smallest of the remaining weights of some layers, as one round does."""
        alive = {name: layer.mask for name, layer in layers.items()}
        scores = {name: layer.weight.detach().abs() for name, layer in layers.items()}
        total = sum(mask.numel() for mask in alive.values())
        kept = sum(int(mask.sum()) for mask in alive.values())
        n_prune = total - kept + round(self.fraction * kept)
        if snap == "clip":
            # the last round goes all the way; rounding takes no earlier one past it
            asked = prune_count(total, sparsity)
            last = int(self.rounds_done) + 1 == self.rounds(sparsity, snap)
            n_prune = asked if last else min(n_prune, asked)
        chosen = select(scores, n_prune / total, alive=alive)
        set_masks(network.backbone, {**get_masks(network.backbone), **chosen})

    def finish(self, network: PromptedClassifier, sparsity: float) -> None:
        """Take the rounds that no epoch was there for, and leave the rewound network."""
        self.attach(network, sparsity)
        while int(self.rounds_done) < self.all_rounds(sparsity):
            self.end_round(network)
        self.start.drop()
        thaw(network)

    def _ranked(self, network: PromptedClassifier) -> dict[str, MaskedLayer]:
        layers = dict(masked_layers(network.backbone))
        if self.conv_only_skip_stem:
            convolutions = [n for n, layer in layers.items() if isinstance(layer, MaskedConv2d)]
            names = [n for n in layers if n in convolutions[1:] or n in self.levels]
            layers = {name: layers[name] for name in names}
            if not layers:
                raise UserError(
                    "conv_only_skip_stem leaves no layer to prune: the backbone has "
                    f"{len(convolutions)} prunable convolution(s); set it to false"
                )
        return layers


class _Snapshot(nn.Module):
    """The state of a network, without its masks, as buffers that move and resume."""

    @property
    def taken(self) -> bool:
        """Whether there is a state."""
        return bool(self._buffers)

    def take(self, network: PromptedClassifier) -> None:
        """Copy the state of backbone and prompt."""
        masks = {f"backbone.{name}.mask" for name in get_masks(network.backbone)}
        for name, value in network.state_dict().items():
            if name.startswith(("backbone.", "prompt.")) and name not in masks:
                self.register_buffer(_key(name), value.detach().clone())

    @torch.no_grad()
    def restore(self, network: PromptedClassifier, *, prompt: bool) -> None:
        """Copy the state back, the prompt's if wanted."""
        for name, value in network.state_dict().items():
            kept = self._buffers.get(_key(name))
            if kept is not None and (prompt or not name.startswith("prompt.")):
                value.copy_(kept)

    def drop(self) -> None:
        """Forget the state."""
        self._buffers.clear()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take the shapes of the checkpoint: the head may not be sliced yet in a new process."""
        for name, value in state_dict.items():
            key = name.removeprefix(prefix)
            own = self._buffers.get(key)
            if key != name and own is not None:
                self._buffers[key] = torch.empty_like(value, device=own.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _key(name: str) -> str:
    # a buffer's name may hold no dot
    return name.replace(".", "/")
