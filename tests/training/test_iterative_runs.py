"""LTH, BiP, GMP, RigL and layer-wise HYDRA through the whole pipeline, killed and resumed."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from test_pipeline import assert_same

import vpns_lightning as vpns
from toy_run import KillAt, KillAtEnd, Killed, Parts
from vpns_lightning.runs.metrics import read_metrics
from vpns_lightning.sparsity import get_masks

METHODS: dict[str, Callable[[], vpns.Pruner]] = {
    "lth": lambda: vpns.LTH(snap="clip"),
    "bip": vpns.BiP,
    "gmp": lambda: vpns.GradualMagnitude(every=2),
    "rigl": lambda: vpns.RigL(every=2),
    "hydra by layer": lambda: vpns.Hydra(scope="layer"),
}
NAMES = {
    "lth": "VPNs w. LTH",
    "bip": "VPNs w. BiP",
    "gmp": "VPNs w. GMP",
    "rigl": "VPNs w. RigL",
    "hydra by layer": "VPNs",
}


class Terminate(pl.Callback):
    """Ask the run to stop in the middle of an epoch, as a scheduler would."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.place = ("find", epoch, batch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (stage.name, trainer.current_epoch, batch_idx) == self.place:
            os.kill(os.getpid(), signal.SIGTERM)


def new(method: str, **options: Any) -> Parts:
    return Parts(pruner=METHODS[method](), sparsity=0.5, **options)


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Parts, dict[str, Any]]]:
    """Return an uninterrupted run of every method."""
    runs = {}
    for method in METHODS:
        parts = new(method)
        runs[method] = parts, parts.fit(tmp_path_factory.mktemp("whole"))
    return runs


Wholes = dict[str, tuple[Parts, dict[str, Any]]]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_has_its_name_and_exactly_its_sparsity(wholes: Wholes, method: str) -> None:
    parts, result = wholes[method]
    total = sum(weight.numel() for weight in parts.network.prunable().values())
    assert result["method"] == NAMES[method]
    assert result["sparsity_requested"] == 0.5
    assert result["weights_kept"] == total - total // 2
    masks = get_masks(parts.network.backbone)
    assert not any(bool(parts.network.prunable()[n][~mask].any()) for n, mask in masks.items())


def test_ranking_by_layer_keeps_half_of_every_layer(wholes: Wholes) -> None:
    _, result = wholes["hydra by layer"]
    assert set(result["sparsity_per_layer"].values()) == {0.5}


PLACES = [
    *(("lth", place) for place in [(0, 1), (1, -1), (2, 0), (5, 1), (7, -1)]),
    *((method, place) for method in ("bip", "gmp", "rigl") for place in [(0, 1), (1, 1), (1, -1)]),
    ("hydra by layer", (1, 1)),
]


@pytest.mark.parametrize(("method", "place"), PLACES, ids=str)
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(
    wholes: Wholes, tmp_path: Path, method: str, place: tuple[int, int]
) -> None:
    KillAt.fired = False
    with pytest.raises(Killed):
        new(method).fit(tmp_path, KillAt("find", *place))
    resumed = new(method)
    result = resumed.fit(tmp_path)
    whole, expected = wholes[method]
    assert_same(resumed, whole)
    for total in ("epochs", "gradient_steps", "forward_backward_passes"):
        assert result[total] == expected[total], total


@pytest.mark.parametrize(
    ("method", "place"),
    [("lth", (0, 0)), ("lth", (3, 1)), ("bip", (1, 0)), ("gmp", (1, 0)), ("rigl", (1, 0))],
    ids=str,
)
def test_stopped_inside_an_epoch_goes_on_at_that_batch(
    wholes: Wholes, tmp_path: Path, method: str, place: tuple[int, int]
) -> None:
    with pytest.raises(SystemExit):
        new(method).fit(tmp_path, Terminate(*place))
    resumed = new(method)
    result = resumed.fit(tmp_path)
    whole, expected = wholes[method]
    assert_same(resumed, whole)
    assert result["gradient_steps"] == expected["gradient_steps"]


