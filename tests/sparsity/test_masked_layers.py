"""Masked layers: dense on the outside, masked within."""

import copy
import pickle

import pytest
import torch
from torch import nn

from reference.toy_networks import ToyNet
from vpns_lightning.sparsity import (
    MaskedConv2d,
    MaskedLinear,
    get_masks,
    mask_layers,
    masked_layers,
    unmask_layers,
)

CONVOLUTIONS = [
    nn.Conv2d(4, 6, 3),
    nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
    nn.Conv2d(4, 8, (1, 3), padding=(0, 1), groups=2),
    nn.Conv2d(4, 4, 3, dilation=2, padding="same", padding_mode="reflect"),
]
IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def half_masked(seed: int = 0) -> nn.Module:
    """Return a toy network in evaluation mode with about half of its weights pruned."""
    network = mask_layers(ToyNet(seed=seed)).eval()
    generator = torch.Generator().manual_seed(seed)
    for mask in get_masks(network).values():
        mask.copy_(torch.rand(mask.shape, generator=generator) > 0.5)
    return network


@pytest.mark.parametrize("dense", CONVOLUTIONS)
def test_a_masked_convolution_shares_parameters_and_gives_equal_outputs(dense: nn.Conv2d) -> None:
    masked = MaskedConv2d.from_dense(dense)
    images = torch.rand(2, 4, 9, 9)
    assert masked.weight is dense.weight
    assert masked.bias is dense.bias
    assert torch.equal(masked(images), dense(images))


@pytest.mark.parametrize("bias", [True, False])
def test_a_masked_linear_shares_parameters_and_gives_equal_outputs(bias: bool) -> None:
    dense = nn.Linear(5, 3, bias=bias)
    masked = MaskedLinear.from_dense(dense)
    inputs = torch.rand(4, 5)
    assert masked.weight is dense.weight
    assert masked.bias is dense.bias
    assert torch.equal(masked(inputs), dense(inputs))


def test_a_masked_layer_multiplies_its_weight_by_its_mask() -> None:
    layer = MaskedLinear.from_dense(nn.Linear(2, 2, bias=False))
    layer.mask.copy_(torch.tensor([[True, False], [False, True]]))
    expected = torch.diag(layer.weight.detach().diag())
    assert torch.equal(layer.effective_weight(), expected)


def test_the_state_dict_is_the_dense_one_with_masks() -> None:
    dense = ToyNet()
    keys = list(dense.state_dict())
    network = mask_layers(dense)
    masks = [f"{name}.mask" for name, _ in masked_layers(network)]
    assert masks == ["conv1.mask", "conv2.mask", "head.mask"]
    assert sorted(network.state_dict()) == sorted([*keys, *masks])


def test_masking_twice_changes_nothing() -> None:
    network = mask_layers(ToyNet())
    layers = dict(masked_layers(network))
    mask_layers(network)
    assert dict(masked_layers(network)) == layers


def test_excluded_layers_stay_dense() -> None:
    network = mask_layers(ToyNet(), exclude=["^conv1$", "he.d"])
    assert [name for name, _ in masked_layers(network)] == ["conv2"]
    assert type(network.conv1) is nn.Conv2d
    assert type(network.head) is nn.Linear


def test_subclasses_of_linear_stay_as_they_are() -> None:
    attention = mask_layers(nn.MultiheadAttention(4, 2))
    assert list(masked_layers(attention)) == []


@pytest.mark.parametrize("kind", ["pickle", "deepcopy"])
def test_a_masked_network_copies_with_masks_and_outputs(kind: str) -> None:
    network = half_masked()
    network.conv1.scores = nn.Parameter(torch.ones_like(network.conv1.weight))
    other = copy.deepcopy(network) if kind == "deepcopy" else pickle.loads(pickle.dumps(network))
    assert torch.equal(other(IMAGES), network(IMAGES))
    assert torch.equal(other.conv1.scores, network.conv1.scores)
    other.conv2.mask.fill_(False)
    assert bool(network.conv2.mask.any())


def test_unmasking_gives_plain_layers_and_equal_outputs() -> None:
    network = half_masked()
    expected = network(IMAGES)
    keys = [key for key in network.state_dict() if not key.endswith(".mask")]
    unmask_layers(network)
    assert torch.equal(network(IMAGES), expected)
    assert sorted(network.state_dict()) == sorted(keys)
    assert {type(network.conv1), type(network.conv2)} == {nn.Conv2d}
    assert type(network.head) is nn.Linear


@pytest.mark.parametrize("dense", CONVOLUTIONS)
def test_unmasking_restores_every_option_of_a_convolution(dense: nn.Conv2d) -> None:
    images = torch.rand(2, 4, 9, 9)
    expected = dense(images)
    network = unmask_layers(mask_layers(nn.Sequential(copy.deepcopy(dense))))
    assert type(network[0]) is nn.Conv2d
    assert repr(network[0]) == repr(dense)
    assert torch.equal(network(images), expected)


def test_perturbing_pruned_weights_never_changes_the_logits() -> None:
    network = half_masked()
    expected = network(IMAGES)
    with torch.no_grad():
        for _, layer in masked_layers(network):
            layer.weight[~layer.mask] += torch.randn_like(layer.weight[~layer.mask])
    assert torch.equal(network(IMAGES), expected)


def test_a_mask_is_bool_and_follows_the_memory_format() -> None:
    network = mask_layers(ToyNet()).to(memory_format=torch.channels_last)
    assert network.conv2.mask.dtype == torch.bool
    assert network.conv2.mask.is_contiguous(memory_format=torch.channels_last)


def test_a_layer_used_under_two_names_is_masked_under_both() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    network.append(network[0])
    mask_layers(network)
    assert network[2] is network[0]
