"""What figures are made of: means over seeds, gaps, refusals, and the paper's definitions."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_results import PAD, as_run, grid, result

from vpns_lightning.report.definitions import DEFINITIONS, Definition
from vpns_lightning.report.drawing import unbroken
from vpns_lightning.report.exhibits import Exhibit, build
from vpns_lightning.report.figures import draw
from vpns_lightning.report.membership import members, overview
from vpns_lightning.report.runs import Run
from vpns_lightning.report.styles import LOOKS, STYLES, styles_of

BY_ID = {definition.id: definition for definition in DEFINITIONS}


def runs_of(results: Sequence[dict[str, Any]]) -> list[Run]:
    return [as_run(facts, Path(f"runs/{i}/result.json")) for i, facts in enumerate(results)]


def exhibit(definition: Definition | str, results: Sequence[dict[str, Any]]) -> Exhibit:
    chosen = BY_ID[definition] if isinstance(definition, str) else definition
    return build(chosen, members(chosen, runs_of(results)))


def labels(shown: Exhibit) -> list[str]:
    return [curve.label for panel in shown.panels for curve in panel.curves]


def test_a_point_is_mean_and_sample_deviation_over_seeds() -> None:
    accuracies = {7: 0.70, 9: 0.72, 17: 0.77}
    cells = [result("VPNs", 0.9, seed, accuracy=a) for seed, a in accuracies.items()]
    (panel,) = exhibit(overview(""), cells).panels
    (point,) = panel.curves[0].points
    # (70 + 72 + 77) / 3 = 73; deviations -3, -1, 4: sqrt((9 + 1 + 16) / 2) = sqrt(13)
    assert point.mean == pytest.approx(73)
    assert point.std == pytest.approx(math.sqrt(13))
    assert (point.level, point.x, point.seeds) == (0.9, 90, (7, 9, 17))


def test_a_single_seed_has_no_deviation() -> None:
    (panel,) = exhibit(overview(""), [result()]).panels
    assert panel.curves[0].points[0].std is None


def test_imported_runs_have_a_curve_of_their_own_without_seed_or_cost() -> None:
    unknown = dict.fromkeys(("gradient_steps", "seconds", "epochs", "forward_backward_passes"))
    imported = {"seed": None, "imported": True, "protocol": "released", **unknown}
    twice = [result(accuracy=a) | imported for a in (0.7, 0.74)]
    (panel,) = exhibit(overview(""), [*twice, *grid(("VPNs",), (0.8, 0.9), (7,))]).panels
    ours, theirs = panel.curves
    assert (ours.label, theirs.label) == ("VPNs", "VPNs (imported)")
    (point,) = theirs.points
    assert (point.mean, point.seeds) == (pytest.approx(72), (None, None))
    assert not panel.missing
    assert not exhibit("fig9", twice).panels


def test_points_lie_where_they_were_measured_and_belong_where_they_were_asked_for() -> None:
    cells = [result("LTH", 0.9, seed) | {"sparsity": 0.8926} for seed in (7, 9)]
    (panel,) = exhibit(overview(""), cells).panels
    (point,) = panel.curves[0].points
    assert point.level == 0.9
    assert point.x == pytest.approx(89.26)


def test_a_missing_cell_is_named_and_breaks_its_curve() -> None:
    cells = [
        facts
        for facts in grid(("VPNs", "OMP"), (0.5, 0.8, 0.9), (7, 9))
        if not (facts["method"] == "OMP" and facts["sparsity_requested"] == 0.8)
        and not (
            facts["method"] == "VPNs" and facts["sparsity_requested"] == 0.9 and facts["seed"] == 9
        )
    ]
    shown = exhibit(overview(""), cells)
    (panel,) = shown.panels
    assert panel.cells == 12
    assert shown.missing == ["CIFAR100: VPNs, 90 %: seed 9", "CIFAR100: OMP, 80 %: all seeds"]
    assert shown.absent == ()
    parts = {
        c.label: [[p.level for p in part] for part in unbroken(c, panel.levels)]
        for c in panel.curves
    }
    assert parts == {"VPNs": [[0.5, 0.8, 0.9]], "OMP": [[0.5], [0.9]]}


def test_a_sparsity_of_the_paper_that_nobody_ran_breaks_the_paper_s_curves() -> None:
    shown = exhibit("fig4", grid(("VPNs", "OMP"), (0.5, 0.7, 0.8), (7,)))
    (panel,) = shown.panels
    assert [[p.level for p in part] for part in unbroken(panel.curves[0], panel.levels)] == [
        [0.5],
        [0.7, 0.8],
    ]
    assert "sparsities 40 %, 60 %, 90 %, 95 %" in shown.absent
    assert "seeds 9, 17" in shown.absent
    assert any(text.startswith("methods Random, SNIP") for text in shown.absent)
    # what the paper lacks is said once, not as hundreds of cells
    assert shown.missing == []


def test_a_small_twin_is_not_measured_by_the_paper_s_levels() -> None:
    shown = exhibit("fig4", grid(("VPNs", "OMP"), (0.5, 0.9), (7,), grid="fig4_mini"))
    (panel,) = shown.panels
    assert panel.levels == (0.5, 0.9)
    assert shown.absent == ()


@pytest.mark.parametrize(
    "change",
    [{"protocol": "released"}, {"budget": {"tune": {"epochs": 5, "batches": 9}}}],
    ids=["protocol", "budget"],
)
def test_mixed_curves_are_refused_and_the_others_drawn(change: dict[str, Any]) -> None:
    cells = grid(("VPNs", "OMP"), (0.5, 0.9), (7,))
    cells[1] |= change
    shown = exhibit(overview(""), cells)
    (panel,) = shown.panels
    assert [c.label for c in panel.curves if c.points] == ["OMP"]
    (reason,) = shown.refused
    assert reason.startswith("VPNs: ")
    assert "runs/0" in reason
    assert "runs/1" in reason


def test_two_runs_of_one_cell_are_refused() -> None:
    (reason,) = exhibit(overview(""), [result(), result()]).refused
    assert "two runs of seed 7 at sparsity 0.9: runs/0 and runs/1" in reason


def test_what_removes_nothing_is_a_line_and_no_curve() -> None:
    (panel,) = exhibit(
        overview(""), [*grid(("OMP",)), result("Dense"), result("Dense", seed=9)]
    ).panels
    assert [curve.label for curve in panel.curves] == ["OMP"]
    assert [curve.label for curve in panel.dense] == ["Dense"]
    assert 0 not in panel.levels


def test_a_dense_warm_up_is_the_line_where_nobody_trained_a_dense_network() -> None:
    cells = [
        facts | {"dense_accuracy": 0.8 if facts["seed"] == 7 else 0.84}
        for facts in grid(("OMP", "VPNs"))
    ]
    (panel,) = exhibit(overview(""), cells).panels
    (line,) = panel.dense
    assert (line.label, line.points[0].mean) == ("Dense, warm-up", pytest.approx(82))
    cells[0]["dense_accuracy"] = 0.1  # not all runs of a seed had the same warm-up
    assert not exhibit(overview(""), cells).panels[0].dense
    assert not exhibit("fig9", cells).panels[0].dense


def test_each_data_set_and_backbone_has_a_panel_in_the_paper_s_order() -> None:
    names = ("DTD", "CIFAR100", "CIFAR10")
    cells = [facts for name in names for facts in grid(("VPNs",), dataset=name)]
    shown = exhibit("fig4", cells)
    assert [panel.dataset for panel in shown.panels] == ["CIFAR10", "CIFAR100", "DTD"]
    others = exhibit("fig5", grid(("VPNs",), backbone="vgg16"))
    assert [panel.backbone for panel in others.panels] == ["vgg16"]
    assert not exhibit("fig5", cells).panels


def pilot(method: str, sparsity: float, tuned: int) -> dict[str, Any]:
    facts = result(method, sparsity, accuracy=0.6, prompt=PAD, accuracy_before_prompt=0.5)
    facts["stages"]["tune"]["gradient_steps"] = tuned
    return facts | {"stages": facts["stages"] | {"prompt_tuning": dict(facts["stages"]["tune"])}}


def test_the_pilot_draws_each_run_before_and_after_its_prompt() -> None:
    cells = [pilot("OMP", s, tuned) for s in (0.5, 0.9) for tuned in (0, 10)]
    shown = exhibit("fig1", cells)
    assert [panel.title.rpartition(", ")[2] for panel in shown.panels] == [
        "fine-tuned",
        "zero-shot",
    ]
    for panel in shown.panels:
        means = {c.label: [p.mean for p in c.points] for c in panel.curves}
        assert means == {"OMP": [50, 50], "OMP + prompt": [60, 60]}
    assert not exhibit("fig4", cells).panels


def test_transfer_prompts_and_stages_are_told_apart() -> None:
    one, other = ["prompted"], ["plain"]
    cells = [
        *grid(("VPNs (transferred)", "OMP", "VPNs w. OMP"), (0.9,), (7,)),
        result(views={"find": one, "tune": other}),
        result("HYDRA", prompt=PAD, views={"find": other, "tune": one}),
    ]
    assert labels(exhibit("fig6", cells)) == ["VPNs (transferred)"]
    assert labels(exhibit("fig7", cells)) == ["OMP", "VPNs w. OMP"]
    assert labels(exhibit("figA11", cells)) == [
        "VPNs, prompt in mask finding only",
        "HYDRA, prompt in tuning only",
    ]


def test_structured_runs_show_accuracy_saving_and_size() -> None:
    facts = result("VPNs (structured)", 0.5, structured=True, macs=100, effective_macs=40)
    shown = exhibit("fig8", [facts])
    assert [panel.measure.label.partition(" ")[0] for panel in shown.panels] == [
        "test",
        "multiply-adds,",
        "parameters",
    ]
    assert shown.panels[1].curves[0].points[0].mean == pytest.approx(2.5)
    assert not exhibit("fig4", [facts]).panels


def test_the_prompt_study_varies_one_thing_in_each_panel() -> None:
    cells = [result(prompt=PAD | {"pad_size": pad}, grid="fig10") for pad in (2, 4, 8)]
    cells += [result(input_size=size, grid="fig10") for size in (32, 48)]
    cells.append(result(prompt={"name": "FixPrompt", "canvas_size": 64, "size": 30}, grid="fig10"))
    cells.append(result() | {"method": "HYDRA", "prompt": None, "grid": {"name": "fig10"}})
    shown = exhibit("fig10", cells)
    assert shown.refused == []
    found = {p.axis.label: [q.level for q in p.curves[0].points] for p in shown.panels}
    assert found == {
        "input size (px)": [32, 48, 64],
        "pad size (px)": [2, 4, 8],
        "kind of prompt": ["FixPrompt", "PadPrompt", "none"],
    }


def test_studies_in_separate_grids_may_share_cells() -> None:
    cells = [result(input_size=size, grid="fig10_input_size") for size in (32, 64)]
    cells += [result(prompt=PAD | {"pad_size": pad}, grid="fig10_pad_size") for pad in (4, 8)]
    shown = exhibit("fig10", cells)
    assert shown.refused == []
    assert [p.axis.label for p in shown.panels] == ["input size (px)", "pad size (px)"]
    assert [[q.level for q in p.curves[0].points] for p in shown.panels] == [[32, 64], [4, 8]]


def test_grids_that_only_make_masks_are_no_part_of_the_figure() -> None:
    cells = [*grid(("VPNs (transferred)", "OMP"), grid="fig6"), *grid(grid="fig6_source")]
    assert labels(exhibit("fig6", cells)) == ["VPNs (transferred)", "OMP"]
    assert len(labels(exhibit(overview("fig6_source"), cells))) == 4


def test_a_grid_s_runs_belong_to_the_figure_it_is_named_after() -> None:
    mine = grid(("VPNs", "OMP"), grid="fig7_cifar100")
    assert exhibit("fig7", mine).panels
    assert not exhibit("fig4", mine).panels
    own = grid(("VPNs", "OMP"), grid="my_grid")
    assert not exhibit("fig4", own).panels
    assert labels(exhibit(overview("my_grid"), own)) == ["VPNs", "OMP"]
    assert exhibit("fig9", own).panels
    assert not exhibit("fig9", [result(grid="fig10_pad")]).panels


def test_further_axes_of_a_grid_are_panels_of_their_own() -> None:
    cells = []
    for rate in (0.1, 0.01):
        for facts in grid(("OMP",), grid="rates"):
            cells.append(facts | {"grid": facts["grid"] | {"axes": {"tune.lr": rate}}})
    shown = exhibit(overview("rates"), cells)
    assert [panel.title for panel in shown.panels] == [
        "CIFAR100, resnet18, lr 0.01",
        "CIFAR100, resnet18, lr 0.1",
    ]


@pytest.mark.parametrize(("columns", "look"), [(2, "screen"), (1, "paper")])
def test_panels_of_one_data_set_stand_in_one_row(columns: int, look: str, tmp_path: Path) -> None:
    sets = ("CIFAR10", "CIFAR100")
    cells = [
        facts
        for name in sets
        for facts in grid(("OMP", "VPNs"), (0.8, 0.9), dataset=name, grid="mine", validation=0.5)
    ]
    for facts in cells:
        facts["stages"]["tune"]["metrics"] = {"tune/acc": 0.7}
    shown = exhibit(overview("mine"), cells)
    assert len(shown.panels) == 4  # test and validation accuracy of each
    (file, *_) = draw(shown, tmp_path, replace(LOOKS[look], formats=("svg",)))
    text = file.read_text()
    heights = {name: re.findall(rf'y="([\d.]+)"[^>]*>{name}, resnet18<', text) for name in sets}
    assert all(len(found) == 2 for found in heights.values())
    rows = [set(found) for found in heights.values()]
    assert [len(row) for row in rows] == [3 - columns] * 2
    assert not rows[0] & rows[1]


def test_every_method_looks_different_and_a_variant_like_its_method() -> None:
    names = [*STYLES, "VPNs w. OMP", "OMP + prompt", "VPNs, 60 %", "VPNs, 90 %", "mine", "yours"]
    styles = styles_of(names)
    # Slim and DepGraph stand beside no unstructured method, a warm-up beside no dense run
    assert len({(style.color, style.dash) for style in styles.values()}) == len(names) - 3
    assert styles["VPNs w. OMP"].color == styles["OMP + prompt"].color == styles["OMP"].color
    assert len({styles[name].dash for name in ("OMP", "VPNs w. OMP", "OMP + prompt")}) == 3


def test_many_methods_are_small_multiples_that_fit_a_column_of_a_paper(tmp_path: Path) -> None:
    variants = {"VPNs": ("", ", two views", ", tuning only", ", mask finding only")}
    variants |= {"HYDRA": ("", ", two views")} | {
        name: ("",) for name in ("Random", "OMP", "SNIP", "SynFlow")
    }
    cells = [
        facts | {"grid": {"name": "mine", "cell": name + tail, "method": name + tail}}
        for name, tails in variants.items()
        for tail in tails
        for facts in grid((name,), (0.8, 0.9), (7,))
    ]
    runs = [as_run(facts, Path(f"r{i}/result.json")) for i, facts in enumerate(cells)]
    paper = replace(LOOKS["paper"], formats=("svg",))
    files = draw(build(overview("mine"), runs), tmp_path, paper)
    text = files[0].read_text()
    width, height = (float(n) for n in re.findall(r'(?:width|height)="([\d.]+)pt"', text)[:2])
    assert width == 3.25 * 72
    assert height < 9 * 72
    for title in ("VPNs and HYDRA", "Random", "OMP", "SNIP", "SynFlow"):
        assert f">{title}</text>" in text or f">{title}</tspan>" in text
    # each method is in the one legend, with a look of its own
    for name, tails in variants.items():
        for tail in tails:
            assert text.count(f">{name}{tail}</text>") >= 1
    caption = files[1].read_text()
    assert caption.endswith("grid mine, CIFAR100, resnet18. One seed.\n")
