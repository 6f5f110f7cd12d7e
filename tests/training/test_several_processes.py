"""What several processes have to agree on: the stages that are left, and how many they are."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

import vpns_lightning as vpns
from toy_run import KillAt, Killed, Parts
from vpns_lightning.runs.folder import RunFolder
from vpns_lightning.training.connecting import PATIENCE, be_patient

TESTS = Path(__file__).parents[1]


def stopped_run(folder: Path, processes: list[int]) -> None:
    """Leave a run in its second stage, as so many processes would have."""
    KillAt.fired = False
    with pytest.raises(Killed):
        Parts().fit(folder, KillAt("find", 1, 0))
    file = folder / "find" / "last.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    assert checkpoint.pop("processes") == [1]
    torch.save(checkpoint | ({"processes": processes} if processes else {}), file)


def test_another_number_of_processes_is_refused_in_one_line(tmp_path: Path) -> None:
    stopped_run(tmp_path, [2])
    complaint = "trained with 2 processes until now and would go on with 1: .* 0.5 times as many"
    with pytest.raises(vpns.UserError, match=complaint) as refused:
        Parts().fit(tmp_path)
    assert "--other_processes=true" in str(refused.value)
    assert (tmp_path / "find" / "last.ckpt").is_file()


def test_another_number_of_processes_is_recorded_where_it_is_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped_run(tmp_path, [4, 2])
    result = Parts().fit(tmp_path, other_processes=True)
    stages = result["stages"]
    assert stages["find"]["processes_before"] == [4, 2]
    assert [stages[name]["processes"] for name in ("warmup", "find", "tune")] == [1, 1, 1]
    assert "processes_before" not in stages["warmup"] | stages["tune"]
    assert "would go on with 1: a step then takes 0.5 times as many images, as allowed" in (
        capsys.readouterr().out
    )
    again = RunFolder(tmp_path).read_result()
    assert again is not None
    assert again.stages["find"].processes_before == (4, 2)


def test_a_checkpoint_that_does_not_know_the_number_is_resumed(tmp_path: Path) -> None:
    stopped_run(tmp_path, [])
    assert "processes_before" not in Parts().fit(tmp_path)["stages"]["find"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("ddp", PATIENCE),
        ("ddp_find_unused_parameters_true", PATIENCE),
        (None, PATIENCE),
        (DDPStrategy(timeout=timedelta(minutes=3)), timedelta(minutes=3)),
    ],
)
def test_processes_wait_for_hours_unless_the_strategy_says_otherwise(
    asked: Any, expected: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda *_, **options: told.append(options)
    )
    trainer = pl.Trainer(
        devices=2, accelerator="cpu", strategy=asked or "auto", logger=False, barebones=True
    )
    be_patient(trainer, asked)
    trainer.strategy.setup_environment()
    assert [options["timeout"] for options in told] == [expected]


@pytest.mark.slow
def test_the_first_process_decides_which_stages_are_left(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"),
            *("--master_port", "29617", str(TESTS / "training" / "two_ranks.py"), str(tmp_path)),
        ],
        env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        assert (tmp_path / f"{rank}.txt").read_text().split() == ["find", "tune"]
    result = RunFolder(tmp_path / "run").read_result()
    assert result is not None
    assert [stage.processes for stage in result.stages.values()] == [2, 2, 2]

    # the other run was left after its warm-up by two processes
    with pytest.raises(vpns.UserError, match="trained with 2 processes"):
        Parts(epochs=1).fit(tmp_path / "left")
    went_on = Parts(epochs=1).fit(tmp_path / "left", other_processes=True)
    assert [stage["processes"] for stage in went_on["stages"].values()] == [2, 1, 1]
