"""Lottery tickets: rounds, counts, and what a rewind puts back."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from pruners.test_learned_scores import new_network
from reference.toy_networks import ToyNet, toy_batches
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import IdentityMapping, PadPrompt, PromptedClassifier
from vpns_lightning.pruners import LTH
from vpns_lightning.sparsity import get_masks, masked_layers, sparsity_report

# sparsity: rounds to the nearest power of 0.8, rounds with the last one clipped
ROUNDS = {
    0.4: (2, 3),
    0.5: (3, 4),
    0.6: (4, 5),
    0.7: (5, 6),
    0.8: (7, 8),
    0.9: (10, 11),
    0.95: (13, 14),
}
LEVELS = [0, *ROUNDS]


def one_layer(weights: int) -> PromptedClassifier:
    """Return a network whose only prunable layer has weights 1, 2, ..."""
    linear = nn.Linear(weights, 1, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.arange(1.0, weights + 1))
    network = PromptedClassifier(nn.Sequential(nn.Flatten(), linear), 1, mapping=IdentityMapping())
    network.fit_mapping()
    return network


def trained(network: PromptedClassifier) -> None:
    """Move everything that training moves: parameters and batch-norm statistics."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    for images, labels in toy_batches(3):
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_two_rounds_of_ten_weights_keep_eight_then_the_six_largest() -> None:  # T-2.3
    network, pruner = one_layer(10), LTH()
    pruner.attach(network, 0.36)
    (layer,) = [layer for _, layer in masked_layers(network.backbone)]
    for kept in (8, 6):
        pruner.end_round(network)
        assert layer.mask.flatten().tolist() == [i >= 10 - kept for i in range(10)]


@pytest.mark.parametrize("sparsity", ROUNDS)
def test_the_rounds_of_the_paper_s_sparsities(sparsity: float) -> None:
    assert (LTH().rounds(sparsity), LTH(snap="clip").rounds(sparsity)) == ROUNDS[sparsity]


def test_a_power_of_four_fifths_needs_no_extra_round() -> None:
    for rounds in range(12):
        assert LTH(snap="clip").rounds(1 - 0.8**rounds) == rounds


def test_the_stage_lasts_rounds_times_the_epochs_of_one() -> None:
    assert LTH().epochs(60, 0.9) == 600
    assert LTH(epochs_per_round=3).epochs(60, 0.9) == 30
    assert LTH(epochs_per_round=3).period(60, 0.9) == 3
    assert LTH().epochs(60, 0) == 0


@pytest.mark.parametrize("sparsity", LEVELS)
def test_clipping_removes_exactly_what_is_asked(sparsity: float) -> None:
    network, pruner = new_network(), LTH(snap="clip")
    pruner.attach(network, sparsity)
    total = sparsity_report(network.backbone).total
    for _ in range(pruner.rounds(sparsity)):
        trained(network)
        pruner.end_round(network)
    pruner.finish(network, sparsity)
    kept = sparsity_report(network.backbone).kept
    assert kept == total - math.floor(round(sparsity * total, 6))


@pytest.mark.parametrize("sparsity", LEVELS)
def test_snapping_keeps_four_fifths_a_round(sparsity: float) -> None:
    network, pruner = new_network(), LTH()
    kept = sparsity_report(network.backbone).total
    for _ in range(pruner.rounds(sparsity)):
        kept -= round(0.2 * kept)
    pruner.finish(network, sparsity)
    assert sparsity_report(network.backbone).kept == kept


def test_a_rewind_restores_everything_but_the_masks() -> None:
    network, pruner = new_network(), LTH()
    pruner.attach(network, 0.5)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trained(network)
    moved = {n for n, v in network.state_dict().items() if not torch.equal(v, before[n])}
    assert {
        "backbone.conv1.weight",
        "backbone.conv2.bias",
        "backbone.bn1.weight",
        "backbone.bn1.running_mean",
        "backbone.bn2.running_var",
        "backbone.bn2.num_batches_tracked",
        "backbone.head.bias",
        "prompt.delta",
    } <= moved
    pruner.end_round(network)
    changed = {n for n, v in network.state_dict().items() if not torch.equal(v, before[n])}
    assert changed
    assert all(name.endswith(".mask") for name in changed)


