"""A loss that is no number: nothing is learned from it, and the step is named."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stages.toy_training import QUIET, ToyData, fit, new_network, recorded, views_of
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners import Hydra
from vpns_lightning.stages import MaskFinding, Stage, SubnetworkTuning

pytestmark = [pytest.mark.filterwarnings(message) for message in QUIET]


def finding(network: PromptedClassifier, fused: bool) -> Stage:
    optimizer = partial(torch.optim.Adam, lr=0.02, weight_decay=1e-2, fused=fused)
    return MaskFinding(network, Hydra(), sparsity=0.5, epochs=1, optimizer=optimizer)


def tuning(network: PromptedClassifier, fused: bool) -> Stage:
    optimizer = partial(torch.optim.SGD, lr=0.02, momentum=0.9, weight_decay=1e-2, fused=fused)
    return SubnetworkTuning(network, epochs=1, optimizer=optimizer)


def learned(network: PromptedClassifier) -> dict[str, Tensor]:
    """Return copies of all parameters and masks."""
    state = dict(network.named_parameters()) | {
        name: buffer for name, buffer in network.named_buffers() if name.endswith("mask")
    }
    return {name: value.detach().clone() for name, value in state.items()}


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("bad_step", [0, 2])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("build", [finding, tuning])
def test_a_bad_loss_leaves_parameters_as_before_it_and_names_the_step(
    build: Callable[[PromptedClassifier, bool], Stage], fused: bool, bad_step: int, value: float
) -> None:
    network, views = new_network(), views_of(4)
    views["prompted"][bad_step][0][1] = value
    stage = build(network, fused)
    before: list[dict[str, Tensor]] = []
    recorded(stage, lambda: before.append(learned(network)))
    if math.isinf(value):  # would not pass the clamp of the prompt
        network.prompt.forward = lambda images: images.repeat(1, 1, 2, 2)
    with pytest.raises(UserError, match=f"NaN or infinite at gradient step {bad_step} of stage"):
        fit(stage, ToyData(**views))
    after = learned(network)
    assert after.keys() == before[bad_step].keys()
    for name, now in after.items():
        assert torch.equal(now, before[bad_step][name]), name


@pytest.mark.parametrize(("fused", "batches"), [(True, 4), (False, 2)])
def test_a_fused_optimiser_learns_nothing_more_until_the_log_point(
    fused: bool, batches: int
) -> None:
    network, views = new_network(), views_of(4)
    views["prompted"][1][0][0] = math.nan
    stage = finding(network, fused)
    losses = recorded(stage)
    with pytest.raises(UserError, match="gradient step 1"):
        fit(stage, ToyData(**views), log_every_n_steps=4)
    assert len(losses) == batches - (not fused)


def test_a_log_point_stops_a_fused_run() -> None:
    network, views = new_network(), views_of(6)
    views["prompted"][1][0][0] = math.nan
    stage = finding(network, fused=True)
    losses = recorded(stage)
    with pytest.raises(UserError, match="gradient step 1"):
        fit(stage, ToyData(**views), log_every_n_steps=3)
    assert len(losses) == 3


@pytest.mark.slow
def test_two_processes_ask_each_other_once_a_step_without_waiting(tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(tests / "stages" / "two_processes.py"), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tests)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert {name: n for name, n in found["heard"].items() if n} == {"all_reduce": 4}
        # bad on one process alone, it changes no weight on either
        assert "gradient step 2 of stage 'find'" in found["message"]
        assert found["unharmed"]
