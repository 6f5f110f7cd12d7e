"""Masks as data: set, refused, counted, hashed."""

import pytest
import torch

from reference.toy_networks import ToyNet
from vpns_lightning.base.errors import UserError
from vpns_lightning.sparsity import (
    get_masks,
    mask_layers,
    names_hash,
    set_masks,
    sparsity_report,
    tensors_hash,
)


def new_masks() -> dict[str, torch.Tensor]:
    masks = get_masks(mask_layers(ToyNet()))
    return {name: torch.rand(mask.shape) > 0.5 for name, mask in masks.items()}


def test_masks_are_copied_into_the_network() -> None:
    network, masks = mask_layers(ToyNet()), new_masks()
    set_masks(network, masks)
    for name, mask in get_masks(network).items():
        assert torch.equal(mask, masks[name])
        assert mask.data_ptr() != masks[name].data_ptr()


def test_a_missing_layer_is_named() -> None:
    masks = new_masks()
    del masks["conv2"]
    with pytest.raises(UserError, match="masks lack layer 'conv2'"):
        set_masks(mask_layers(ToyNet()), masks)


def test_an_unknown_layer_is_named() -> None:
    with pytest.raises(UserError, match="network lacks layer 'conv9'"):
        set_masks(mask_layers(ToyNet()), new_masks() | {"conv9": torch.ones(1, dtype=torch.bool)})


@pytest.mark.parametrize("shape", [(8, 8, 3, 1), (1, 8, 3, 3), (8, 8, 9)])
def test_a_wrong_shape_is_named_even_if_it_would_broadcast(shape: tuple[int, ...]) -> None:
    masks = new_masks() | {"conv2": torch.ones(shape, dtype=torch.bool)}
    with pytest.raises(UserError, match=r"'conv2' needs bool \(8, 8, 3, 3\), got"):
        set_masks(mask_layers(ToyNet()), masks)


def test_a_wrong_dtype_is_named() -> None:
    masks = new_masks() | {"head": torch.ones(10, 8)}
    with pytest.raises(UserError, match=r"'head' needs bool .* got torch\.float32"):
        set_masks(mask_layers(ToyNet()), masks)


def test_refused_masks_change_nothing() -> None:
    network, masks = mask_layers(ToyNet()), new_masks()
    masks["head"] = masks["head"].float()
    with pytest.raises(UserError):
        set_masks(network, masks)
    assert all(bool(mask.all()) for mask in get_masks(network).values())


def test_the_report_counts_weights_and_collapsed_layers() -> None:
    network = mask_layers(ToyNet())
    network.conv1.mask.fill_(False)
    network.head.mask[:5] = False
    report = sparsity_report(network)
    assert report.total == 216 + 576 + 80
    assert report.kept == 576 + 40
    assert report.sparsity == pytest.approx(256 / 872)
    assert report.per_layer == {"conv1": 1.0, "conv2": 0.0, "head": 0.5}
    assert report.collapsed == ["conv1"]


def test_the_hash_sees_names_types_shapes_and_values() -> None:
    base = torch.arange(4.0)
    variants = [
        [("a", base)],
        [("b", base)],
        [("a", base.double())],
        [("a", base.view(2, 2))],
        [("a", base + 1)],
        [("a", base), ("a", base)],
    ]
    assert len({tensors_hash(variant) for variant in variants}) == len(variants)
    assert tensors_hash(variants[0]) == tensors_hash([("a", base.clone())])


def test_the_hash_ignores_the_memory_format() -> None:
    mask = torch.rand(4, 3, 2, 2) > 0.5
    moved = mask.to(memory_format=torch.channels_last)
    assert tensors_hash([("mask", mask)]) == tensors_hash([("mask", moved)])


def test_networks_of_other_layers_have_other_name_hashes() -> None:
    same = {names_hash(mask_layers(ToyNet(seed=seed))) for seed in (0, 1)}
    other = names_hash(mask_layers(ToyNet(classes=9)))
    assert len(same) == 1
    assert other not in same
