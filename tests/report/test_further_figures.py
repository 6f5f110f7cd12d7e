"""Figures of any runs: what they are made of, checked by hand, and what they need."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from safetensors.numpy import save_file
from toy_results import as_run, grid, result, write

from vpns_lightning.base.errors import UserError
from vpns_lightning.report.further import unseen_prompts
from vpns_lightning.report.further_marks import draw_gains
from vpns_lightning.report.groups import groups_of
from vpns_lightning.report.make import make_report
from vpns_lightning.report.runs import Run, read_results
from vpns_lightning.report.series import densities, gains, overlaps, prompt_norms, prompts
from vpns_lightning.report.statistics import Difference
from vpns_lightning.report.styles import LOOKS, styles_of
from vpns_lightning.runs.prompt_files import Moment, write_prompts


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


def test_prompts_stand_in_the_order_of_stages_and_what_has_none_is_said(
    runs: Path, tmp_path: Path
) -> None:
    (place,) = runs.glob("*_VPNs_*")
    kept = {
        Moment(stage, epochs): np.full((3, 4, 4), strength, np.float16)
        for stage, epochs, strength in (("tune", 12, 0.25), ("find", 30, 0.5), ("find", 6, 0.125))
    }
    write_prompts(place / "prompts.safetensors", kept)
    (group,) = groups_of(read_results([runs])[0])
    found = prompts(group.methods)
    assert list(found) == ["VPNs"]
    assert list(found["VPNs"]) == [("find", 6), ("find", 30), ("tune", 12)]
    assert float(found["VPNs"]["tune", 12].max()) == 0.25
    report = make_report([runs], tmp_path / "report", only=["prompts"])
    assert not report.notes
    text = (tmp_path / "report" / "prompts.svg").read_text()
    # the strongest is 0.5, which reaches white: grey and once as much
    assert "full colour \u00b10.5 of a pixel's range: shown \u00d7 1<" in text
    (place / "prompts.safetensors").unlink()
    with pytest.raises(UserError, match="prompts has no runs here: it needs runs with a prompt"):
        make_report([runs], tmp_path / "older", only=["prompts"])
    said = unseen_prompts(read_results([runs])[0])
    assert said.startswith("prompts: 1 of 1 runs with a prompt have no prompts.safetensors")


def test_one_strong_prompt_does_not_hide_the_others(tmp_path: Path) -> None:
    runs = write(tmp_path, *grid(("VPNs", "VPNs w. OMP", "VPNs w. Random"), (0.5,), (7,)))
    for place, strength in zip(sorted(runs.iterdir()), (0.1, 0.1, 2), strict=True):
        picture = np.full((3, 4, 4), strength, np.float16)
        write_prompts(place / "prompts.safetensors", {Moment("tune", 1): picture})
    make_report([runs], tmp_path / "report", only=["prompts"])
    text = (tmp_path / "report" / "prompts.svg").read_text()
    assert "\u00b10.3 of a pixel's range, what is stronger cut off: shown \u00d7 1.67<" in text


def test_of_many_methods_the_best_of_each_kind_are_shown() -> None:
    variants = [
        (kind, f"{kind} lr {i}", 0.5 + i / 100) for kind in ("OMP", "VPNs") for i in range(9)
    ]
    cells = [
        result(kind, 0.9, accuracy=accuracy) | {"grid": {"name": "g", "cell": name, "method": name}}
        for kind, name, accuracy in variants
    ]
    (group,) = groups_of(as_run(facts) for facts in cells)
    level, methods = group.at_level(lambda run: True)
    assert list(methods) == [f"{kind} lr {i}" for kind in ("VPNs", "OMP") for i in range(3, 9)]
    assert group.count(level, lambda run: True) == 18


def test_methods_at_one_sparsity_stand_nearer_to_it_than_to_the_next() -> None:
    series = {f"VPNs {i}": [(x, _difference(i)) for x in (80.0, 81.0)] for i in range(6)}
    marks = _places(series)
    assert all(abs(x - round(x)) < 0.5 for x in marks)
    alone = {f"VPNs {i}": [(80.0, _difference(i))] for i in range(6)}
    assert len(set(_places(alone))) == 6


def _difference(mean: float) -> Difference:
    return Difference(mean, None, None, (7,))


def _places(series: dict[str, Any]) -> list[float]:
    axes: Any = Figure().subplots()
    draw_gains(axes, series, styles_of(list(series)), LOOKS["screen"])
    marks = [line for line in axes.lines if line.get_marker() not in ("None", "")]
    return [float(x) for line in marks for x in line.get_xdata()]


def test_of_many_methods_each_is_shown_itself_before_a_better_variant(tmp_path: Path) -> None:
    plain = ("VPNs", "HYDRA", "OMP", "SNIP", "SynFlow", "GraSP", "Random", "LTH", "BiP", "GMP")
    variants = [f"{name}, lr {lr}" for name in plain[:4] for lr in (0.1, 0.2)]
    cells = [result(name, seed=seed, accuracy=0.6) for name in plain for seed in (7, 9)]
    cells += [result(name, seed=seed, accuracy=0.7) for name in variants for seed in (7, 9)]
    report = make_report([write(tmp_path / "runs", *cells)], tmp_path / "report")
    assert "accuracy_cost" in report.further
    shown = (tmp_path / "report" / "accuracy_cost.svg").read_text()
    assert "12 of 18 methods" in shown
    for name in plain:
        assert f">{name}</text>" in shown, name
