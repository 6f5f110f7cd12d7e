"""Which weights survive: exact counts, ties, refusals."""

import math
import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from reference.selection import keep_by_sorting
from vpns_lightning.base.errors import UserError
from vpns_lightning.sparsity import host_search, keep_highest, prune_count, select

SHAPES = [(3,), (4, 5), (2, 3, 3, 3), (1,), (7, 2), (5, 4, 1, 1)]


def random_scores(rng: random.Random) -> dict[str, Tensor]:
    """Return one to four score tensors, of few distinct values as often as of many."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    scores = {}
    for index in range(rng.randint(1, 4)):
        tensor = torch.randn(rng.choice(SHAPES), generator=generator)
        if rng.random() < 0.5:
            tensor = (tensor * rng.choice([1, 2])).round()
        if tensor.dim() == 4 and rng.random() < 0.5:
            tensor = tensor.to(memory_format=torch.channels_last)
        scores[f"layer{index}"] = tensor
    return scores


def random_cases(count: int) -> Iterator[tuple[dict[str, Tensor], float]]:
    rng = random.Random(0)
    for _ in range(count):
        sparsity = rng.choice([0, 0.05, 0.1, 0.5, 0.9, 0.99, rng.random()])
        yield random_scores(rng), sparsity


def kept(masks: dict[str, Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def total(scores: dict[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in scores.values())


def test_the_example_of_the_specification() -> None:  # T-0
    scores = {"layer": torch.tensor([0.1, 0.5, 0.5, 0.9])}
    assert select(scores, 0.5)["layer"].tolist() == [False, True, False, True]
    loose = select(scores, 0.5, tie_rule="threshold")["layer"]
    assert loose.tolist() == [False, False, False, True]


def test_random_cases_equal_a_full_sort() -> None:
    for scores, sparsity in random_cases(400):
        masks = select(scores, sparsity)
        n_prune = math.floor(round(sparsity * total(scores), 6))
        expected = keep_by_sorting(list(scores.values()), n_prune)
        assert kept(masks) == total(scores) - n_prune
        for mask, reference in zip(masks.values(), expected, strict=True):
            assert torch.equal(mask, reference)


def test_layer_scope_is_exact_within_every_layer() -> None:
    for scores, sparsity in random_cases(100):
        masks = select(scores, sparsity, scope="layer")
        for name, tensor in scores.items():
            n_prune = math.floor(round(sparsity * tensor.numel(), 6))
            assert torch.equal(masks[name], keep_by_sorting([tensor], n_prune)[0])


def test_threshold_rule_drops_everything_up_to_the_kth_value() -> None:
    for scores, sparsity in random_cases(200):
        masks = select(scores, sparsity, tie_rule="threshold")
        flat = torch.cat([tensor.reshape(-1) for tensor in scores.values()])
        n_prune = prune_count(len(flat), sparsity)
        bar = flat.sort().values[n_prune - 1] if n_prune else -math.inf
        for name, tensor in scores.items():
            assert torch.equal(masks[name], tensor > bar)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 97, 1000, 4099])
def test_the_count_is_exact_at_every_percent(size: int) -> None:
    scores = {"layer": torch.randn(size, generator=torch.Generator().manual_seed(size))}
    for percent in range(100):
        assert kept(select(scores, percent / 100)) == size - size * percent // 100


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_constant_scores_keep_the_first_weights(sparsity: float) -> None:
    scores = {"first": torch.ones(4, 5), "second": torch.ones(2, 5, 2, 1)}
    masks = select(scores, sparsity)
    flat = torch.cat([mask.reshape(-1) for mask in masks.values()])
    n_keep = 40 - round(40 * sparsity)
    assert flat.tolist() == [True] * n_keep + [False] * (40 - n_keep)


@pytest.mark.parametrize("absolute", [True, False])
def test_scores_and_masks_may_lie_differently_in_memory(absolute: bool) -> None:
    scores = [torch.randn(6, 5, 3, 3), torch.randn(4, 7)]
    plain = [torch.empty(s.shape, dtype=torch.bool) for s in scores]
    moved = [m.to(memory_format=torch.channels_last) if m.dim() == 4 else m.clone() for m in plain]
    expected = keep_highest(scores, 200, plain, absolute=absolute)
    threshold = keep_highest([scores[0], scores[1].T.clone().T], 200, moved, absolute=absolute)
    assert torch.equal(threshold, expected)
    assert all(torch.equal(a, b) for a, b in zip(moved, plain, strict=True))
    assert sum(int(m.sum()) for m in moved) == 298 - 200


def test_ties_in_channels_last_tensors_go_by_logical_index() -> None:
    scores = torch.ones(2, 3, 2, 2)
    plain = select({"layer": scores}, 0.5)["layer"]
    moved = select({"layer": scores.to(memory_format=torch.channels_last)}, 0.5)["layer"]
    assert torch.equal(plain, moved)
    assert bool(plain[0].all())
    assert not bool(plain[1].any())


def test_ties_across_tensors_go_to_the_first() -> None:
    scores = {"first": torch.tensor([1.0, 2.0]), "second": torch.tensor([2.0, 2.0, 3.0])}
    masks = select(scores, 0.4)
    assert masks["first"].tolist() == [False, True]
    assert masks["second"].tolist() == [True, False, True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_float_type_gives_the_exact_count(dtype: torch.dtype) -> None:
    scores = {"layer": torch.rand(10_000, generator=torch.Generator().manual_seed(0)).to(dtype)}
    assert kept(select(scores, 0.9)) == 1000


def test_float64_scores_are_not_ranked_in_float32() -> None:
    scores = torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64)
    assert select({"layer": scores}, 0.5)["layer"].tolist() == [False, True]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused_by_layer_name(bad: float) -> None:
    scores = {"stem": torch.ones(3), "block.conv": torch.tensor([1.0, bad])}
    with pytest.raises(UserError, match=r"'block\.conv'.*NaN or infinite"):
        select(scores, 0.5)


def test_alive_masks_only_ever_shrink() -> None:
    rng = random.Random(1)
    for _ in range(50):
        scores = random_scores(rng)
        alive = {name: torch.ones_like(t, dtype=torch.bool) for name, t in scores.items()}
        for sparsity in (0.2, 0.36, 0.49, 0.9):
            scores = {n: torch.randn(t.shape) for n, t in scores.items()}
            masks = select(scores, sparsity, alive=alive)
            assert kept(masks) == total(scores) - prune_count(total(scores), sparsity)
            assert not any(bool((masks[name] & ~alive[name]).any()) for name in masks)
            alive = masks


def test_more_than_the_earlier_mask_left_is_refused() -> None:
    scores = {"layer": torch.arange(4.0)}
    alive = {"layer": torch.tensor([True, False, False, False])}
    with pytest.raises(UserError, match=r"2 weights must be kept .* only 1"):
        select(scores, 0.5, alive=alive)


def test_selection_leaves_the_scores_alone() -> None:
    scores = torch.randn(50)
    before = scores.clone()
    select({"layer": scores}, 0.5)
    select({"layer": scores}, 0.5, scope="layer", tie_rule="threshold")
    keep_highest([scores], 20, [torch.empty(50, dtype=torch.bool)])
    assert torch.equal(scores, before)


def test_absolute_ranking_ignores_the_sign() -> None:
    scores, mask = torch.tensor([-3.0, 1.0, -2.0, 0.5]), torch.empty(4, dtype=torch.bool)
    threshold = keep_highest([scores], 2, [mask], absolute=True)
    assert mask.tolist() == [True, False, True, False]
    assert threshold == 1.0


def test_nothing_removed_resets_the_mask_and_the_threshold() -> None:
    mask = torch.zeros(3, dtype=torch.bool)
    assert keep_highest([torch.ones(3)], 0, [mask]) == -math.inf
    assert bool(mask.all())


@pytest.mark.parametrize(
    ("size", "density", "expected"),
    [(10, 0.9, 1), (10, 0.7, 3), (100, 0.29, 71), (1000, 0.1, 900), (11_678_912, 0.1, 10_511_020)],
)
def test_the_prune_count_undoes_floating_point_error(
    size: int, density: float, expected: int
) -> None:
    assert prune_count(size, 1 - density) == expected


@pytest.mark.parametrize(
    "bad",
    [-0.1, -1, 1, 1.0, 1.5, 2, math.nan, math.inf, -math.inf, True, "0.5", None],
)
def test_a_sparsity_that_is_no_fraction_is_refused(bad: object) -> None:
    with pytest.raises(UserError, match=r"sparsity must be a number in \[0, 1\), got "):
        select({"layer": torch.ones(4)}, bad)  # type: ignore[arg-type]  # what a user may write


def wide_scores(kind: str) -> Tensor:
    """Return more scores than are searched without a sample, in several blocks."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(host_search.SAMPLED_FROM + 70_001, generator=generator)
    if kind == "half zeros":
        scores[torch.rand(len(scores), generator=generator) < 0.5] = 0
    if kind == "few values":
        scores = (scores * 3).round() / 3
    if kind == "a sample that misleads":
        for index, block in enumerate(scores.split(host_search.BLOCK)):
            block[index % 7 :: host_search.STRIDE] *= 1e-3
    return scores