@pytest.mark.parametrize("method", ["lth", "bip", "gmp", "rigl"])
def test_killed_just_before_the_hand_off_equals_uninterrupted(
    wholes: Wholes, tmp_path: Path, method: str
) -> None:
    with pytest.raises(Killed):
        new(method).fit(tmp_path, KillAtEnd("find"))
    resumed = new(method)
    result = resumed.fit(tmp_path)
    whole, expected = wholes[method]
    assert_same(resumed, whole)
    assert result["gradient_steps"] == expected["gradient_steps"]


def test_every_round_of_lottery_tickets_begins_a_cosine(tmp_path: Path) -> None:
    parts = Parts(pruner=vpns.LTH(), sparsity=0.5, epochs=3)
    parts.fit(tmp_path)
    rows = read_metrics(tmp_path / "metrics.csv")
    rates = [float(r["value"]) for r in rows if (r["stage"], r["metric"]) == ("find", "lr")]
    assert rates == pytest.approx([0.01, 0.0075, 0.0025] * 3)


def test_rounds_with_a_schedule_of_the_user_begin_it_anew(tmp_path: Path) -> None:
    parts = Parts(pruner=vpns.LTH(), sparsity=0.36, epochs=2)
    parts.find.build_scheduler = lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.1)
    parts.fit(tmp_path)
    rows = read_metrics(tmp_path / "metrics.csv")
    rates = [float(r["value"]) for r in rows if (r["stage"], r["metric"]) == ("find", "lr")]
    assert rates == pytest.approx([0.01, 0.001] * 2)


def test_snapped_lottery_tickets_report_both_sparsities(tmp_path: Path) -> None:
    result = Parts(prompt=False, pruner=vpns.LTH(), sparsity=0.5, epochs=1).fit(tmp_path)
    assert result["method"] == "LTH"
    assert result["sparsity_requested"] == 0.5
    assert result["sparsity"] == pytest.approx(1 - 0.8**3, abs=2e-3)


def test_lottery_tickets_of_no_epochs_are_magnitudes_of_the_pretrained_weights(
    tmp_path: Path,
) -> None:
    parts = Parts(pruner=vpns.LTH(snap="clip"), sparsity=0.5, epochs=1)
    parts.find.epochs = 0
    result = parts.fit(tmp_path)
    assert result["stages"]["find"]["gradient_steps"] == 0
    assert result["weights_kept"] == result["weights_prunable"] // 2


def test_bip_shows_both_steps_every_image_once_an_epoch_in_orders_of_their_own() -> None:
    parts = new("bip", epochs=1)
    stage = parts.find
    stage.network.mapping.fitted.fill_(True)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        limit_val_batches=0,
        log_every_n_steps=1,
    )
    seen: dict[str, list[int]] = {}
    step = stage.training_step

    def watched(batch: Any, batch_idx: int) -> None:
        for stream, (images, _) in batch.items():
            seen.setdefault(stream, []).extend(float(i.sum()) for i in images)
        step(batch, batch_idx)

    stage.training_step = watched  # type: ignore[method-assign]
    parts.find.unaugmented = ("prompted",)
    trainer.fit(stage, datamodule=parts.data)
    first, second = seen["prompted:weights"], seen["prompted:scores"]
    assert len(first) == 48
    assert first != second
    assert sorted(first) == pytest.approx(sorted(second))


def test_a_stage_that_trains_weights_takes_the_optimiser_of_tuning() -> None:
    network = Parts().network
    optimizers = {
        pruner: vpns.MaskFinding(network, METHODS[pruner](), sparsity=0.5).build_optimizer
        for pruner in METHODS
    }
    kinds = {name: type(build(network.parameters())).__name__ for name, build in optimizers.items()}
    assert kinds == {
        "lth": "SGD",
        "bip": "Adam",
        "gmp": "SGD",
        "rigl": "SGD",
        "hydra by layer": "Adam",
    }
