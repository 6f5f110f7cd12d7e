"""Facts about any tensor."""

import pytest
import torch

from vpns_lightning.base.tensors import all_finite

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_value_is_found_wherever_it_stands(dtype: torch.dtype, value: float) -> None:
    for size in (1, 7, 64, 1000):
        for place in {0, size // 2, size - 1}:
            tensor = torch.linspace(-1, 1, size, dtype=dtype)
            assert all_finite(tensor)
            tensor[place] = value
            assert not all_finite(tensor)
            # and in any order in memory
            assert not all_finite(torch.stack([torch.zeros(size, dtype=dtype), tensor]).T)


@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.float8_e4m3fn])
def test_eight_bits_are_asked_too(dtype: torch.dtype) -> None:
    assert all_finite(torch.linspace(-1, 1, 7).to(dtype))
    assert not all_finite(torch.tensor([0.5, float("nan"), 1.0]).to(dtype))


def test_scalars_parameters_and_what_holds_nothing_are_asked_too() -> None:
    assert all_finite(torch.tensor(1.0))
    assert not all_finite(torch.tensor(float("nan")))
    assert all_finite(torch.empty(0, 3))
    assert all_finite(torch.nn.Parameter(torch.ones(2)))
    assert all_finite(torch.tensor([torch.finfo(torch.float32).max] * 2))  # a sum would overflow
