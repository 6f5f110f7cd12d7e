"""Epochs, gradient steps and passes in ``result.json`` against each method's formula.

T batches an epoch, E epochs given to each stage, r rounds; a joint step of weights or scores and
prompt counts once.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import vpns_lightning as vpns
from toy_run import Parts

T, E = 3, 2


class Cost(NamedTuple):
    """What a run without warm-up must report.

    Attributes:
        epochs: Over both stages.
        steps: Optimiser steps.
        passes: Forward-backward passes.
    """

    epochs: int
    steps: int
    passes: int


def same(epochs: int) -> Cost:
    """Return the cost where every iteration is one pass and one step."""
    return Cost(epochs, T * epochs, T * epochs)


CASES: dict[str, tuple[Callable[[], vpns.Pruner], dict[str, Any], Cost]] = {
    "dense": (vpns.Dense, {"sparsity": 0.0}, same(E)),
    "hydra": (vpns.Hydra, {"prompt": False}, same(E + E)),
    "vpns": (vpns.Hydra, {}, same(E + E)),
    "vpns as released": (
        vpns.Hydra,
        {"views": ("prompted", "plain")},
        Cost(E + E, 2 * T * (E + E), 2 * T * (E + E)),
    ),
    "bip": (vpns.BiP, {}, Cost(E + E, 2 * T * E + T * E, 2 * T * E + T * E)),
    "gmp": (lambda: vpns.GradualMagnitude(every=2), {}, same(E + E)),
    # an update every second of 6 iterations, up to three quarters: 2 and 4 are no steps
    "rigl": (lambda: vpns.RigL(every=2), {}, Cost(E + E, T * (E + E) - 2, T * (E + E))),
}
ROUNDS = {0.4: (2, 3), 0.9: (10, 11)}


def run(pruner: vpns.Pruner, folder: Path, **options: Any) -> Cost:
    """Run both stages, no warm-up; return what is reported."""
    parts = Parts(pruner=pruner, epochs=E, **options)
    parts.warmup = None
    result = parts.fit(folder, limit_val_batches=0)
    totals = ("epochs", "gradient_steps", "forward_backward_passes")
    stages = result["stages"].values()
    assert [result[key] for key in totals] == [sum(s[key] for s in stages) for key in totals]
    return Cost(*(result[key] for key in totals))


@pytest.mark.parametrize("name", CASES)
def test_a_run_costs_what_its_formula_says(name: str, tmp_path: Path) -> None:
    new_pruner, options, expected = CASES[name]
    assert run(new_pruner(), tmp_path, **options) == expected


@pytest.mark.parametrize("sparsity", ROUNDS)
@pytest.mark.parametrize("snap", ["nearest", "clip"])
def test_lottery_tickets_cost_a_training_more_than_their_rounds(
    snap: Any, sparsity: float, tmp_path: Path
) -> None:
    rounds = ROUNDS[sparsity][snap == "clip"]
    cost = run(vpns.LTH(snap=snap), tmp_path, sparsity=sparsity)
    assert cost == same((rounds + 1) * E)


def test_bip_alone_needs_no_tuning(tmp_path: Path) -> None:
    parts = Parts(pruner=vpns.BiP(), epochs=E)
    parts.tune.epochs = 0
    parts.warmup = None
    result = parts.fit(tmp_path)
    assert result["gradient_steps"] == result["forward_backward_passes"] == 2 * T * E
    assert result["epochs"] == E
    assert result["test_accuracy"] == result["accuracy_before_tuning"]
