"""Whole runs with options of training: exact when resumed, recorded, told apart."""

import os
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

import vpns_lightning as vpns
from toy_run import Parts
from vpns_lightning.report.comparability import mixture
from vpns_lightning.report.runs import Run
from vpns_lightning.runs.record import RunRecord as Record, decode, encode, read_record

EVERYTHING = {
    "loss": {"name": "CrossEntropyLoss", "label_smoothing": 0.1},
    "clip_norm": 0.5,
    "accumulate": 2,
    "mixup": 0.4,
    "cutmix": 1.0,
    "average": {"name": "EMA", "decay": 0.7},
}


def parts(**changes: Any) -> Parts:
    """Return a run in which find and tune use every option."""
    made = Parts(pruner=changes.pop("pruner", None), epochs=3)
    made.data.batch_size = 8
    common: dict[str, Any] = {
        "epochs": 3,
        "clip_norm": 0.5,
        "accumulate": 2,
        "mixup": 0.4,
        "cutmix": 1.0,
        "lr_scheduler": lambda o: vpns.WarmupCosine(o, 1),
    }
    made.warmup = None
    made.find = vpns.MaskFinding(
        made.network,
        made.find.pruner,
        sparsity=0.8,
        loss=nn.CrossEntropyLoss(label_smoothing=0.1),
        **common,
    )
    made.tune = vpns.SubnetworkTuning(
        made.network,
        **{
            "loss": nn.CrossEntropyLoss(label_smoothing=0.1),
            "average": vpns.EMA(0.7),
            **common,
            **changes,
        },
    )
    return made


class StopAt(pl.Callback):
    """Ask this process to stop, as a cluster does, after a batch of a stage."""

    def __init__(self, stage: str, epoch: int, batch: int) -> None:
        self.place = (stage, epoch, batch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (stage.name, trainer.current_epoch, batch_idx) == self.place:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Parts]:
    folder, made = tmp_path_factory.mktemp("options") / "run", parts()
    made.fit(folder)
    return folder, made


def test_what_was_set_is_recorded_and_costs_are_counted_in_whole_steps(
    whole: tuple[Path, Parts],
) -> None:
    record = read_record(whole[0] / "result.json")
    assert record.sparsity == pytest.approx(0.8, abs=1 / 872)
    plain = decode(encode(record), Record)
    assert plain == record
    tune = record.stages["tune"]
    for key, value in EVERYTHING.items():
        set_to = getattr(tune.training, key)
        if isinstance(value, dict):
            assert value.items() <= set_to.items()
        else:
            assert set_to == value
    assert tune.lr_scheduler == {
        "name": "WarmupCosine",
        "warmup_epochs": 1,
        "start_factor": 0.01,
        "epochs": 3,
    }
    assert record.batch_size == 8
    # 48 images in iterations of two batches of 8
    assert (tune.gradient_steps, tune.forward_backward_passes) == (9, 9)


@pytest.mark.parametrize(
    "place", [("find", 1, 0), ("tune", 0, 0), ("tune", 1, 1), ("tune", 2, 0)], ids=str
)
def test_stopped_inside_an_epoch_and_resumed_it_ends_with_the_same_bits(
    whole: tuple[Path, Parts], tmp_path: Path, place: tuple[str, int, int]
) -> None:
    with pytest.raises(SystemExit):
        parts().fit(tmp_path, StopAt(*place))
    resumed = parts()
    resumed.fit(tmp_path)
    expected = whole[1].network.state_dict()
    for name, value in resumed.network.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_mean_of_epochs_resumes_too(tmp_path: Path) -> None:
    one, other = (parts(average=vpns.SWA(1)) for _ in range(2))
    one.fit(tmp_path / "whole")
    with pytest.raises(SystemExit):
        parts(average=vpns.SWA(1)).fit(tmp_path / "cut", StopAt("tune", 2, 1))
    other.fit(tmp_path / "cut")
    expected = one.network.state_dict()
    assert all(torch.equal(v, expected[n]) for n, v in other.network.state_dict().items())


def test_bip_accumulates_and_keeps_its_sparsity(tmp_path: Path) -> None:
    result = parts(pruner=vpns.BiP()).fit(tmp_path)
    assert result["sparsity"] == pytest.approx(0.8, abs=1 / 872)
    # two steps an iteration: weights, scores
    assert result["stages"]["find"]["gradient_steps"] == 18
    assert result["stages"]["find"]["forward_backward_passes"] == 18


def test_another_option_is_another_run(whole: tuple[Path, Parts]) -> None:
    with pytest.raises(vpns.UserError, match=r"tune\.clip_norm: 0\.5 there, 0\.25 now"):
        parts(clip_norm=0.25).fit(whole[0])


def test_runs_with_another_option_share_no_curve(whole: tuple[Path, Parts]) -> None:
    record = read_record(whole[0] / "result.json")
    here = Run(Path("a/result.json"), record)
    text = encode(record).replace('"clip_norm":0.5', '"clip_norm":0.25')
    there = Run(Path("b/result.json"), decode(text, Record))
    assert mixture([here, here]) is None
    assert "training" in (mixture([here, there]) or "")


def test_a_result_from_before_had_none_of_the_options(tmp_path: Path) -> None:
    made = Parts(epochs=1)
    made.warmup = None
    made.fit(tmp_path)
    now = read_record(tmp_path / "result.json")
    assert now.training == {}
    old = decode(encode(now).replace('"training":{},', ""), Record)
    assert mixture([Run(Path("a/r"), now), Run(Path("b/r"), old)]) is None
