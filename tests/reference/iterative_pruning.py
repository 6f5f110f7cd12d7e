"""LTH, BiP, gradual magnitude pruning and RigL restated: slow loops over plain tensors.

Each function says which paper it follows; all share the prompt of the VPNs paper.
"""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from reference.selection import keep_by_sorting
from reference.vpns_equations import cosine, first_scores, prompted, prunable_names, set_rate

Batch = tuple[Tensor, Tensor]


class Plain:
    """A pretrained network with its mapped head rows, a pad prompt, and masks of ones.

    Args:
        net: The pretrained network; copied.
        rows: Source class of each target class.
        canvas: Side S, px.
        pad: Width of the prompt's strips, px.
    """

    def __init__(self, net: nn.Module, rows: Sequence[int], *, canvas: int, pad: int) -> None:
        self.net = copy.deepcopy(net).train()
        with torch.no_grad():
            self.net.head.weight = nn.Parameter(self.net.head.weight[list(rows)])
            self.net.head.bias = nn.Parameter(self.net.head.bias[list(rows)])
        self.names = prunable_names(self.net)
        self.delta = torch.zeros(3, canvas, canvas, requires_grad=True)
        self.canvas, self.pad = canvas, pad
        self.mask = {name: torch.ones_like(self.weight(name)).bool() for name in self.names}

    def weight(self, name: str) -> Tensor:
        return self.net.get_parameter(f"{name}.weight")

    def masked(self) -> dict[str, Tensor]:
        return {name: self.mask[name].float() * self.weight(name) for name in self.names}

    def loss(self, weights: dict[str, Tensor], batch: Batch) -> Tensor:
        shown = prompted(batch[0], self.delta, self.canvas, self.pad)
        named = {f"{name}.weight": weight for name, weight in weights.items()}
        return functional.cross_entropy(functional_call(self.net, named, (shown,)), batch[1])

    def sgd(self, rate: float, decay: float) -> torch.optim.SGD:
        parameters = [*self.net.parameters(), self.delta]
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay)

    def remove(self, n_prune: int) -> None:
        """Remove weights until ``n_prune`` are gone, the smallest magnitudes next."""
        scores = [
            torch.where(self.mask[n], self.weight(n).detach().abs(), torch.tensor(-1.0))
            for n in self.names
        ]
        self.mask = dict(zip(self.names, keep_by_sorting(scores, n_prune), strict=True))


