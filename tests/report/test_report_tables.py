"""Tables: hand-checked numbers, the best in bold, and text that Markdown and LaTeX take."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib import rc_context
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from toy_results import as_run, grid, result

from vpns_lightning.base.errors import UserError
from vpns_lightning.report.definitions import DEFINITIONS
from vpns_lightning.report.exhibits import build
from vpns_lightning.report.hyperparameters import hyperparameter_table, overlaid
from vpns_lightning.report.membership import members, overview
from vpns_lightning.report.runs import Run
from vpns_lightning.report.tables import (
    Cell,
    Table,
    cost_tables,
    data_table,
    escape,
    panel_table,
    spread,
    to_latex,
    to_markdown,
)

CONFIGS = Path(__file__).parents[2] / "configs"


def runs_of(*results: dict[str, Any]) -> list[Run]:
    return [as_run(facts, Path(f"runs/{i}/result.json")) for i, facts in enumerate(results)]


def table_of(*results: dict[str, Any], definition: str = "") -> Table:
    chosen = next((d for d in DEFINITIONS if d.id == definition), overview(""))
    panel, *_ = build(chosen, members(chosen, runs_of(*results))).panels
    return panel_table(panel)


def body(table: Table) -> dict[str, list[str]]:
    return {
        row[0].text: [f"**{c.text}**" if c.bold else c.text for c in row[1:]] for row in table.rows
    }


def test_entries_are_mean_deviation_and_number_of_seeds_the_best_in_bold() -> None:
    table = table_of(
        result("VPNs", 0.5, 7, accuracy=0.80),
        result("VPNs", 0.5, 9, accuracy=0.82),
        result("VPNs", 0.9, 7, accuracy=0.70),
        result("OMP", 0.5, 7, accuracy=0.79),
        result("OMP", 0.5, 9, accuracy=0.79),
        result("OMP", 0.9, 7, accuracy=0.75),
        result("Dense", seed=7, accuracy=0.9),
    )
    assert table.columns == ("method", "50 %", "90 %")
    # sqrt(((80 - 81)**2 + (82 - 81)**2) / 1) = 1.41
    assert body(table) == {
        "Dense": ["90.00 (1)", "90.00 (1)"],
        "VPNs": ["**81.00 ± 1.41 (2)**", "70.00 (1)"],
        "OMP": ["79.00 ± 0.00 (2)", "**75.00 (1)**"],
    }


def test_held_out_images_have_a_table_of_their_own_that_is_not_of_test_images() -> None:
    def searched(method: str, found: float, **changes: Any) -> dict[str, Any]:
        facts = result(method, accuracy=0.9, validation=0.5, grid="search", **changes)
        facts["stages"]["tune"]["metrics"] = {"tune/acc": found, "tune/acc_plain": 0.1}
        return facts

    plain = {"headline": "test_accuracy_plain"}
    runs = runs_of(searched("OMP", 0.61), searched("VPNs", 0.62), searched("HYDRA", 0.2, **plain))
    test, held_out = build(overview("search"), runs).panels
    assert body(panel_table(test)) == {
        "VPNs": ["**90.00 (1)**"],
        "OMP": ["**90.00 (1)**"],
        "HYDRA": ["89.00 (1)"],  # of plain images
    }
    assert body(panel_table(held_out)) == {
        "VPNs": ["**62.00 (1)**"],
        "OMP": ["61.00 (1)"],
        "HYDRA": ["10.00 (1)"],
    }
    # without held-out images the curves of a run are of its test images
    (alone,) = build(overview("search"), runs_of(searched("OMP", 0.6) | {"validation": 0.0})).panels
    assert alone.measure.label == "test accuracy (%)"


def test_equal_means_are_all_bold_and_a_lone_method_is_not() -> None:
    equal = [result("VPNs", accuracy=0.7), result("OMP", accuracy=0.700001)]
    assert body(table_of(*equal, result("HYDRA", accuracy=0.6))) == {
        "VPNs": ["**70.00 (1)**"],
        "OMP": ["**70.00 (1)**"],
        "HYDRA": ["60.00 (1)"],
    }
    assert body(table_of(*equal)) == {"VPNs": ["70.00 (1)"], "OMP": ["70.00 (1)"]}
    assert body(table_of(result("VPNs", accuracy=0.7))) == {"VPNs": ["70.00 (1)"]}


def test_what_is_missing_or_refused_says_so() -> None:
    table = table_of(
        result("VPNs", 0.5), result("VPNs", 0.9), result("OMP", 0.9),
        result("HYDRA", 0.9), result("HYDRA", 0.5, protocol="released"),
    )  # fmt: skip
    shown = body(table)
    assert shown["OMP"][0] == "missing"
    assert shown["HYDRA"] == ["refused", "refused"]


def test_the_least_time_and_steps_are_the_best() -> None:
    table = table_of(result("VPNs", seconds=60), result("LTH", 0.9, seconds=600), definition="fig9")
    assert body(table) == {"VPNs": ["**1.00 (1)**"], "LTH": ["10.00 (1)"]}


def test_spread_writes_thousands_and_decimals() -> None:
    assert spread(12345.678, None, 0) == "12,346"
    assert spread(7.25, 0.005, 2) == "7.25 ± 0.01"


def test_markdown_is_a_table_that_keeps_its_columns() -> None:
    table = Table("Name", ("method", "90 %"), ((Cell("a|b"), Cell("1.0", bold=True)),), "Note.")
    assert to_markdown(table) == (
        "### Name\n\n| method | 90 % |\n| --- | ---: |\n| a\\|b | **1.0** |\n\nNote.\n"
    )


def test_dense_networks_alone_have_their_accuracy_in_the_table() -> None:
    runs = [result("Dense", seed=seed, accuracy=0.9) for seed in (7, 9)]
    table = table_of(*runs)
    assert table.columns == ("method", "0 %")
    assert body(table) == {"Dense": ["90.00 ± 0.00 (2)"]}


def test_a_row_of_latex_begins_with_its_own_name() -> None:
    rows = tuple((Cell(name), Cell("1")) for name in ("[mine]", "*", "a|b"))
    text = to_latex(Table("t", ("method", "50 %"), rows))
    assert r"{[}mine] & 1 \\" in text
    assert r"{*} & 1 \\" in text
    assert r"a\textbar{}b & 1 \\" in text


def test_latex_escapes_what_it_would_read_as_commands() -> None:
    assert escape(r"90 % & a_b #1 $x {y} ~ ^ \z < > ±") == (
        r"90 \% \& a\_b \#1 \$x \{y\} \textasciitilde{} \textasciicircum{} "
        r"\textbackslash{}z \textless{} \textgreater{} $\pm$"
    )
    cells = ((Cell("VPNs_x"), Cell("1.00 ± 0.10 (2)", bold=True)),)
    lines = to_latex(Table("50 % & more", ("method", "90 %"), cells)).splitlines()
    assert r"VPNs\_x & \textbf{1.00}$_{\pm 0.10}$ \\" in lines
    assert r"method & 90 \% \\" in lines
    assert r"\caption{50 \% \& more.}" in lines
    assert lines.count(r"\end{tabular}") == 1


def test_the_cost_table_compares_methods_at_equal_sparsity() -> None:
    runs = runs_of(*grid(("VPNs", "LTH"), (0.5, 0.9), (7, 9)))
    (table,) = cost_tables(runs)
    rows = [[cell.text for cell in row] for row in table.rows]
    assert [row[:2] for row in rows] == [
        ["50 %", "LTH"],
        ["50 %", "VPNs"],
        ["90 %", "LTH"],
        ["90 %", "VPNs"],
    ]
    # 30 + 30 epochs of 196 batches, ten steps a second
    assert rows[1][2:6] == ["60", "11,760", "11,760", "19.60"]
    assert rows[1][6].endswith("(2)")


def test_variants_of_a_method_are_told_apart_by_their_grid() -> None:
    two = {"name": "tabA3", "method": "HYDRA, two steps"}
    runs = runs_of(
        result("HYDRA", grid="tabA3"), result("HYDRA", protocol="released") | {"grid": two}
    )
    (table,) = cost_tables(runs)
    assert [row[1].text for row in table.rows] == ["HYDRA", "HYDRA, two steps"]
    assert not [cell for row in table.rows for cell in row if cell.text == "refused"]


def test_the_cost_of_mixed_runs_is_refused() -> None:
    (table,) = cost_tables(runs_of(result(), result(seed=9, protocol="released")))
    assert [cell.text for cell in table.rows[0]][2:] == ["refused"] * 5


def test_the_data_table_says_what_the_runs_say() -> None:
    facts = result(dataset="DTD", classes=47)
    del facts["train_images"]
    dense = [result("Dense", seed=seed, accuracy=a) for seed, a in ((7, 0.7), (9, 0.72))]
    table = data_table(runs_of(result(), result(batch_size=64), facts, *dense))
    assert body(table) == {
        "CIFAR100": ["100", "50,000", "10,000", "256, 64", "64", "71.00 ± 1.41 (2)"],
        "DTD": ["47", "unknown", "10,000", "256", "64", "no run"],
    }


def test_hyperparameters_are_those_of_the_configs() -> None:
    table = hyperparameter_table(CONFIGS)
    rows = {(row[0].text, row[1].text): [cell.text for cell in row[2:]] for row in table.rows}
    pad = "PadPrompt (canvas_size 224, pad_size 16)"
    assert rows["VPNs", "find"] == ["30", "Adam", "0.0001", "0.0001", pad]
    assert rows["VPNs", "tune"] == ["30", "SGD", "0.01", "0.0001", pad]
    assert rows["HYDRA", "find"] == ["60", "Adam", "0.0001", "0.0001", "none"]
    assert rows["OMP", "find"] == ["none", "", "", "", "none"]
    assert rows["LTH", "find"][:3] == ["60", "SGD", "0.01"]
    assert rows["BiP", "tune"][0] == "none"
    assert {name for name, _ in rows} >= {"Random", "SNIP", "GraSP", "SynFlow", "Dense"}


def test_hyperparameters_follow_the_folder_that_is_given(tmp_path: Path) -> None:
    base = yaml.safe_load((CONFIGS / "resnet18_cifar100.yaml").read_text())
    base["tune"]["epochs"] = 5
    (tmp_path / "pruner").mkdir()
    (tmp_path / "resnet18_cifar100.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "pruner" / "omp.yaml").write_text("find: {pruner: OMP}\nnetwork: {prompt: null}\n")
    texts = [[cell.text for cell in row[:3]] for row in hyperparameter_table(tmp_path).rows]
    assert texts == [
        ["VPNs", "find", "30"],
        ["VPNs", "tune", "5"],
        ["OMP", "find", "none"],
        ["OMP", "tune", "5"],
    ]
    (tmp_path / "pruner" / "omp.yaml").write_text("find: OMP\n")
    with pytest.raises(UserError, match=r"omp\.yaml: find must be a mapping, got 'OMP'"):
        hyperparameter_table(tmp_path)
    (tmp_path / "pruner" / "omp.yaml").write_text("{")
    with pytest.raises(UserError, match=r"omp\.yaml is no YAML"):
        hyperparameter_table(tmp_path)


def test_an_overlay_merges_mappings_and_replaces_classes() -> None:
    base = {"find": {"epochs": 3, "opt": {"class_path": "A", "init_args": {"lr": 1}}}}
    merged = overlaid(base, {"find": {"opt": {"class_path": "B"}}})
    assert merged == {"find": {"epochs": 3, "opt": {"class_path": "B"}}}
    assert base["find"]["opt"]["class_path"] == "A"


HOSTILE = "<script>x</script>|[a](javascript:x)\n# heading"


def test_a_hostile_name_is_text_wherever_markdown_shows_it() -> None:
    table = Table(HOSTILE, ("method",), ((Cell(HOSTILE),),), HOSTILE)
    lines = to_markdown(table).splitlines()
    assert len(lines) == 7
    for line in (lines[0], lines[4], lines[6]):
        assert "<script" not in line
        assert "[a](" not in line
    assert lines[4].count("|") - lines[4].count(r"\|") == 2


def latex_width(cell: str, points: float) -> float:
    """Return the width in points of what TeX's own font makes of a cell."""
    plain = re.sub(r"\\textbf\{([^{}]*)\}", r"\1", cell).replace(r"\,", "").replace("\\%", "%")
    font = FontProperties(family="cmr10", size=points)
    return float(TextPath((0, 0), plain, prop=font).get_extents().width)