@pytest.mark.parametrize(
    "kind", ["normal", "half zeros", "few values", "a sample that misleads", "sorted"]
)
@pytest.mark.parametrize("absolute", [True, False])
def test_a_sampled_selection_equals_a_sort(kind: str, absolute: bool) -> None:
    scores = wide_scores(kind).sort().values if kind == "sorted" else wide_scores(kind)
    parts = list(scores.split(200_000))
    masks = [torch.empty_like(part, dtype=torch.bool) for part in parts]
    ranks = scores.abs() if absolute else scores
    for n_prune in (1, 2, 33_221, len(scores) // 2, len(scores) - 40_000, len(scores) - 1):
        threshold = keep_highest(parts, n_prune, masks, absolute=absolute)
        assert threshold == ranks.sort().values[n_prune - 1]
        expected = torch.zeros(len(scores), dtype=torch.bool)
        expected[ranks.argsort(descending=True, stable=True)[: len(scores) - n_prune]] = True
        assert torch.equal(torch.cat(masks), expected)


def test_a_sample_that_misleads_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []
    search = host_search._search
    monkeypatch.setattr(
        host_search, "_search", lambda *args: searched.append(args[4:]) or search(*args)
    )
    scores = wide_scores("a sample that misleads")
    keep_highest([scores], len(scores) // 2, [torch.empty_like(scores, dtype=torch.bool)])
    keep_highest([scores.abs()], len(scores) // 2, [torch.empty_like(scores, dtype=torch.bool)])
    assert searched[-1] == (-math.inf, math.inf)
    assert len(searched) in {3, 4}
