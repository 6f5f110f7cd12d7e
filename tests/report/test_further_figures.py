"""Figures of any runs: what they are made of, checked by hand, and what they need."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from toy_results import as_run, grid, result, write

from vpns_lightning.base.errors import UserError
from vpns_lightning.report.groups import groups_of
from vpns_lightning.report.make import make_report
from vpns_lightning.report.runs import Run, read_results
from vpns_lightning.report.series import densities, gains, overlaps, prompt_norms


def methods_of(*results: dict[str, Any]) -> dict[str, list[Run]]:
    (group,) = groups_of(
        as_run(facts, Path(f"r{i}/result.json")) for i, facts in enumerate(results)
    )
    return group.methods


def test_the_gain_is_paired_by_seed_with_its_interval() -> None:
    accuracies = {"VPNs w. OMP": (0.72, 0.75, 0.77), "OMP": (0.70, 0.72, 0.73)}
    cells = [
        result(method, 0.9, seed, accuracy=accuracy)
        for method, found in accuracies.items()
        for seed, accuracy in zip((7, 9, 17), found, strict=True)
    ]
    found = gains(methods_of(*cells, result("VPNs", 0.9)))
    assert list(found) == ["VPNs w. OMP"]
    ((x, gain),) = found["VPNs w. OMP"]
    # differences 2, 3, 4: mean 3, deviation 1, t of 2 degrees of freedom 4.303
    assert x == pytest.approx(90)
    assert gain.mean == pytest.approx(3)
    assert gain.high == pytest.approx(3 + 4.303 / 3**0.5, abs=1e-3)


def test_a_hydra_run_is_what_vpns_gains_upon() -> None:
    cells = [result(m, 0.9, 7, accuracy=a) for m, a in (("VPNs", 0.7), ("HYDRA", 0.6))]
    ((_, gain),) = gains(methods_of(*cells))["VPNs"]
    assert (gain.mean, gain.low) == (pytest.approx(10), None)


def test_density_is_the_mean_over_seeds_of_what_is_kept() -> None:
    cells = [
        result("OMP", 0.9, seed, sparsity_per_layer={"conv1": sparsity, "fc": 0.5})
        for seed, sparsity in ((7, 0.9), (9, 0.7))
    ]
    assert densities(methods_of(*cells)) == {"OMP": {"conv1": pytest.approx(20), "fc": 50}}


def test_the_sparsity_that_most_methods_have_is_drawn() -> None:
    cells = [*grid(("OMP", "VPNs"), (0.5,), (7,)), *grid(("OMP",), (0.9,), (7,))]
    cells += grid(("Dense",), (0.0,), (7,))
    (group,) = groups_of(as_run(facts) for facts in cells)
    level, methods = group.at_level(lambda run: True)
    assert (level, list(methods)) == (0.5, ["VPNs", "OMP"])


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two methods whose masks share one of three weights, with norms of a prompt."""
    folder = write(tmp_path / "runs", *grid(("VPNs", "OMP"), (0.5,), (7,)))
    kept = {"VPNs": [True, True, False, False], "OMP": [False, True, True, False]}
    for method, mask in kept.items():
        (place,) = folder.glob(f"*_{method}_*")
        save_file({"mask.fc": np.array(mask)}, place / "masks.safetensors")
        lines = ["stage,epoch,step,metric,value", "find,0,9,prompt_norm,1.5"]
        lines.append("tune,1,9,prompt_norm,2.5")
        (place / "metrics.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_overlap_is_intersection_over_union(runs: Path) -> None:
    (group,) = groups_of(read_results([runs])[0])
    found = overlaps(group.methods)
    assert found["VPNs"] == {"VPNs": 1, "OMP": pytest.approx(1 / 3)}
    assert found["OMP"]["VPNs"] == found["VPNs"]["OMP"]


def test_epochs_of_a_prompt_go_on_from_stage_to_stage(runs: Path) -> None:
    (group,) = groups_of(read_results([runs])[0])
    _, methods = group.at_level(lambda run: bool(run.record.prompt))
    # finding took 30 epochs
    assert prompt_norms(methods) == {"VPNs": [(1, 1.5), (32, 2.5)]}


def test_all_of_them_are_drawn_and_one_can_be_asked_for(runs: Path, tmp_path: Path) -> None:
    report = make_report([runs], tmp_path / "all")
    assert list(report.further) == ["density", "overlap", "prompt_norm", "accuracy_cost"]
    for name in report.further:
        assert (tmp_path / "all" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    make_report([runs], tmp_path / "one", only=["overlap"])
    svg = (tmp_path / "one" / "overlap.svg").read_text()
    assert ">.33</text>" in svg
    with pytest.raises(UserError, match="gain has no runs here: it needs a method with and"):
        make_report([runs], tmp_path / "none", only=["gain"])
