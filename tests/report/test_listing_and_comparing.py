"""``vpns ls``, ``vpns compare`` and data frames: what a user reads of runs, finished or not."""

import builtins
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from toy_results import grid, result, write

import vpns_lightning as vpns
from toy_folder import finished_network, write_folder
from vpns_lightning import cli
from vpns_lightning.base.files import lock
from vpns_lightning.report.comparison import mask_overlap, read_side

CONFIG = {
    "seed_everything": 9,
    "data": {"class_path": "vpns_lightning.CIFAR100", "init_args": {"root": "data"}},
    "network": {"backbone": "resnet18", "prompt": {"class_path": "vpns_lightning.PadPrompt"}},
    "find": {
        "pruner": {"class_path": "vpns_lightning.Hydra"},
        "sparsity": 0.8,
        "views": ["prompted"],
    },
}


def begun(folder: Path, log: str = "") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    if log:
        (folder / "grid.log").write_text(log)
    return folder


def lines(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    cli.main(list(map(str, arguments)))
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(map(str, arguments)))
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_seeds_of_one_method_share_a_row_unless_more_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [result("VPNs", 0.9, seed, accuracy=a) for seed, a in ((7, 0.70), (9, 0.72))]
    cells.append(result("VPNs", 0.9, 17, accuracy=0.8, batch_size=8))
    said = lines(capsys, "ls", write(tmp_path, *cells))
    # sample deviation of 70 and 72 is sqrt(2)
    assert any(line.startswith("VPNs CIFAR100 90 % 71.00 ± 1.41 7, 9 finished") for line in said)
    assert any(line.startswith("VPNs CIFAR100 90 % 80.00 17 finished") for line in said)


def test_on_a_terminal_a_data_set_that_all_have_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path, *grid(("VPNs, mask finding only",), (0.9,), (7, 9, 17)))
    assert lines(capsys, "ls", folder)[0].split()[:2] == ["method", "data"]
    for name, value in (("FORCE_COLOR", "1"), ("COLUMNS", "80"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    said = [re.sub(r"\x1b\[[\d;]*m", "", line).strip() for line in lines(capsys, "ls", folder)]
    assert said[0] == "CIFAR100"
    assert said[1].split()[:2] == ["method", "sparsity"]
    assert said[3].startswith("VPNs, mask finding only 90 %")


def test_states_are_told_apart_and_what_cannot_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, result("OMP", 0.8))
    begun(
        tmp_path / "stopped",
        "Traceback (most recent call last):\n  File\nOSError: x\n" + "epoch 1\n" * 4,
    )
    begun(tmp_path / "failed", "epoch 1\nTraceback (most recent call last):\n  File\nOSError: x\n")
    begun(tmp_path / "refused", "vpns: error: no such data\n")
    held = begun(tmp_path / "running")
    (begun(tmp_path / "cut") / "result.json").write_text("{")
    (begun(tmp_path / "torn") / "config.yaml").write_text("- : :")
    plan = {"grid": "mine", "cells": [{"cell": "failed", "method": "VPNs mine"}, {"cell": "next"}]}
    (tmp_path / "grid.json").write_text(json.dumps(plan))
    with lock(held / ".lock"):
        said = lines(capsys, "ls", tmp_path, "--each")
    rows = {line.rsplit(maxsplit=1)[-1].rpartition("/")[2]: line for line in said}
    for state in ("stopped", "failed", "running"):
        assert f" 80 % 9 {state} " in rows[state]
    assert " failed " in rows["refused"]
    assert rows["running"].startswith("VPNs CIFAR100")
    assert rows["failed"].startswith("VPNs mine CIFAR100")
    assert sum(line.startswith("left out: ") for line in said) == 2
    assert "grid mine: 1 of 2 cells not begun" in said
    assert any(
        line.endswith("1 finished, 1 running, 1 stopped, 2 failed; all resnet18") for line in said
    )


def test_rows_are_sorted_and_filtered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path, *grid(("VPNs", "OMP", "VPNs w. OMP"), (0.5, 0.9), (7,)))
    said = lines(
        capsys, "ls", folder, "--sort", "accuracy", "--method", "VPNs*", "--sparsity", "0.9"
    )
    assert [line.partition(" CIFAR100")[0] for line in said if "90 %" in line] == [
        "VPNs",
        "VPNs w. OMP",
    ]
    assert "6 runs" not in said[-1]
    wrong = refusal(capsys, "ls", folder, "--method", "VPN")
    assert "no run has method 'VPN' (did you mean 'VPNs'?)" in wrong
    assert "--state" in refusal(capsys, "ls", folder, "--state", "done")
    assert "nowhere is no folder" in refusal(capsys, "ls", "nowhere")


