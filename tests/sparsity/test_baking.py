"""Baked masks: zero once, then mask gradients only."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from reference.toy_networks import ToyNet, toy_batches
from vpns_lightning.sparsity import bake, get_masks, mask_layers, masked_layers, unbake


def sparse_network() -> nn.Module:
    network = mask_layers(ToyNet(classes=4))
    generator = torch.Generator().manual_seed(0)
    for mask in get_masks(network).values():
        mask.copy_(torch.rand(mask.shape, generator=generator) > 0.7)
    return network


def train(network: nn.Module, steps: int) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    for images, labels in toy_batches(steps):
        optimizer.zero_grad()
        functional.cross_entropy(network(images), labels).backward()
        optimizer.step()


def test_eight_updates_are_bit_identical_to_masking_in_the_forward_pass() -> None:
    masked = sparse_network()
    baked = copy.deepcopy(masked)
    bake(baked)
    train(masked, 8)
    train(baked, 8)
    for (_, slow), (_, fast) in zip(masked_layers(masked), masked_layers(baked), strict=True):
        assert torch.equal(slow.mask * slow.weight, fast.weight)
    for name, value in masked.state_dict().items():
        if not name.endswith("weight") or "bn" in name:
            assert torch.equal(value, baked.state_dict()[name])


def test_baked_pruned_weights_stay_exactly_zero() -> None:
    network = sparse_network()
    bake(network)
    train(network, 4)
    for _, layer in masked_layers(network):
        assert not bool(layer.weight[~layer.mask].any())
        assert bool(layer.weight[layer.mask].all())


def test_unbaked_pruned_weights_only_decay() -> None:
    network = sparse_network()
    before = network.conv2.weight.detach().clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.5)
    images, labels = toy_batches(1)[0]
    functional.cross_entropy(network(images), labels).backward()
    optimizer.step()
    pruned = ~network.conv2.mask
    torch.testing.assert_close(network.conv2.weight[pruned], before[pruned] * 0.95)


def test_unbaking_masks_again_in_the_forward_pass() -> None:
    network = sparse_network().eval()
    bake(network)
    unbake(network)
    images = toy_batches(1)[0][0]
    expected = network(images)
    with torch.no_grad():
        for _, layer in masked_layers(network):
            layer.weight.add_(~layer.mask)
    assert torch.equal(network(images), expected)


@pytest.mark.parametrize("baked", [True, False])
def test_baking_does_not_change_the_logits(baked: bool) -> None:
    network = sparse_network().eval()
    images = toy_batches(1)[0][0]
    expected = network(images)
    bake(network)
    if not baked:
        unbake(network)
    assert torch.equal(network(images), expected)
