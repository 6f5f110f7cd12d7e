"""What a training step costs, counted rather than timed: operators, host reads, graphs, imports."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from reference.toy_networks import ToyNet
from vpns_lightning.stages import Stage

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
counts: Any = import_module("counts")

# operators that are no views, in one eager step of a ResNet-18; the dense step runs 191
AT_MOST = {"find": 410, "tune": 285}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def find() -> Stage:
    return counts.finding(counts.new_network(), 0.9)


def tune() -> Stage:
    return counts.tuning(counts.new_network(), 0.9)


@pytest.mark.parametrize("new_stage", [find, tune])
def test_a_step_between_log_points_reads_nothing_back(new_stage: Callable[[], Stage]) -> None:
    stage = new_stage()
    operators, steps = counts.step_operators(stage)
    assert not operators.reads
    assert not operators.copies
    assert sum(operators.work.values()) / steps <= AT_MOST[stage.name]


@pytest.mark.parametrize("tie_rule", ["exact", "threshold"])
def test_finding_off_the_host_needs_no_value_on_it(tie_rule: str) -> None:
    operators = counts.step_off_the_host(tie_rule, ToyNet())  # any read would raise on meta
    assert not operators.reads
    assert not operators.copies
    assert operators.work["convolution_backward"] == 2


def test_the_counter_sees_reads_and_copies() -> None:
    values = torch.arange(3.0)
    with counts.Operators() as operators:
        bool(values.sum() > 1)
        values.nonzero()
        values.to("meta")
    assert operators.reads == {"_local_scalar_dense": 1, "nonzero": 1}
    assert operators.copies == {"_to_copy": 1}


def test_both_stages_at_two_sparsities_compile_two_graphs() -> None:
    assert counts.graphs_of_two_runs(ToyNet) == (2, 0)


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_asking_for_help_imports_nothing_heavy(flag: str) -> None:
    assert not counts.imported_by(flag) & counts.HEAVY