def two_runs(folder: Path) -> tuple[Path, Path]:
    network = finished_network()
    first = write_folder(folder / "a", network, method="VPNs", test_accuracy=0.7)
    masks = load_file(first / "masks.safetensors")
    second = write_folder(folder / "b", network, method="VPNs", test_accuracy=0.75)
    name = min(name for name in masks if name.startswith("mask."))
    masks[name] = torch.zeros_like(masks[name])
    save_file(masks, second / "masks.safetensors")
    return first, second


def test_two_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = two_runs(tmp_path)
    rows = ["stage,epoch,step,metric,value", "tune,0,9,acc,0.5", "tune,1,18,acc,0.6"]
    (first / "metrics.csv").write_text("\n".join(rows) + "\n")
    config = yaml.safe_load((second / "config.yaml").read_text())
    (second / "config.yaml").write_text(yaml.safe_dump(config | {"tune": {"epochs": 3}}))
    picture = tmp_path / "both.png"
    said = lines(capsys, "compare", first, second, "--output", picture)
    assert "tune.epochs not set 3" in said
    assert "test accuracy (%) 70.00 75.00 +5.00" in said
    assert any("+5.00 points at seed 7" in line for line in said)
    assert picture.read_bytes().startswith(b"\x89PNG")
    layers, others = mask_overlap(read_side(first), read_side(second))
    emptied, *same = layers
    assert (emptied.both, emptied.iou, emptied.kept[1]) == (0, 0.0, 0)
    assert {layer.iou for layer in same} == {1.0}
    assert not others


def test_overlap_and_chance_by_hand() -> None:
    from vpns_lightning.report.comparison import LayerOverlap

    # 8 weights, 4 and 2 kept, 1 by both: IoU 1/5; by chance 1/2 * 1/4 of 1/2 + 1/4 - 1/8
    layer = LayerOverlap("fc", 8, (4, 2), 1, 5)
    assert layer.iou == pytest.approx(0.2)
    assert layer.by_chance == pytest.approx(0.125 / 0.625)


def test_differences_are_paired_with_the_runs_of_other_seeds_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accuracies = {"VPNs": (0.72, 0.75, 0.77), "OMP": (0.70, 0.72, 0.73)}
    cells = [
        result(method, 0.9, seed, accuracy=accuracy, grid="mine")
        for method, found in accuracies.items()
        for seed, accuracy in zip((7, 9, 17), found, strict=True)
    ]
    write(tmp_path, *cells)
    two = [next(tmp_path.glob(f"*_{method}_s0.9_seed7")) for method in ("OMP", "VPNs")]
    said = lines(capsys, "compare", *two, "--output", tmp_path / "both.png")
    # differences 2, 3, 4: mean 3, deviation 1, t of 2 degrees of freedom 4.303: half 2.484
    assert "+3.00 points, 95 % interval [+0.52, +5.48]: higher" in said
    assert any(line.startswith("masks: cannot read masks from ") for line in said)


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no run folder" in refusal(capsys, "compare", tmp_path, tmp_path)
    assert "is no folder" in refusal(capsys, "compare", tmp_path / "a", tmp_path)


def test_data_frames_hold_results_and_masks(tmp_path: Path) -> None:
    write(tmp_path, *grid(("VPNs", "OMP"), (0.5, 0.9), (7, 9)))
    frame = vpns.results(tmp_path)
    assert len(frame) == 8
    assert frame.groupby("method").test_accuracy.mean().max() < 1
    assert frame.dense_accuracy.isna().all()
    run, _ = two_runs(tmp_path)
    masks = vpns.masks(run)
    stored = load_file(run / "masks.safetensors")
    for name, row in masks.iterrows():
        assert np.array_equal(row["mask"], stored[f"mask.{name}"].numpy())
        assert row["kept"] == int(row["mask"].sum())


def test_a_changed_file_of_masks_is_refused(tmp_path: Path) -> None:
    run, _ = two_runs(tmp_path)
    path = run / "masks.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(vpns.UserError, match="another hash"):
        vpns.masks(run)


def test_without_pandas_the_command_to_install_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without_pandas(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "pandas":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pandas)
    with pytest.raises(vpns.UserError, match=r"pip install 'vpns-lightning\[notebook\]'"):
        vpns.results(tmp_path)
