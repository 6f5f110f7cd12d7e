"""What a run knows of its grid, and the warm-up it shares with others; toy runs in this process."""

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from msgspec import UNSET
from safetensors.torch import load_file, save_file

import vpns_lightning as vpns
from toy_run import Parts
from vpns_lightning.base.errors import UserError
from vpns_lightning.runs.folder import RunFolder
from vpns_lightning.runs.grid_cell import environment, grid_record, take_warmup
from vpns_lightning.runs.handoff import copy_network, read_about
from vpns_lightning.runs.record import GridRecord, encode
from vpns_lightning.training.loggers import wandb_arguments, wandb_offline
from vpns_lightning.training.machine import Machine
from wandb_file import runs_below


def told(monkeypatch: pytest.MonkeyPatch, cell: str, warmup: Path | None) -> None:
    record = GridRecord(name="fig0", cell=cell, method="A", axes={"pad": 8})
    for key, value in environment(record, warmup).items():
        monkeypatch.setenv(key, value)


def same(one: Path, other: Path) -> bool:
    left, right = load_file(one), load_file(other)
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_a_cell_with_a_shared_warm_up_ends_as_one_with_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared" / "key"
    own = Parts(sparsity=0.9).fit(tmp_path / "own")
    told(monkeypatch, "first", shared)
    first = Parts(sparsity=0.5).fit(tmp_path / "first")
    assert "reused_from" not in first["stages"]["warmup"]
    told(monkeypatch, "second", shared)
    second = Parts(sparsity=0.9).fit(tmp_path / "second")
    assert second["stages"]["warmup"]["reused_from"] == "first"
    for file in ("handoff.safetensors", "masks.safetensors", "prompts.safetensors"):
        assert same(tmp_path / "second" / file, tmp_path / "own" / file)
    metrics = [(tmp_path / name / "metrics.csv").read_text() for name in ("own", "second")]
    assert metrics[0] == metrics[1]
    for key in ("gradient_steps", "epochs", "test_accuracy", "dense_accuracy"):
        assert second[key] == own[key]
    # it was not trained again, and marks of the shared file stay with that file
    assert not (tmp_path / "second" / "warmup").exists()
    about = read_about(tmp_path / "second" / "handoff.safetensors")
    assert about.shared_by is UNSET
    assert about.tensors_sha256  # every hand-off has one
    assert second["grid"] == {"name": "fig0", "cell": "second", "method": "A", "axes": {"pad": 8}}
    assert "grid" not in own


def test_a_damaged_shared_warm_up_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = tmp_path / "shared"
    told(monkeypatch, "first", shared)
    Parts().fit(tmp_path / "first")
    file = shared / "handoff.safetensors"
    about, state = read_about(file), load_file(file)
    name = next(key for key in state if key.endswith("weight"))
    state[name].view(-1)[0] += 1
    save_file(state, file, metadata={"vpns": encode(about)})
    capsys.readouterr()
    result = Parts().fit(tmp_path / "second")
    assert "reused_from" not in result["stages"]["warmup"]
    said = capsys.readouterr().out
    assert "the shared warm-up is not used, this run makes its own" in said
    assert "its tensors have another hash" in said
    assert same(tmp_path / "second" / "handoff.safetensors", tmp_path / "first/handoff.safetensors")


def test_a_begun_run_keeps_its_own_warm_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, "first", tmp_path / "shared")
    Parts().fit(tmp_path / "first")
    run = RunFolder(tmp_path / "first")
    before = run.handoff.read_bytes()
    assert take_warmup(run) is None
    assert run.handoff.read_bytes() == before
    # nor is there one for a run without a grid
    monkeypatch.delenv("VPNS_GRID")
    assert take_warmup(RunFolder(tmp_path / "other")) is None
    assert grid_record() is None