def test_four_sparsities_fit_a_column_of_latex() -> None:
    methods = ("VPNs", "HYDRA", "SynFlow", "VPNs w. Random")
    text = to_latex(table_of(*grid(methods, (0.5, 0.7, 0.8, 0.95), (7, 9, 17))), "mine")
    assert r"\label{tab:mine}" in text
    assert r"\begin{table}" in text
    assert "over seeds, 3 seeds; best" in text
    rows = [r.removesuffix(r" \\").split(" & ") for r in text.splitlines() if " & " in r]
    with rc_context({"mathtext.fontset": "cm"}):
        widths = [
            max(latex_width(cell, 8) for cell in column) for column in zip(*rows, strict=True)
        ]
    assert sum(widths) + 4 * 2 * 3 < 3.25 * 72.27  # tabcolsep of 3 pt at both sides


def test_long_names_of_a_grid_take_lines_and_not_the_column() -> None:
    name = "VPNs, mask finding only & more"
    rows = ((Cell(name), *(Cell("70.10 ± 0.20 (3)") for _ in range(4))),)
    text = to_latex(Table("a", ("method", "50 %", "70 %", "80 %", "95 %"), rows))
    assert r"\shortstack[l]{VPNs, mask\\finding only \&\\more} & 70.10" in text
    assert max(latex_width(line, 8) for line in ("VPNs, mask", "finding only")) < 50


def test_counts_that_differ_stand_in_the_cells_and_intervals_below_the_means() -> None:
    rows = ((Cell("OMP"), Cell("70.10 ± 0.20 (2)"), Cell("65.00 (1)")),)
    text = to_latex(Table("a", ("method", "50 %", "90 %"), rows, "Mean, (number of seeds)."))
    assert r"OMP & 70.10$_{\pm 0.20}$\,(2) & 65.00\,(1) \\" in text
    assert "(number of seeds)" in text
    rows = ((Cell("OMP"), Cell("+1.20 [+0.40, +2.00] (3)", bold=True)),)
    text = to_latex(Table("a", ("minus", "50 %"), rows, "(number of pairs)"))
    assert r"\shortstack{\textbf{+1.20}\\{\tiny {[}+0.40, +2.00]}}" in text
    assert r"\caption{a. 3 pairs}" in text


def test_more_levels_than_a_column_holds_take_the_page() -> None:
    table = table_of(*grid(("VPNs", "OMP"), (0.5, 0.6, 0.7, 0.8, 0.9)))
    assert r"\begin{table*}" in to_latex(table)
