"""Paired differences and their intervals, checked by hand with printed quantiles of Student's t."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

import pytest
from toy_results import as_run, result, write

from vpns_lightning.report.definitions import DEFINITIONS
from vpns_lightning.report.exhibits import build
from vpns_lightning.report.make import make_report
from vpns_lightning.report.membership import overview
from vpns_lightning.report.panels import Panel, Point
from vpns_lightning.report.statistics import (
    Difference,
    difference_table,
    differences_csv,
    paired_difference,
)


def point(accuracies: Mapping[int, float]) -> Point:
    runs = tuple(as_run(result(seed=seed, accuracy=a)) for seed, a in accuracies.items())
    percent = tuple(100 * accuracy for accuracy in accuracies.values())
    return Point(0.9, 90.0, 0.0, None, tuple(accuracies), runs, percent)


def panel_of(*results: dict[str, object]) -> Panel:
    runs = [as_run(facts, Path(f"runs/{i}/result.json")) for i, facts in enumerate(results)]
    (panel,) = build(overview(""), runs).panels
    return panel


def difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference:
    found = paired_difference(point(first), point(second))
    assert found is not None
    return found


def test_three_pairs_have_the_interval_of_student_s_t_with_two_degrees_of_freedom() -> None:
    found = difference({7: 0.70, 9: 0.72, 17: 0.77}, {7: 0.69, 9: 0.70, 17: 0.74})
    # differences 1, 2, 3: mean 2, deviation 1, half width 4.3027 * 1 / sqrt(3)
    assert found.mean == pytest.approx(2)
    assert found.low == pytest.approx(2 - 2.48414, abs=1e-4)
    assert found.high == pytest.approx(2 + 2.48414, abs=1e-4)
    assert (found.seeds, found.verdict) == ((7, 9, 17), "undecided")


def test_runs_are_paired_by_seed_and_not_by_their_place() -> None:
    # seed 7: 60 - 50, seed 9: 50 - 41; half width 12.7062 * sqrt(0.5) / sqrt(2)
    found = difference({9: 0.50, 7: 0.60, 17: 0.9}, {7: 0.50, 9: 0.41, 23: 0.1})
    assert (found.mean, found.seeds) == (pytest.approx(9.5), (7, 9))
    assert found.low == pytest.approx(9.5 - 6.3531, abs=1e-3)
    assert found.verdict == "higher"


def test_what_lies_below_in_every_pair_is_lower() -> None:
    assert difference({7: 0.50, 9: 0.51}, {7: 0.70, 9: 0.712}).verdict == "lower"


def test_a_difference_that_never_varies_is_its_own_interval() -> None:
    found = difference({7: 0.5, 9: 0.5}, {7: 0.25, 9: 0.25})
    assert (found.low, found.mean, found.high, found.verdict) == (25, 25, 25, "higher")
    assert difference({7: 0.5, 9: 0.5}, {7: 0.5, 9: 0.5}).verdict == "undecided"


def test_one_pair_decides_nothing_and_none_is_no_difference() -> None:
    found = difference({7: 0.9}, {7: 0.1})
    assert (found.low, found.high, found.verdict) == (None, None, "undecided")
    assert paired_difference(point({7: 0.9}), point({9: 0.1})) is None


def test_the_table_takes_the_first_method_minus_each_other_one() -> None:
    table = difference_table(
        panel_of(
            result("OMP", 0.9, 7, accuracy=0.60), result("OMP", 0.9, 9, accuracy=0.61),
            result("VPNs", 0.9, 7, accuracy=0.70), result("VPNs", 0.9, 9, accuracy=0.712),
            result("VPNs", 0.5, 7, accuracy=0.80), result("Dense", seed=7, accuracy=0.82),
        )
    )  # fmt: skip
    assert table is not None
    assert table.columns == ("VPNs minus", "50 %", "90 %")
    # 10.0 and 10.2: half width 12.7062 * 0.141421 / sqrt(2) = 1.27
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["Dense", "-2.00 (1)", "-12.00 (1)"],
        ["OMP", "none", "+10.10 [+8.83, +11.37] (2)"],
    ]
    assert [cell.bold for cell in table.rows[1]] == [False, False, True]


def test_one_method_or_one_seed_alone_has_no_table() -> None:
    assert difference_table(panel_of(result("VPNs", seed=7), result("OMP", seed=7))) is None
    assert difference_table(panel_of(result("VPNs", seed=7), result("VPNs", seed=9))) is None


def test_no_difference_has_no_sign_of_rounding() -> None:
    table = difference_table(
        panel_of(
            # a whole is not the sum of its parts in floating point: 0.3 - (0.1 + 0.2) < 0
            *(result("VPNs", 0.9, seed, accuracy=0.3) for seed in (7, 9)),
            *(result("OMP", 0.9, seed, accuracy=0.1 + 0.2) for seed in (7, 9)),
        )
    )
    assert table is not None
    assert table.rows[0][1].text == "+0.00 [+0.00, +0.00] (2)"


def test_a_report_has_the_differences_of_any_two_methods_as_csv_and_the_tables(
    tmp_path: Path,
) -> None:
    accuracies = {"OMP": (0.6, 0.61), "Random": (0.5, 0.52), "VPNs": (0.7, 0.712)}
    facts = [
        result(method, 0.9, seed, accuracy=accuracy)
        for method, values in accuracies.items()
        for seed, accuracy in zip((7, 9), values, strict=True)
    ]
    report = make_report([write(tmp_path / "runs", *facts)], tmp_path / "report", only=["runs"])
    text = (tmp_path / "report" / "differences.csv").read_text()
    lines = list(csv.DictReader(io.StringIO(text)))
    pairs = {(line["method"], line["minus"]): line for line in lines}
    assert set(pairs) == {("VPNs", "Random"), ("VPNs", "OMP"), ("Random", "OMP")}
    found = pairs["Random", "OMP"]
    # -10 and -9: half width 12.7062 * 0.707107 / sqrt(2)
    assert float(found["difference"]) == pytest.approx(-9.5)
    assert float(found["low"]) == pytest.approx(-9.5 - 6.3531, abs=1e-3)
    assert (found["seeds"], found["verdict"], found["level"]) == ("7 9", "lower", "90 %")
    assert "VPNs minus the others" in (tmp_path / "report" / "runs.md").read_text()
    assert tmp_path / "report" / "differences.csv" in report.files


def test_costs_have_no_differences(tmp_path: Path) -> None:
    facts = [result(m, 0.9, seed) for m in ("VPNs", "HYDRA") for seed in (7, 9)]
    report = make_report([write(tmp_path / "runs", *facts)], tmp_path / "report", only=["fig9"])
    (exhibit,) = (drawn.exhibit for drawn in report.drawn if drawn.exhibit)
    assert {panel.measure.label for panel in exhibit.panels} >= {"gradient steps"}
    assert all(difference_table(panel) is None for panel in exhibit.panels)
    assert len(differences_csv([exhibit]).splitlines()) == 1


def test_a_prompt_learned_after_pruning_is_compared_with_the_same_runs_before_it() -> None:
    runs = []
    for seed, before, after in ((7, 0.60, 0.61), (9, 0.65, 0.64), (17, 0.70, 0.70)):
        facts = result("OMP", 0.9, seed, accuracy=after, accuracy_before_prompt=before)
        facts["stages"]["prompt_tuning"] = facts["stages"]["tune"]
        runs.append(as_run(facts))
    (definition,) = (d for d in DEFINITIONS if d.id == "fig1")
    lines = list(csv.DictReader(io.StringIO(differences_csv([build(definition, runs)]))))
    (line,) = lines
    assert (line["method"], line["minus"], line["verdict"]) == ("OMP", "OMP + prompt", "undecided")
    # -1, 1, 0 points: mean 0, half width 4.3027 * 1 / sqrt(3)
    assert float(line["difference"]) == pytest.approx(0)
    assert float(line["high"]) == pytest.approx(2.48414, abs=1e-4)
