"""The threshold is bit for bit the one of ``torch.kthvalue``."""

from itertools import product

import pytest
import torch
import torchvision
from torch import Tensor, nn

from vpns_lightning.sparsity import device_search, keep_highest, kth_smallest


def values_of_kind(kind: str, size: int, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(size, generator=generator)
    match kind:
        case "random":
            return torch.randn(size, generator=generator)
        case "magnitudes":
            return uniform
        case "constant":
            return torch.full((size,), 0.25)
        case "half zeros":
            return uniform * (uniform > 0.5)
        case "duplicates":
            return (uniform * 4).round()
        case "denormals":
            return uniform * 1e-41
        case _:
            raise AssertionError(kind)


def same_bits(left: Tensor, right: Tensor) -> bool:
    integer = torch.int64 if left.dtype == torch.float64 else torch.int32
    return left.dtype == right.dtype and left.view(integer).item() == right.view(integer).item()


@pytest.mark.parametrize(
    "kind", ["random", "magnitudes", "constant", "half zeros", "duplicates", "denormals"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_small_cases_equal_kthvalue(kind: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for case in range(1000):
        size = int(torch.randint(1, 40, (), generator=generator))
        values = values_of_kind(kind, size, generator).to(dtype)
        rank = [1, size, int(torch.randint(1, size + 1, (), generator=generator))][case % 3]
        assert same_bits(kth_smallest(values, rank), torch.kthvalue(values, rank).values)


def test_every_rank_of_one_vector_equals_kthvalue() -> None:
    values = torch.randn(500, generator=torch.Generator().manual_seed(0)).abs()
    for rank in range(1, 501):
        assert same_bits(kth_smallest(values, rank), torch.kthvalue(values, rank).values)


def test_the_values_keep_their_order() -> None:
    values = torch.randn(100)
    before = values.clone()
    kth_smallest(values, 50)
    assert torch.equal(values, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["random", "half zeros", "duplicates"])
def test_on_a_gpu_it_equals_kthvalue_too(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    values = values_of_kind(kind, 1001, generator).cuda()
    for rank in (1, 2, 500, 501, 502, 1000, 1001):
        assert same_bits(kth_smallest(values, rank), torch.kthvalue(values, rank).values)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["random", "half zeros", "duplicates"])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_a_resnets_masks_on_a_gpu_are_those_of_the_cpu(
    kind: str, form: torch.memory_format
) -> None:
    modules = torchvision.models.resnet18().modules()
    shapes = [m.weight.shape for m in modules if isinstance(m, nn.Conv2d | nn.Linear)]
    sizes = [shape.numel() for shape in shapes]
    flat = values_of_kind(kind, sum(sizes), torch.Generator().manual_seed(0))
    here = [part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]
    here = [score.to(memory_format=form) if score.dim() == 4 else score for score in here]
    there = [score.cuda() for score in here]
    masks, expected = (
        [torch.empty_like(score, dtype=torch.bool) for score in side] for side in (there, here)
    )
    assert device_search.compiles(there[0].device), "Triton does not run on this machine"
    for n_prune in (1, len(flat) // 2, int(0.9 * len(flat)), len(flat)):
        for absolute, tie_rule in product((True, False), ("exact", "threshold")):
            how = {"absolute": absolute, "tie_rule": tie_rule}
            bar = keep_highest(there, n_prune, masks, **how)
            assert bar.cpu() == keep_highest(here, n_prune, expected, **how)
            assert all(torch.equal(m.cpu(), e) for m, e in zip(masks, expected, strict=True))
            for mask in masks:
                mask.fill_(True)
            by_operators = device_search.by_operators
            by_operators(there, n_prune, masks, absolute=absolute, exact=tie_rule == "exact")
            assert all(torch.equal(m.cpu(), e) for m, e in zip(masks, expected, strict=True))