def test_a_copy_keeps_every_tensor_and_changes_only_named_facts(tmp_path: Path) -> None:
    parts = Parts()
    parts.fit(tmp_path / "run")
    source = tmp_path / "run" / "handoff.safetensors"
    copy_network(source, tmp_path / "copy.safetensors", shared_by="first", class_names=())
    assert same(source, tmp_path / "copy.safetensors")
    about, changed = read_about(source), read_about(tmp_path / "copy.safetensors")
    assert changed.tensors_sha256
    assert changed == msgspec.structs.replace(
        about, shared_by="first", class_names=(), tensors_sha256=changed.tensors_sha256
    )


def test_a_foreign_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPNS_GRID", "fig4")
    with pytest.raises(UserError, match="VPNS_GRID is set by vpns grid"):
        grid_record()


def test_every_stage_is_a_wandb_run_of_the_grid_s_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "cell")
    run.make()
    assert wandb_arguments({"project": "vpns"}, run.path, "find")["group"] == "cell"
    told(monkeypatch, "cell", None)
    find, tune = (wandb_arguments({"project": "vpns"}, run.path, s) for s in ("find", "tune"))
    assert find.pop("id") == (run.path / "wandb_id.txt").read_text().strip() + "-find"
    assert find.pop("settings")["x_disable_meta"]
    assert find == {
        "project": "vpns",
        "resume": "allow",
        "name": "cell-find",
        "group": "fig0",
        "job_type": "find",
        "save_dir": str(run.path),
    }
    assert (tune["name"], tune["job_type"]) == ("cell-tune", "tune")
    # the same runs when the command is given again
    assert wandb_arguments({"project": "vpns"}, run.path, "tune") == tune
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    assert wandb_arguments({"project": "vpns"}, run.path, "tune")["id"] == "abc"
    assert wandb_arguments({"project": "vpns"}, run.path, "find")["id"] == "abc-find"
    # in a sweep W&B looks at the environment alone
    assert os.environ["WANDB_RUN_ID"] == "abc-find"
    assert wandb_arguments({"project": "vpns"}, run.path, "tune")["id"] == "abc"
    assert os.environ["WANDB_RUN_ID"] == "abc"


def test_wandb_runs_offline_where_it_must_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.warns(UserWarning, match="WANDB_MODE asks for it"):
        assert wandb_offline(False, tmp_path)
    assert wandb_offline(True, tmp_path)


def test_a_stage_leaves_method_and_sparsity_in_the_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setenv("WANDB_MODE", "offline")
    told(monkeypatch, "cell", None)
    run = RunFolder(tmp_path / "run")
    run.make()

    def parts(stage: str) -> dict[str, Any]:
        return {"logger": WandbLogger(**wandb_arguments({"id": "abc"}, run.path, stage))}

    toy = Parts(pruner=vpns.OMP(), sparsity=0.8)
    machine = Machine(
        {"accelerator": "cpu", "enable_progress_bar": False}, parts, loggers_of_stage=True
    )
    vpns.fit_stages(
        toy.network,
        toy.data,
        find=toy.find,
        tune=toy.tune,
        warmup=toy.warmup,
        run_dir=str(run.path),
        trainer=machine,
    )
    written = runs_below(run.path)
    assert list(written) == ["abc-warmup", "abc-find", "abc-tune"]
    assert all(each.kinds["exit"] == 1 for each in written.values())
    summaries = {name.partition("-")[2]: each.summary for name, each in written.items()}
    assert [summary["sparsity"] for summary in summaries.values()] == [
        0,
        pytest.approx(0.8, abs=0.01),
        pytest.approx(0.8, abs=0.01),
    ]
    for stage, summary in summaries.items():
        # as the grid calls it
        assert summary["method"] == "A"
        assert summary["dataset"] == "Stripes"
        assert summary["sparsity_requested"] == 0.8
        assert 0 <= summary["test_accuracy"] <= 1
        # the last stage's are those of the whole run
        assert summary["gradient_steps"] == {"warmup": 6, "find": 0, "tune": 12}[stage]