def test_the_prompt_can_be_carried_over() -> None:
    network, pruner = new_network(), LTH(carry_prompt=True)
    pruner.attach(network, 0.5)
    trained(network)
    learned = network.prompt.delta.detach().clone()
    pruner.end_round(network)
    assert bool(learned.any())
    assert torch.equal(network.prompt.delta, learned)


def test_removed_weights_never_return_however_large_they_grow() -> None:
    network, pruner = new_network(), LTH()
    pruner.attach(network, 0.8)
    for _ in range(4):
        before = {name: mask.clone() for name, mask in get_masks(network.backbone).items()}
        with torch.no_grad():
            for _, layer in masked_layers(network.backbone):
                layer.weight.masked_fill_(~layer.mask, 100.0)
        pruner.end_round(network)
        for name, mask in get_masks(network.backbone).items():
            assert not bool((mask & ~before[name]).any())


def test_convolutions_alone_without_the_first_one() -> None:
    network, pruner = new_network(), LTH(conv_only_skip_stem=True)
    pruner.finish(network, 0.5)
    layers = sparsity_report(network.backbone).per_layer
    assert (layers["conv1"], layers["head"]) == (0, 0)
    assert layers["conv2"] == pytest.approx(1 - 0.8**3, abs=2e-3)


def test_a_network_whose_only_convolution_is_the_first_is_refused() -> None:
    pruner = LTH(conv_only_skip_stem=True)
    with pytest.raises(UserError, match="leaves no layer to prune"):
        pruner.finish(one_layer(10), 0.5)


def test_finishing_leaves_the_start_under_the_masks_and_forgets_it() -> None:
    network, pruner = new_network(), LTH()
    weights = copy.deepcopy(network.backbone.conv2.weight)
    pruner.attach(network, 0.5)
    trained(network)
    pruner.end_round(network)
    trained(network)
    pruner.finish(network, 0.5)
    assert torch.equal(network.backbone.conv2.weight, weights)
    assert set(pruner.state_dict()) == {"rounds_done"}
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_attaching_twice_keeps_the_first_start() -> None:
    network, pruner = new_network(), LTH()
    weights = copy.deepcopy(network.backbone.conv2.weight)
    pruner.attach(network, 0.5)
    trained(network)
    pruner.attach(network, 0.5)
    pruner.end_round(network)
    assert torch.equal(network.backbone.conv2.weight, weights)


def test_the_start_of_a_checkpoint_may_have_a_smaller_head() -> None:
    small, whole = LTH(), LTH()
    network = PromptedClassifier(ToyNet(), 4, prompt=PadPrompt(12, 2), mapping=IdentityMapping())
    whole.attach(network, 0.5)
    small.attach(new_network(), 0.5)
    whole.load_state_dict(small.state_dict())
    for name, value in small.state_dict().items():
        assert torch.equal(whole.state_dict()[name], value), name


def test_weights_that_are_not_numbers_are_refused_by_layer() -> None:
    network, pruner = new_network(), LTH()
    pruner.attach(network, 0.5)
    with torch.no_grad():
        network.backbone.conv2.weight[0, 0, 0, 0] = math.nan
    with pytest.raises(UserError, match="layer 'conv2' has scores that are NaN"):
        pruner.end_round(network)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 1.0}, r"a fraction in \(0, 1\) each round, got 1\.0"),
        ({"epochs_per_round": -1}, "epochs_per_round must be >= 0, got -1"),
        ({"snap": "closest"}, "snap must be 'nearest' or 'clip', got 'closest'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LTH(**options)


def test_a_sparsity_that_snaps_to_none_is_refused() -> None:
    with pytest.raises(UserError, match=r"sparsity 0\.05 is nearer to none"):
        LTH().epochs(1, 0.05)
