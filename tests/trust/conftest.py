"""Figures of the promises: how many times each was put to the test, and how often it broke."""

from collections.abc import Iterator

import pytest

# promise: (what was tried, how often; what went wrong, how often)
Figures = dict[str, tuple[str, int, str, int]]
FIGURES: Figures = {}


@pytest.fixture
def figures() -> Figures:
    """Return where a test leaves what it counted."""
    return FIGURES


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FIGURES:
        terminalreporter.section("promises")
        for promise, (tried, count, broken, times) in FIGURES.items():
            terminalreporter.line(f"{promise}: {tried} {count}, {broken} {times}")
