"""Tuning again or longer from a finished run, without finding again."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import vpns_lightning as vpns
from toy_run import KillAt, Killed, Parts
from vpns_lightning.runs.record import read_record


def parts(epochs: int = 1, **changes: Any) -> Parts:
    """Return a run whose tuning takes so many epochs, after two of each stage before."""
    made = Parts(**changes)
    made.tune = vpns.SubnetworkTuning(made.network, epochs=epochs)
    return made


def fit(made: Parts, folder: Path, source: Path, *callbacks: Any, seed: int = 3) -> dict[str, Any]:
    return made.fit(folder, *callbacks, source=source, seed=seed)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("again") / "source"
    parts(1).fit(folder)
    return folder


def assert_same(one: Parts, other: Parts) -> None:
    expected = other.network.state_dict()
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_tuned_longer_it_ends_as_a_run_that_did_all_of_it(source: Path, tmp_path: Path) -> None:
    whole, again = parts(3), parts(3)
    expected = whole.fit(tmp_path / "whole")
    result = fit(again, tmp_path / "again", source)
    assert_same(again, whole)
    keys = ("test_accuracy", "sparsity", "gradient_steps", "dense_accuracy", "headline")
    assert all(result[key] == expected[key] for key in keys)
    assert list(result["stages"]) == ["warmup", "find", "tune"]


def test_the_new_folder_names_its_source(source: Path, tmp_path: Path) -> None:
    fit(parts(2), tmp_path / "again", source)
    record = read_record(tmp_path / "again" / "result.json")
    assert record.source == str(source)
    assert record.stages["find"].reused_from == str(source)
    assert not record.stages["tune"].reused_from
    assert yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())["from"] == str(source)


def test_it_resumes_also_when_the_source_has_gone(source: Path, tmp_path: Path) -> None:
    whole, resumed = parts(3), parts(3)
    fit(whole, tmp_path / "whole", source)
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    KillAt.fired = False
    with pytest.raises(Killed):
        fit(parts(3), tmp_path / "again", copy, KillAt("tune", 1, 1))
    shutil.rmtree(copy)
    fit(resumed, tmp_path / "again", copy)
    assert_same(resumed, whole)


def test_a_run_that_was_tuned_again_is_a_source_too(source: Path, tmp_path: Path) -> None:
    once, twice = parts(2), parts(2)
    fit(once, tmp_path / "once", source)
    fit(twice, tmp_path / "twice", tmp_path / "once")
    assert_same(once, twice)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsity": 0.5}, r"find\.sparsity is 0\.8 there, 0\.5 now"),
        ({"pruner": vpns.OMP()}, r"find\.pruner is .*Hydra.* there, .*OMP.* now"),
        ({"prompt": False}, r"network\.prompt is .*PadPrompt"),
    ],
)
def test_another_way_of_finding_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(vpns.UserError, match=message):
        fit(parts(**changes), tmp_path / "again", source)
    assert not (tmp_path / "again").exists()


def test_a_source_must_be_finished_and_hold_what_was_found(source: Path, tmp_path: Path) -> None:
    with pytest.raises(vpns.UserError, match="is no finished run"):
        fit(parts(), tmp_path / "again", tmp_path / "nothing")
    old = tmp_path / "old"
    shutil.copytree(source, old)
    (old / "find" / "handoff.safetensors").unlink()
    with pytest.raises(vpns.UserError, match=r"did not keep the network after finding.*Stored"):
        fit(parts(), tmp_path / "again", old)


def test_another_seed_tunes_the_same_masks(source: Path, tmp_path: Path) -> None:
    made = parts(1)
    result = fit(made, tmp_path / "again", source, seed=4)
    assert result["seed"] == 4
    masks, expected = (load_file(f / "masks.safetensors") for f in (tmp_path / "again", source))
    kept = [name for name in expected if name.startswith("mask.")]
    assert all(torch.equal(masks[name], expected[name]) for name in kept)
