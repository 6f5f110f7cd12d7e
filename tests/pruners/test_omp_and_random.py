"""Pruners that look at the weights alone, or not even at those."""

import pytest
import torch
from torch import nn

from pruners.scoring_loop import new_network
from reference.saliency_methods import erk
from reference.selection import keep_by_sorting
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import IdentityMapping, PromptedClassifier
from vpns_lightning.pruners import OMP, Random
from vpns_lightning.pruners.budgets import apportion


class Pair(nn.Module):
    """The convolution (8, 4, 3, 3) and the classifier (10, 8) of the hand-worked layouts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, bias=False)
        self.fc = nn.Linear(8, 10)


def pair() -> PromptedClassifier:
    return PromptedClassifier(Pair(), 10, mapping=IdentityMapping())


@pytest.mark.parametrize(
    ("sparsity", "fractions", "counts"),
    [(0.75, (0.159722, 0.575), (46, 46)), (0.5, (0.361111, 1.0), (104, 80))],
)
def test_the_hand_worked_layouts(
    sparsity: float, fractions: tuple[float, float], counts: tuple[int, int]
) -> None:  # T-2.1
    network, pruner = pair(), Random()
    found = pruner.fractions(network, sum(counts))
    assert (found["conv"], found["fc"]) == pytest.approx(fractions, abs=1e-6)
    masks = pruner.masks(network, sparsity)
    assert (int(masks["conv"].sum()), int(masks["fc"].sum())) == counts


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
def test_kernel_budgets_are_those_of_a_bisection(fraction: float) -> None:
    network = new_network()
    shapes = {name: tuple(weight.shape) for name, weight in network.prunable().items()}
    total = sum(weight.numel() for weight in network.prunable().values())
    found = Random().fractions(network, round(fraction * total))
    expected = erk(list(shapes.values()), round(fraction * total) / total)
    assert [found[name] for name in shapes] == pytest.approx(expected, abs=1e-9)


def test_er_ignores_kernel_sizes() -> None:
    found = Random(layout="er").fractions(pair(), 92)
    # raw (8+4)/32 and (10+8)/80, weighted 108 and 18: a factor of 92 / 126
    assert found == pytest.approx({"conv": 92 / 126 * 0.375, "fc": 92 / 126 * 0.225})


def test_uniform_keeps_the_same_fraction_everywhere() -> None:
    assert set(Random(layout="uniform").fractions(pair(), 92).values()) == {0.25}


def test_erk_plus_keeps_the_classifier() -> None:
    masks = Random(layout="erk_plus").masks(pair(), 0.75)
    assert (int(masks["conv"].sum()), int(masks["fc"].sum())) == (12, 80)


def test_uniform_plus_keeps_the_first_layer_and_a_fifth_of_the_classifier() -> None:
    network = new_network()  # 216 + 576 + 80 weights
    masks = Random(layout="uniform_plus").masks(network, 0.7)
    # the head has 4 of ToyNet's 10 rows
    heads = sum(weight.numel() for name, weight in network.prunable().items() if name == "head")
    total = 216 + 576 + heads
    kept = [int(mask.sum()) for mask in masks.values()]
    assert sum(kept) == total - int(0.7 * total)
    assert kept[0] == 216
    assert kept[2] == pytest.approx(heads * sum(kept) / total, abs=1)
    fractions = Random(layout="uniform_plus").fractions(network, 240)
    assert fractions["head"] == pytest.approx(max(0.2, 240 / total))


def test_a_layout_that_needs_more_than_there_is_says_what_to_do() -> None:
    with pytest.raises(UserError, match=r"keeps 80 weights of 'fc', but only 37 .* lower sparsity"):
        Random(layout="erk_plus").masks(pair(), 0.9)
    with pytest.raises(UserError, match="of 'conv1' and 'head'"):
        Random(layout="uniform_plus").masks(new_network(), 0.95)


def test_the_seed_decides_the_positions_and_not_the_budgets() -> None:
    one, other = Random(seed=1).masks(pair(), 0.5), Random(seed=2).masks(pair(), 0.5)
    assert not torch.equal(one["conv"], other["conv"])
    assert one["conv"].sum() == other["conv"].sum()


def test_positions_are_spread_over_the_whole_layer() -> None:
    kept = sum(Random(seed=seed).masks(pair(), 0.75)["conv"].double() for seed in range(200)) / 200
    assert float(kept.min()) > 0.05
    assert float(kept.max()) < 0.35


def test_largest_remainders_are_rounded_up() -> None:
    assert apportion([1.2, 2.7, 0.7, 3.4], 8).tolist() == [1, 3, 1, 3]
    assert apportion([1.5, 1.5, 1.0], 4).tolist() == [2, 1, 1]


def test_omp_keeps_the_largest_magnitudes() -> None:
    network = new_network()
    masks = OMP().masks(network, 0.5)
    weights = [weight.detach() for weight in network.prunable().values()]
    expected = keep_by_sorting(
        [weight.abs() for weight in weights], sum(map(torch.numel, weights)) // 2
    )
    for mask, reference in zip(masks.values(), expected, strict=True):
        assert torch.equal(mask, reference)


def test_omp_breaks_ties_by_index() -> None:  # T-2
    backbone = nn.Sequential(nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        backbone[0].weight.copy_(torch.tensor([[1.0, 3.0, -1.0]]))
    network = PromptedClassifier(backbone, 1, mapping=IdentityMapping())
    assert OMP().masks(network, 2 / 3)["0"].tolist() == [[False, True, False]]
    assert OMP().masks(network, 1 / 3)["0"].tolist() == [[True, True, False]]


def test_layers_can_be_ranked_each_by_itself() -> None:
    network = new_network()
    masks = OMP(scope="layer").masks(network, 0.75)
    assert [float(mask.double().mean()) for mask in masks.values()] == [0.25] * 3
