"""Attention: masked in both projections, dense on the outside."""

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from reference.toy_networks import ToyViT
from vpns_lightning.sparsity import (
    CalledAttention,
    MaskedLinear,
    bake,
    get_masks,
    mask_layers,
    masked_layers,
    unmask_layers,
)

IMAGES = torch.rand(2, 3, 14, 14, generator=torch.Generator().manual_seed(1))
PROJECTIONS = ["attention.in_proj", "attention.out_proj"]


def alone(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.MultiheadAttention(8, 2, **options)).eval()


def half_masked(network: nn.Module) -> nn.Module:
    mask_layers(network)
    generator = torch.Generator().manual_seed(0)
    for mask in get_masks(network).values():
        mask.copy_(torch.rand(mask.shape, generator=generator) > 0.5)
    return network


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_both_projections_of_attention_are_masked() -> None:
    network = mask_layers(ToyViT())
    names = [name for name, _ in masked_layers(network)]
    attention = [name for name in names if name.endswith(tuple(PROJECTIONS))]
    assert attention == [f"blocks.{i}.{name}" for i in (0, 1) for name in PROJECTIONS]
    assert network.blocks[0].attention.in_proj.mask.shape == (24, 8)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("kind", ["self", "cross", "one sequence"])
def test_it_attends_as_torch_does(
    batch_first: bool, bias: bool, need_weights: bool, kind: str
) -> None:
    dense = alone(batch_first=batch_first, bias=bias)
    if bias:
        nn.init.normal_(dense[0].in_proj_bias)
        nn.init.normal_(dense[0].out_proj.bias)
    called = mask_layers(copy.deepcopy(dense))
    query = draw(5, 8) if kind == "one sequence" else draw(3, 5, 8)
    key = draw(4, 8) if kind == "one sequence" else draw(3, 7, 8) if batch_first else draw(6, 5, 8)
    if kind == "self":
        key = query
    value = key if kind != "cross" else key + 1
    for averaged in (True, False):
        options = {"need_weights": need_weights, "average_attn_weights": averaged}
        expected, weights = dense[0](query, key, value, **options)
        got, got_weights = called[0](query, key, value, **options)
        torch.testing.assert_close(got, expected)
        assert (got_weights is None) == (weights is None) == (not need_weights)
        if weights is not None:
            torch.testing.assert_close(got_weights, weights)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
@pytest.mark.parametrize(
    "which", [("padding",), ("two",), ("three",), ("padding", "three")], ids=str
)
def test_it_leaves_out_what_torch_leaves_out(
    which: str, dtype: torch.dtype, need_weights: bool
) -> None:
    dense = alone(batch_first=True).train()
    called = mask_layers(copy.deepcopy(dense))
    sequence = draw(3, 5, 8)
    left_out = {
        "padding": draw(3, 5) > 0.5,
        "two": torch.ones(5, 5).triu(1).bool(),
        "three": draw(6, 5, 5) > 1,
    }
    for mask in left_out.values():
        mask[..., 0] = False
    if dtype == torch.float32:
        left_out = {k: torch.where(m, draw(*m.shape), 0.0) for k, m in left_out.items()}
    masks = {
        "key_padding_mask": left_out["padding"] if "padding" in which else None,
        "attn_mask": next((left_out[k] for k in ("two", "three") if k in which), None),
    }
    expected, _ = dense[0](sequence, sequence, sequence, need_weights=need_weights, **masks)
    got, _ = called[0](sequence, sequence, sequence, need_weights=need_weights, **masks)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("mode", ["training", "evaluation", "no gradients"])
@pytest.mark.parametrize("layer", ["attention", "encoder layer", "encoder"])
def test_pruned_weights_of_attention_never_reach_the_output(layer: str, mode: str) -> None:
    torch.manual_seed(0)
    encoder_layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
    network: nn.Module = {
        "attention": ToyViT(),
        "encoder layer": nn.Sequential(encoder_layer),
        "encoder": nn.Sequential(nn.TransformerEncoder(encoder_layer, 2)),
    }[layer]
    half_masked(network).train(mode == "training")
    shown = IMAGES if layer == "attention" else draw(3, 5, 8)
    with torch.set_grad_enabled(mode != "no gradients"):
        expected = network(shown)
        assert len(list(masked_layers(network))) >= 4
        for _, masked in masked_layers(network):
            with torch.no_grad():
                masked.weight[~masked.mask] = torch.nan
                masked.weight.nan_to_num_(7.0)
        assert torch.equal(network(shown), expected)


def test_gradients_reach_the_score_of_every_weight_and_kept_weights_alone() -> None:
    network = half_masked(ToyViT())
    layer = network.blocks[0].attention.in_proj
    network(IMAGES).sum().backward()
    assert bool((layer.weight.grad[~layer.mask] == 0).all())
    assert bool((layer.weight.grad[layer.mask] != 0).any())
    layer.scores = nn.Parameter(layer.weight.detach().clone())
    network(IMAGES).sum().backward()
    assert bool((layer.scores.grad[~layer.mask] != 0).any())


