"""Gradual magnitude pruning and RigL: the ramp, the densities, and what moves."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruners.test_learned_scores import new_network
from reference.toy_networks import toy_batches
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners import GradualMagnitude, Pruner, RigL
from vpns_lightning.pruners.base import parameter_groups
from vpns_lightning.pruners.budgets import erdos_renyi_kernel
from vpns_lightning.pruners.rigl import move
from vpns_lightning.sparsity import MaskedLinear, get_masks, masked_layers, sparsity_report

LEVELS = [0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]


class Iterations:
    """The stage, as a plain loop of a known length."""

    shuffle = ""
    global_rank = 0

    def __init__(self, pruner: Pruner, sparsity: float, total: int) -> None:
        self.network, self.pruner, self.total, self.done = new_network(), pruner, total, 0
        pruner.attach(self.network, sparsity)
        self.optimizer = torch.optim.SGD(
            parameter_groups(self.network), lr=0.1, momentum=0.9, weight_decay=0.01
        )

    def progress(self) -> tuple[int, int]:
        return self.done, self.total

    def loss(self, view: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer

    def manual_backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> dict[str, Tensor]:
        """Take one iteration; return copies of the masks after it."""
        self.pruner.step(self, "prompted", toy_batches(1, seed=self.done)[0])
        self.done += 1
        masks = get_masks(self.network.backbone)
        return {name: mask.clone() for name, mask in masks.items()}


def kept(network: PromptedClassifier) -> int:
    return sparsity_report(network.backbone).kept


def exact(network: PromptedClassifier, sparsity: float) -> int:
    total = sparsity_report(network.backbone).total
    return total - math.floor(round(sparsity * total, 6))


def test_a_ramp_that_would_never_act_is_scaled_with_the_stage() -> None:
    loop = Iterations(GradualMagnitude(every=100), 0.8, total=40)
    counts = []
    with pytest.warns(UserWarning, match=r"every=100 nothing .* 40 iterations: every 3 instead"):
        loop.step()
    for _ in range(39):
        loop.step()
        counts.append(kept(loop.network))
    # a tenth of the ramp of 30 iterations: ten removals
    assert len(set(counts)) == 1 + 10
    assert counts[-1] == exact(loop.network, 0.8)


def test_a_topology_that_would_never_move_is_scaled_with_the_stage() -> None:
    loop = Iterations(RigL(every=100), 0.7, total=40)
    with pytest.warns(UserWarning, match="every=100 .* never .* 40 iterations: every 3 instead"):
        before = loop.step()
    moved = 0
    for _ in range(39):
        after = loop.step()
        moved += any(not torch.equal(after[name], before[name]) for name in after)
        before = after
    assert moved == 9  # before iterations 3, 6, ... 27


@pytest.mark.parametrize("pruner", [GradualMagnitude(every=29), RigL(every=20)])
def test_a_schedule_that_acts_is_left_as_it_is(pruner: Pruner) -> None:
    loop = Iterations(pruner, 0.8, total=40)
    before, moved = loop.step(), []
    for iteration in range(1, 40):
        after = loop.step()
        if any(not torch.equal(after[name], before[name]) for name in after):
            moved.append(iteration)
        before = after
    # a removal ends the 29th iteration, an update comes in place of the 21st
    assert moved == ([28] if isinstance(pruner, GradualMagnitude) else [20])


def test_a_stage_too_short_for_any_topology_says_so() -> None:
    loop = Iterations(RigL(), 0.7, total=1)
    with pytest.warns(UserWarning, match=r"topology would never move .* too short for any"):
        loop.step()


@pytest.mark.parametrize("method", [GradualMagnitude, RigL])
def test_a_schedule_is_scaled_silently_on_all_processes_but_the_first(
    method: type[Pruner],
) -> None:
    loop = Iterations(method(), 0.7, total=20)
    loop.global_rank = 1
    loop.step()  # warnings are errors here


def test_dense_layers_move_only_what_has_room() -> None:
    layer = MaskedLinear.from_dense(nn.Linear(10, 1, bias=False))
    with torch.no_grad():
        layer.mask[0, 0] = False
        layer.weight.mul_(layer.mask)
    before = layer.weight.detach().clone()
    # density 0.9 is above 1 / (1 + 0.3): of nine weights one can go, not three
    move(layer, torch.ones(1, 10), 0.3)
    smallest = before.abs().masked_fill(before == 0, 9).argmin()
    assert int(layer.mask.sum()) == 9
    assert int((layer.weight != before).sum()) <= 1
    assert bool(layer.mask[0, 0]) != bool(layer.mask[0, smallest])


def test_the_cubic_ramp_by_hand() -> None:
    pruner = GradualMagnitude(ramp=0.5)
    pruner.attach(new_network(), 0.8)
    # half-way up the ramp 7/8 of the sparsity are reached
    reached = [pruner.sparsity_after(t, 40) for t in (0, 10, 20, 40)]
    assert reached == pytest.approx([0, 0.7, 0.8, 0.8])


@pytest.mark.parametrize("sparsity", LEVELS)
def test_the_ramp_ends_at_exactly_the_requested_count(sparsity: float) -> None:
    loop = Iterations(GradualMagnitude(every=1), sparsity, total=8)
    counts = []
    for _ in range(8):
        loop.step()
        counts.append(kept(loop.network))
    expected = exact(loop.network, sparsity)
    assert counts == sorted(counts, reverse=True)
    assert counts[5:] == [expected] * 3
    loop.pruner.finish(loop.network, sparsity)
    assert kept(loop.network) == expected


def test_what_the_ramp_removed_never_returns() -> None:
    loop = Iterations(GradualMagnitude(every=2), 0.9, total=12)
    before = loop.step()
    for _ in range(11):
        with torch.no_grad():
            for _, layer in masked_layers(loop.network.backbone):
                layer.weight.masked_fill_(~layer.mask, 100.0)
        after = loop.step()
        assert not any(bool((after[name] & ~before[name]).any()) for name in after)
        before = after


def test_a_ramp_cut_short_is_finished_at_the_end() -> None:
    network, pruner = new_network(), GradualMagnitude()
    pruner.attach(network, 0.8)
    pruner.finish(network, 0.8)
    assert kept(network) == exact(network, 0.8)


def test_erdos_renyi_densities_by_hand() -> None:
    # sums of dimensions 4 and 8, sizes 4 and 16: ten weights are shared 1 : 2
    assert erdos_renyi_kernel([(2, 2), (4, 4)], 10) == [3, 7]
    # sizes 4 and 16 again, but 3 / 4 of all: the small layer is full, the rest goes to the other
    assert erdos_renyi_kernel([(2, 2), (4, 4)], 15) == [4, 11]
    assert erdos_renyi_kernel([(2, 2), (4, 4)], 20) == [4, 16]


@pytest.mark.parametrize("n_keep", [0, 1, 50, 333, 600, 822, 823, 824])
def test_erdos_renyi_counts_add_up(n_keep: int) -> None:
    shapes = [(8, 3, 3, 3), (8, 8, 3, 3), (4, 8)]
    counts = erdos_renyi_kernel(shapes, n_keep)
    assert sum(counts) == n_keep
    assert all(0 <= count <= math.prod(s) for count, s in zip(counts, shapes, strict=True))


@pytest.mark.parametrize("sparsity", LEVELS)
def test_every_iteration_of_rigl_keeps_exactly_the_requested_count(sparsity: float) -> None:
    loop = Iterations(RigL(every=2), sparsity, total=8)
    first = {n: int(m.sum()) for n, m in get_masks(loop.network.backbone).items()}
    assert kept(loop.network) == exact(loop.network, sparsity)
    for _ in range(8):
        now = {name: int(mask.sum()) for name, mask in loop.step().items()}
        assert now == first
    loop.pruner.finish(loop.network, sparsity)
    assert kept(loop.network) == exact(loop.network, sparsity)


def test_topology_moves_at_updates_alone_and_removed_weights_are_zero() -> None:
    loop = Iterations(RigL(every=3, until=0.75), 0.7, total=12)
    before = {name: mask.clone() for name, mask in get_masks(loop.network.backbone).items()}
    moved = []
    for _ in range(12):
        after = loop.step()
        moved.append(any(not torch.equal(after[name], before[name]) for name in after))
        before = after
        for _, layer in masked_layers(loop.network.backbone):
            assert not bool(layer.weight[~layer.mask].any())
    # iteration 9 of 12 is past three quarters
    assert [i for i, change in enumerate(moved) if change] == [3, 6]


def test_a_drop_and_growth_by_hand() -> None:
    layer = MaskedLinear.from_dense(nn.Linear(5, 1, bias=False))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, -1.0, 0.5, 0.0, 0.0]]))
        layer.mask.copy_(torch.tensor([[True, True, True, False, False]]))
    # two of three go: -1 and 0.5; of all that is not kept, the last and -1 have the steepest slopes
    new = move(layer, torch.tensor([[9.0, 4.0, 0.1, 0.2, -5.0]]), 2 / 3)
    assert layer.mask.tolist() == [[True, True, False, False, True]]
    assert layer.weight.tolist() == [[3.0, -1.0, 0.0, 0.0, 0.0]]
    assert new.tolist() == [[False, False, False, False, True]]


def test_the_moving_fraction_follows_a_cosine() -> None:
    pruner = RigL(fraction=0.3, until=0.5)
    moving = [pruner.moving(t, 80) for t in (0, 20, 40, 79)]
    assert moving == pytest.approx([0.3, 0.15, 0, 0])


def test_new_weights_start_without_momentum() -> None:
    loop = Iterations(RigL(every=2, fraction=1.0), 0.5, total=8)
    before = loop.step()
    loop.step()
    after = loop.step()
    for name, layer in masked_layers(loop.network.backbone):
        fresh = after[name] & ~before[name]
        memory = loop.optimizer.state[layer.weight]["momentum_buffer"]
        assert not bool(memory[fresh].any())
        assert bool(memory[after[name] & before[name]].any())


@pytest.mark.parametrize("pruner", [GradualMagnitude(), RigL()])
def test_attaching_twice_changes_nothing(pruner: Pruner) -> None:
    loop = Iterations(pruner, 0.5, total=4)
    pruner.every = 1
    loop.step()
    before = {name: value.clone() for name, value in loop.network.state_dict().items()}
    pruner.attach(loop.network, 0.5)
    assert all(torch.equal(v, before[n]) for n, v in loop.network.state_dict().items())


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (GradualMagnitude, {"ramp": 0}, r"ramp is a fraction .* in \(0, 1\], got 0"),
        (GradualMagnitude, {"every": 0}, "every >= 1 iterations, got every=0"),
        (RigL, {"every": 0}, "every >= 1 iterations, got every=0"),
        (RigL, {"fraction": 1.5}, r"must lie in \[0, 1\], got 1\.5"),
        (RigL, {"until": 0}, r"until is a fraction .* in \(0, 1\], got 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    method: type[Pruner], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        method(**options)


@pytest.mark.parametrize("method", [GradualMagnitude, RigL])
def test_a_network_with_nothing_to_prune_is_refused(method: type[Pruner]) -> None:
    with pytest.raises(UserError, match="no layer is left to prune"):
        method().attach(PromptedClassifier(nn.Linear(3, 4), 4, exclude=[".*"]), 0.5)