def lottery(
    plain: Plain,
    batches: Sequence[Batch],
    *,
    rounds: int,
    epochs: int,
    rate: float,
    decay: float,
    carry_prompt: bool = False,
) -> list[float]:
    """Train, remove a fifth of what remains, rewind; return the losses of all rounds.

    Frankle & Carbin, 2019 (https://arxiv.org/abs/1803.03635), section 1: iterative pruning, with
    the pretrained weights in the place of the first ones.
    """
    start = copy.deepcopy(plain.net.state_dict())
    losses = []
    for _ in range(rounds):
        optimizer = plain.sgd(rate, decay)
        for epoch in range(epochs):
            set_rate(optimizer, cosine(rate, epoch, epochs))
            for batch in batches:
                loss = plain.loss(plain.masked(), batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        sizes = [mask.numel() for mask in plain.mask.values()]
        remaining = sum(int(mask.sum()) for mask in plain.mask.values())
        plain.remove(sum(sizes) - remaining + round(remaining / 5))
        plain.net.load_state_dict(start)
        if not carry_prompt:
            with torch.no_grad():
                plain.delta.zero_()
    return losses


def bilevel(
    plain: Plain,
    pairs: Sequence[tuple[Batch, Batch]],
    *,
    n_prune: int,
    epochs: int,
    rate: float,
    weight_rate: float,
    decay: float,
    inverse_gamma: float,
    scores_first: bool = False,
) -> tuple[dict[str, Tensor], list[float]]:
    """Alternate weight steps (first of a pair) and score steps; return scores and losses.

    Zhang et al., 2022 (https://arxiv.org/abs/2210.04092): theta-step and m-step of its algorithm,
    with the implicit gradient of a lower problem without its Hessian, written for scores whose
    order makes the mask; without the implicit term its Hydra-like first-order variant.
    """
    scores = {n: first_scores(plain.weight(n).detach()) for n in plain.names}
    lower = torch.optim.SGD(
        plain.net.parameters(), lr=weight_rate, momentum=0.9, weight_decay=decay
    )
    # a large eps: a gradient of rounding size shall not become a step of full size
    upper = torch.optim.Adam([*scores.values(), plain.delta], lr=rate, eps=1e-3)
    losses: list[float] = []

    def threshold() -> None:
        magnitudes = [scores[n].abs() for n in plain.names]
        plain.mask = dict(zip(plain.names, keep_by_sorting(magnitudes, n_prune), strict=True))

    def gradients(batch: Batch) -> dict[str, Tensor]:
        """Fill all gradients; return those at the masked weights, dense."""
        masked = {n: w.detach().requires_grad_(True) for n, w in plain.masked().items()}
        loss = plain.loss(masked, batch)
        losses.append(loss.item())
        for parameter in (*plain.net.parameters(), plain.delta):
            parameter.grad = None
        loss.backward()
        return {n: z.grad for n, z in masked.items() if z.grad is not None}

    def weights_step(batch: Batch) -> None:
        for name, at_masked in gradients(batch).items():
            plain.weight(name).grad = plain.mask[name] * at_masked
        lower.step()

    def scores_step(batch: Batch) -> None:
        for n, g in gradients(batch).items():
            own = scores[n].sign() * plain.weight(n).detach() * g
            second = scores[n].sign() * plain.mask[n] * g**2
            scores[n].grad = own - inverse_gamma * second
        upper.step()
        threshold()

    threshold()
    for epoch in range(epochs):
        set_rate(upper, cosine(rate, epoch, epochs))
        set_rate(lower, cosine(weight_rate, epoch, epochs))
        for first, second in pairs:
            if scores_first:
                scores_step(second)
            weights_step(first)
            if not scores_first:
                scores_step(second)
    return scores, losses


def train(
    plain: Plain,
    batches: Sequence[Batch],
    *,
    epochs: int,
    rate: float,
    decay: float,
    update: Callable[[int, torch.optim.SGD, Batch], bool],
    after: Callable[[int], None] = lambda done: None,
) -> list[float]:
    """Train under masks; ``update`` says whether it took an iteration for itself."""
    optimizer, losses, iteration = plain.sgd(rate, decay), [], 0
    for epoch in range(epochs):
        set_rate(optimizer, cosine(rate, epoch, epochs))
        for batch in batches:
            if not update(iteration, optimizer, batch):
                loss = plain.loss(plain.masked(), batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            iteration += 1
            after(iteration)
    return losses


def gradual(
    plain: Plain,
    batches: Sequence[Batch],
    *,
    sparsity: float,
    ramp: float,
    every: int,
    epochs: int,
    rate: float,
    decay: float,
) -> list[float]:
    """Raise sparsity along the cubic ramp while training; return the losses.

    Zhu & Gupta, 2017 (https://arxiv.org/abs/1710.01878), Eq. 1 from a sparsity of zero.
    """
    total = sum(mask.numel() for mask in plain.mask.values())
    end = ramp * epochs * len(batches)

    def after(done: int) -> None:
        if done % every == 0:
            reached = sparsity if done >= end else sparsity * (1 - (1 - done / end) ** 3)
            plain.remove(math.floor(round(reached * total, 6)))

    options = {"epochs": epochs, "rate": rate, "decay": decay}
    return train(plain, batches, update=lambda *_: False, after=after, **options)  # type: ignore[arg-type]


def rigl(
    plain: Plain,
    batches: Sequence[Batch],
    counts: Sequence[int],
    *,
    every: int,
    fraction: float,
    until: float,
    epochs: int,
    rate: float,
    decay: float,
) -> list[float]:
    """Train from layers with ``counts`` weights; drop and grow now and then; return the losses.

    Evci et al., 2020 (https://arxiv.org/abs/1911.11134), algorithm 1 with the cosine of its
    section 3; no more weights grow than a layer has removed.
    """
    for name, count in zip(plain.names, counts, strict=True):
        weight = plain.weight(name)
        (plain.mask[name],) = keep_by_sorting([weight.detach().abs()], weight.numel() - count)
        with torch.no_grad():
            weight *= plain.mask[name]
    end = until * epochs * len(batches)

    def update(iteration: int, optimizer: torch.optim.SGD, batch: Batch) -> bool:
        if iteration == 0 or iteration % every or iteration >= end:
            return False
        share = fraction / 2 * (1 + math.cos(math.pi * iteration / end))
        masked = {n: w.detach().requires_grad_(True) for n, w in plain.masked().items()}
        plain.loss(masked, batch).backward()
        for name in plain.names:
            weight, gradient = plain.weight(name).detach(), masked[name].grad
            assert gradient is not None
            kept = plain.mask[name].flatten().nonzero().flatten().tolist()
            count = min(round(share * len(kept)), weight.numel() - len(kept))
            size, values, slope = weight.numel(), weight.flatten(), gradient.flatten()
            by_magnitude = sorted(kept, key=lambda i: (-abs(float(values[i])), i))
            stay = set(by_magnitude[: len(kept) - count])
            free = [i for i in range(size) if i not in stay]
            grown = sorted(free, key=lambda i: (-abs(float(slope[i])), i))[:count]
            mask = torch.zeros(size, dtype=torch.bool)
            mask[sorted(stay) + grown] = True
            fresh = [i for i in grown if i not in set(kept)]
            memory = optimizer.state[plain.weight(name)]["momentum_buffer"].view(-1)
            with torch.no_grad():
                for i in [*fresh, *(i for i in range(size) if not mask[i])]:
                    memory[i] = 0
                    plain.weight(name).view(-1)[i] = 0
            plain.mask[name] = mask.reshape(weight.shape)
        return True

    return train(plain, batches, update=update, epochs=epochs, rate=rate, decay=decay)