def test_a_baked_attention_answers_as_a_masked_one() -> None:
    network = half_masked(ToyViT()).eval()
    expected = network(IMAGES)
    bake(network)
    assert torch.equal(network(IMAGES), expected)


def test_the_state_dict_is_the_dense_one_with_masks() -> None:
    keys = list(ToyViT().state_dict())
    network = mask_layers(ToyViT())
    masks = [f"{name}.mask" for name, _ in masked_layers(network)]
    assert sorted(network.state_dict()) == sorted([*keys, *masks])
    assert "blocks.0.attention.in_proj_weight" in keys


def test_a_state_dict_loads_where_it_came_from_and_into_a_dense_network() -> None:
    network = half_masked(ToyViT()).eval()
    state = load(save({k: v.contiguous() for k, v in network.state_dict().items()}))
    other = mask_layers(ToyViT(seed=1)).eval()
    other.load_state_dict(state)
    assert torch.equal(other(IMAGES), network(IMAGES))
    assert other.state_dict().keys() == network.state_dict().keys()


def test_a_state_dict_of_a_version_that_left_attention_dense_loads() -> None:
    network = half_masked(ToyViT()).eval()
    older = {
        k: v for k, v in network.state_dict().items() if "attention" not in k or "mask" not in k
    }
    other = mask_layers(ToyViT(seed=1)).eval()
    other.load_state_dict(older)
    for name, layer in masked_layers(other):
        assert bool(layer.mask.all()) == ("attention" in name), name
    assert torch.equal(
        other.blocks[0].attention.in_proj.weight, older["blocks.0.attention.in_proj_weight"]
    )
    del older["head.mask"]
    with pytest.raises(RuntimeError, match=r"head\.mask"):
        mask_layers(ToyViT()).load_state_dict(older)


def test_unmasking_gives_torchs_attention_back_with_zeros_in_place() -> None:
    network = half_masked(ToyViT()).eval()
    expected = network(IMAGES)
    mask = network.blocks[1].attention.in_proj.mask
    keys = [key for key in network.state_dict() if not key.endswith(".mask")]
    unmask_layers(network)
    attention = network.blocks[1].attention
    assert type(attention) is nn.MultiheadAttention
    assert type(attention.out_proj) is type(nn.MultiheadAttention(8, 2).out_proj)
    assert bool((attention.in_proj_weight[~mask] == 0).all())
    assert sorted(network.state_dict()) == sorted(keys)
    torch.testing.assert_close(network(IMAGES), expected)
    ToyViT().load_state_dict(network.state_dict())


def test_excluded_attention_stays_dense_and_keeps_its_keys() -> None:
    network = mask_layers(ToyViT(), exclude=["blocks.0.attention", "out_proj"])
    assert type(network.blocks[0].attention.in_proj) is nn.Linear
    assert type(network.blocks[1].attention.in_proj) is MaskedLinear
    assert type(network.blocks[1].attention.out_proj) is nn.Linear
    network.load_state_dict(network.state_dict())
    ToyViT().load_state_dict(unmask_layers(network).state_dict())


@pytest.mark.parametrize(
    "options", [{"kdim": 4, "vdim": 4}, {"add_bias_kv": True}, {"add_zero_attn": True}], ids=str
)
def test_attention_of_other_kinds_stays_as_it_is(options: dict[str, Any]) -> None:
    network = mask_layers(alone(**options))
    assert type(network[0]) is nn.MultiheadAttention
    assert list(masked_layers(network)) == []


@pytest.mark.parametrize("kind", ["pickle", "deepcopy"])
def test_masked_attention_copies(kind: str) -> None:
    network = half_masked(ToyViT()).eval()
    other = copy.deepcopy(network) if kind == "deepcopy" else pickle.loads(pickle.dumps(network))
    assert torch.equal(other(IMAGES), network(IMAGES))
    assert other.state_dict().keys() == network.state_dict().keys()
    other.load_state_dict(network.state_dict())


def test_attention_used_under_two_names_stays_one() -> None:
    network = nn.ModuleList([nn.MultiheadAttention(8, 2)])
    network.append(network[0])
    mask_layers(network)
    assert network[1] is network[0]
    assert isinstance(network[0], CalledAttention)
    unmask_layers(network)
    assert network[1] is network[0]
    assert type(network[0]) is nn.MultiheadAttention


def test_dropout_of_attention_acts_in_training_alone() -> None:
    network = mask_layers(alone(dropout=0.5, batch_first=True))
    sequence = draw(3, 5, 8)
    for need_weights, training in itertools.product((True, False), repeat=2):
        network.train(training)
        answers = [
            network[0](sequence, sequence, sequence, need_weights=need_weights)[0] for _ in (1, 2)
        ]
        assert torch.equal(*answers) == (not training)
