"""From source classes to target classes."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from reference.toy_networks import ToyNet, toy_batches
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import (
    FrequencyMapping,
    IdentityMapping,
    IterativeMapping,
    LabelMapping,
    LinearHead,
    PadPrompt,
    PromptedClassifier,
    RandomMapping,
    greedy_assignment,
)

IMAGES = toy_batches(1)[0][0]


def network_with(
    mapping: LabelMapping | None, classes: int = 4, **options: object
) -> PromptedClassifier:
    return PromptedClassifier(ToyNet(), classes, mapping=mapping, **options).eval()


def random_counts(source: int, target: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 6, (source, target), generator=generator)


def test_the_example_of_the_specification() -> None:  # T-0b
    counts = torch.tensor([[5, 4], [6, 1], [0, 3], [0, 0]])
    assert greedy_assignment(counts).tolist() == [1, 0]


@pytest.mark.parametrize("seed", range(20))
def test_greedy_takes_distinct_rows_and_never_beats_the_optimum(seed: int) -> None:
    counts = random_counts(9, 5, seed)
    rows = greedy_assignment(counts)
    reached = int(counts[rows, torch.arange(5)].sum())
    optimum = int(counts.numpy()[linear_sum_assignment(counts.numpy(), maximize=True)].sum())
    assert len(set(rows.tolist())) == 5
    assert optimum / 2 <= reached <= optimum  # greedy matching reaches at least half


def test_greedy_takes_the_lowest_cell_on_ties() -> None:
    assert greedy_assignment(torch.full((4, 3), 7)).tolist() == [0, 1, 2]


def test_cells_with_zero_counts_are_assigned() -> None:
    counts = torch.zeros(3, 2, dtype=torch.int64)
    counts[2, 1] = 1
    assert greedy_assignment(counts).tolist() == [0, 2]


def test_the_counts_are_not_changed() -> None:
    counts = random_counts(5, 4)
    before = counts.clone()
    greedy_assignment(counts)
    assert torch.equal(counts, before)


@pytest.mark.parametrize("mapping", [FrequencyMapping, RandomMapping, IdentityMapping])
def test_fewer_source_than_target_classes_are_refused(mapping: type[LabelMapping]) -> None:
    with pytest.raises(UserError, match="11 target classes cannot be mapped onto 10 source"):
        network_with(mapping(), classes=11)


@pytest.mark.parametrize("mapping", [FrequencyMapping, RandomMapping, IdentityMapping])
def test_slicing_keeps_the_logits(mapping: type[LabelMapping]) -> None:
    sliced = network_with(mapping())
    whole = network_with(
        mapping(slice_head=False)
        if mapping is not RandomMapping
        else RandomMapping(0, slice_head=False)
    )
    for network in (sliced, whole):
        network.fit_mapping(random_counts(10, 4))
    full = whole.source_logits(IMAGES)
    assert full.shape == (6, 10)
    assert sliced.source_logits(IMAGES).shape == (6, 4)
    expected = full.index_select(1, whole.mapping.sequence)
    assert torch.equal(whole(IMAGES), expected)
    torch.testing.assert_close(sliced(IMAGES), expected, rtol=1e-6, atol=1e-7)


def test_slicing_keeps_a_permutation_of_all_classes() -> None:
    network = network_with(FrequencyMapping(), classes=10)
    expected = network.source_logits(IMAGES).flip(1)
    network.fit_mapping(torch.eye(10, dtype=torch.int64).flip(0))
    torch.testing.assert_close(network(IMAGES), expected, rtol=1e-6, atol=1e-7)


def test_slicing_keeps_mask_rows_and_scores() -> None:
    network = network_with(FrequencyMapping())
    head = network.backbone.head
    head.mask.copy_(torch.rand(10, 8) > 0.5)
    head.scores = torch.nn.Parameter(torch.rand(10, 8))
    network.fit_mapping(random_counts(10, 4))
    rows = network.mapping.sequence
    assert torch.equal(network.backbone.head.mask, head.mask[rows])
    assert torch.equal(network.backbone.head.scores, head.scores[rows])
    assert network.backbone.head.out_features == 4


def test_a_sliced_network_loads_strictly_into_a_fresh_one() -> None:
    sliced, fresh = (
        PromptedClassifier(ToyNet(seed=seed), 4, prompt=PadPrompt(16, 2)).eval() for seed in (0, 1)
    )
    torch.nn.init.uniform_(sliced.prompt.delta)
    sliced.fit_mapping(random_counts(10, 4))
    result = fresh.load_state_dict(sliced.state_dict())
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert bool(fresh.mapping.fitted)
    assert torch.equal(fresh.mapping.sequence, sliced.mapping.sequence)
    assert torch.equal(fresh(IMAGES), sliced(IMAGES))


def test_a_permuted_head_loads_into_a_fresh_network() -> None:
    sliced, fresh = (PromptedClassifier(ToyNet(seed=seed), 10).eval() for seed in (0, 1))
    sliced.fit_mapping(torch.eye(10, dtype=torch.int64).flip(0))
    fresh.load_state_dict(sliced.state_dict())
    assert torch.equal(fresh(IMAGES), sliced(IMAGES))


def test_an_unfitted_network_loads_with_its_whole_head() -> None:
    fresh = PromptedClassifier(ToyNet(seed=1), 4)
    fresh.load_state_dict(PromptedClassifier(ToyNet(), 4).state_dict())
    assert fresh.backbone.head.out_features == 10
    assert not bool(fresh.mapping.fitted)


def test_iterative_mapping_keeps_the_head_and_can_be_refitted() -> None:
    network = network_with(IterativeMapping(every=2))
    for seed in (0, 1):
        counts = random_counts(10, 4, seed)
        network.fit_mapping(counts)
        expected = network.source_logits(IMAGES)[:, greedy_assignment(counts)]
        assert torch.equal(network(IMAGES), expected)
    assert network.backbone.head.out_features == 10


def test_iterative_mapping_refuses_no_epochs() -> None:
    with pytest.raises(UserError, match="got 0"):
        IterativeMapping(every=0)


def test_random_mapping_is_a_function_of_its_seed() -> None:
    drawn = []
    for seed in (0, 0, 1):
        network = network_with(RandomMapping(seed))
        network.fit_mapping()
        drawn.append(network.mapping.sequence.tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(set(rows)) == 4 for rows in drawn)


@pytest.mark.parametrize("classes", [4, 10, 25])
def test_a_linear_head_is_fresh_and_of_any_size(classes: int) -> None:
    network = network_with(LinearHead(), classes=classes)
    network.fit_mapping()
    assert network(IMAGES).shape == (6, classes)
    assert network.backbone.head.mask.shape == (classes, 8)
    assert not torch.equal(network.backbone.head.weight[:4], ToyNet().head.weight[:4])


def test_predictions_are_counted_by_source_and_target_class() -> None:
    network = network_with(FrequencyMapping())
    batches = toy_batches(5)
    expected = torch.zeros(10, 4, dtype=torch.int64)
    for images, labels in batches:
        for predicted, label in zip(network.source_logits(images).argmax(1), labels, strict=True):
            expected[predicted, label] += 1
    network.train()
    assert torch.equal(network.count_predictions(batches), expected)
    assert network.training


def test_counting_leaves_running_statistics_alone() -> None:
    network = network_with(FrequencyMapping()).train()
    before = network.backbone.bn1.running_mean.clone()
    network.count_predictions(toy_batches(2))
    assert torch.equal(network.backbone.bn1.running_mean, before)


def test_a_label_outside_the_head_is_refused() -> None:
    images, labels = toy_batches(1)[0]
    labels[2] = 4
    with pytest.raises(UserError, match=r"label 4, but the network has 4 classes \(0 to 3\)"):
        network_with(FrequencyMapping()).count_predictions([(images, labels)])


def test_a_negative_label_is_refused() -> None:
    images, labels = toy_batches(1)[0]
    labels[2] = -1
    with pytest.raises(UserError, match="label -1"):
        network_with(FrequencyMapping()).count_predictions([(images, labels)])
