"""The kernels in Triton's interpreter; `test_kernels.py` starts it.

Whether functions are interpreted is decided where Triton is imported, so these tests have a process
of their own.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vpns_lightning.sparsity import device_search, keep_highest, score_gradient as fused
from vpns_lightning.sparsity.radix_select import can_read, keep_by_radix

BLOCK = 256


def bits(*patterns: int) -> Tensor:
    return torch.tensor(patterns, dtype=torch.int64).to(torch.int32).view(torch.float32)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


VALUES: dict[str, Callable[[int], Tensor]] = {
    "normal": lambda n: torch.randn(n, generator=drawn()),
    "heavy tails": lambda n: (
        torch.randn(n, generator=drawn()) * torch.randn(n, generator=drawn(1)).exp() ** 3
    ),
    "constant": lambda n: torch.full((n,), -0.25),
    "zeros of both signs": lambda n: torch.zeros(n).copysign(torch.randn(n, generator=drawn())),
    "half zeros": lambda n: (
        torch.randn(n, generator=drawn()) * -(torch.rand(n, generator=drawn(1)) < 0.5).float()
    ),
    "few values": lambda n: torch.randint(-3, 4, (n,), generator=drawn()).float() / 8,
    "denormal": lambda n: torch.randint(0, 3000, (n,), generator=drawn()).int().view(torch.float32),
    "largest and smallest": lambda n: torch.where(
        torch.rand(n, generator=drawn()) < 0.5,
        torch.finfo(torch.float32).max,
        -torch.finfo(torch.float32).smallest_normal / 2**23,
    ),
    "removed before": lambda n: torch.where(
        torch.rand(n, generator=drawn()) < 0.5, -math.inf, torch.randn(n, generator=drawn(1))
    ),
    "last bits": lambda n: (
        torch.randint(0, 5, (n,), generator=drawn()).add(0x3F800000).int().view(torch.float32)
    ),
}


def expected(values: list[Tensor], n_prune: int, *, absolute: bool) -> tuple[list[Tensor], Tensor]:
    """Return masks by a stable sort, and the n-th smallest."""
    flat = torch.cat([value.flatten() for value in values])
    flat = flat.abs() if absolute else flat + 0.0
    kept = torch.zeros(len(flat), dtype=torch.bool)
    kept[flat.sort(stable=True, descending=True).indices[: len(flat) - n_prune]] = True
    parts = kept.split([value.numel() for value in values])
    shaped = [part.view(value.shape) for part, value in zip(parts, values, strict=True)]
    return shaped, flat.sort().values[n_prune - 1]


def check(values: list[Tensor], n_prune: int, masks: list[Tensor], *, absolute: bool) -> None:
    """Compare kernels and operators with the sort, for both rules of ties."""
    exact, bar = expected(values, n_prune, absolute=absolute)
    above = [(value.abs() if absolute else value) > bar for value in values]
    for keep in (lambda *a, **k: keep_by_radix(*a, **k, block=BLOCK), device_search.by_operators):
        for masks_expected, ties in ((exact, True), (above, False)):
            for mask in masks:
                mask.fill_(True)
            threshold = keep(values, n_prune, masks, absolute=absolute, exact=ties)
            assert threshold.shape == ()
            assert threshold == bar
            assert all(map(torch.equal, masks, masks_expected))


@pytest.mark.parametrize("name", VALUES)
def test_masks_are_those_of_a_stable_sort(name: str) -> None:
    n = 2 * BLOCK + 1
    absolute = len(name) % 2 == 0  # one of the two for each, both in the longer test
    check([VALUES[name](n)], n // 2, [torch.empty(n, dtype=torch.bool)], absolute=absolute)


@pytest.mark.parametrize("n_prune", [1, 20])
def test_all_but_one_may_stay_and_none(n_prune: int) -> None:
    mask = torch.empty(20, dtype=torch.bool)
    check([VALUES["few values"](20)], n_prune, [mask], absolute=False)


@pytest.mark.slow
@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("name", VALUES)
def test_masks_are_those_of_a_stable_sort_at_many_sizes(name: str, absolute: bool) -> None:
    for n in (1, 2, 5, 1000, 4 * BLOCK + 1):
        values = VALUES[name](n)
        for n_prune in sorted({1, n // 2, int(0.9 * n), n - 1, n} - {0}):
            mask = torch.empty(n, dtype=torch.bool)
            check([values], n_prune, [mask], absolute=absolute)


@pytest.mark.parametrize(
    "name",
    ["few values", *(pytest.param(n, marks=pytest.mark.slow) for n in ("normal", "constant"))],
)
def test_tensors_are_ranked_together_in_logical_order_however_they_lie(name: str) -> None:
    shapes = [(6, 5, 3, 3), (7,), (4, 1, 3, 3), (8, 40), (5, 16, 1, 1), (3, 6, 2, 5)]
    flat = VALUES[name](sum(math.prod(shape) for shape in shapes))
    parts = flat.split([math.prod(shape) for shape in shapes])
    values = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    masks = [torch.empty(shape, dtype=torch.bool) for shape in shapes]
    for some, others in ((False, False), (True, False), (False, True), (True, True)):
        laid = [pixels_apart(value) if some else value for value in values]
        masked = [pixels_apart(mask) if others else mask for mask in masks]
        check(laid, 600, masked, absolute=True)


def pixels_apart(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def test_what_the_kernels_cannot_read_is_left_to_operators() -> None:
    mask = torch.empty(4, 6, dtype=torch.bool)
    assert can_read([torch.randn(4, 6)], [mask])
    assert not can_read([torch.randn(6, 4).T], [mask])
    assert not can_read([torch.randn(4, 6)], [torch.empty(6, 4, dtype=torch.bool).T])
    assert not can_read([torch.randn(4, 6, dtype=torch.float64)], [mask])
    assert not can_read([torch.randn(4, 12)[:, ::2]], [mask])


def test_a_run_gives_the_same_masks_as_on_the_host() -> None:
    values = [torch.randn(8, 4, 3, 3, generator=drawn()), torch.randn(10, 8, generator=drawn(1))]
    there, here = ([torch.empty_like(v, dtype=torch.bool) for v in values] for _ in range(2))
    threshold = keep_by_radix(values, 300, there, absolute=True, exact=True)
    assert threshold == keep_highest(values, 300, here, absolute=True)
    assert all(map(torch.equal, there, here))


def test_the_compiler_is_asked_once_whether_it_works() -> None:
    device_search.compiles.cache_clear()
    assert device_search.compiles(torch.device("cpu"))


@pytest.mark.parametrize("last", [True, False])
def test_the_gradient_of_scores_is_that_of_operators_to_the_bit(last: bool) -> None:
    scores, weight, grad = (torch.randn(9, 8, 5, 4, generator=drawn(seed)) for seed in range(3))
    scores.view(-1)[:100], weight.view(-1)[50:150] = 0.0, -0.0
    three = [pixels_apart(each) if last else each for each in (scores, weight, grad)]
    assert fused.can_read(*three)
    found = fused.score_gradient(*three)
    expected = torch.sign(scores) * weight * grad
    assert torch.equal(found.contiguous().view(torch.int32), expected.view(torch.int32))
    assert not fused.can_read(scores, pixels_apart(weight), grad)
    assert not fused.can_read(scores, weight, grad.double())
