"""The device as a fixture."""

from collections.abc import Iterator

import pytest

from emulated_cuda import emulated_cuda


@pytest.fixture
def cuda() -> Iterator[None]:
    """Give the test a CUDA device."""
    with emulated_cuda():
        yield
