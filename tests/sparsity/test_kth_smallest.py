"""The threshold is bit for bit the one of ``torch.kthvalue``."""

import pytest
import torch
from torch import Tensor

from vpns_lightning.sparsity import kth_smallest


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
