"""``vpns report``: what it writes, what it refuses, and how fast it is."""

import json
import re
import resource
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from toy_results import grid, result, write

from vpns_lightning.base.errors import UserError
from vpns_lightning.cli import main
from vpns_lightning.report.definitions import IDS
from vpns_lightning.report.make import make_report
from vpns_lightning.report.styles import LOOKS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = write(tmp_path / "runs", *grid(("VPNs", "OMP", "Random"), (0.5, 0.9), (7, 9)))
    (folder / "cut").mkdir()
    (folder / "cut" / "result.json").write_text("{")
    return folder


def status(*arguments: object) -> int:
    try:
        main(["report", *map(str, arguments)])
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


def test_a_report_holds_table_figure_and_page(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report"
    assert status(runs, "--output", output, "--configs", ROOT / "configs") == 0
    names = {path.name for path in output.iterdir()}
    drawn = ("runs", "fig4", "fig7", "fig9")
    assert names == {
        *(f"{name}.{kind}" for name, kind in product(drawn, ("png", "svg", "md", "tex"))),
        *(f"{name}.{kind}" for name, kind in product(("tabA1", "tabA2", "tabA3"), ("md", "tex"))),
        *(f"{name}.{kind}" for name, kind in product(("density", "accuracy_cost"), ("png", "svg"))),
        *("runs.csv", "differences.csv", "index.html"),
    }
    assert len((output / "runs.csv").read_text().splitlines()) == 13
    assert (output / "fig4.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "12 runs" in said
    assert re.search(r"left out: .*cut/result\.json .*\n1 file left out", said)
    assert "fig8: no runs (vpns grid configs/grid/fig8.yaml)" in said
    several = "fig10: no runs (vpns grid configs/grid/fig10_input_size.yaml; and 2 more)"
    assert several in said


def test_figures_keep_their_text_and_come_out_the_same_again(runs: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_report([runs], tmp_path / name, only=["fig4"])
    one, two = ((tmp_path / name / "fig4.svg").read_text() for name in ("one", "two"))
    assert one == two
    for text in ("VPNs", "Random", "test accuracy (%)", "sparsity (%)", "CIFAR100, resnet18"):
        assert f">{text}</text>" in one


def test_only_draws_what_is_asked_for(runs: Path, tmp_path: Path) -> None:
    make_report([runs], tmp_path / "report", only=["fig7"])
    names = {path.name for path in (tmp_path / "report").iterdir()}
    figure = {f"fig7.{kind}" for kind in ("png", "svg", "md", "tex")}
    assert names == {"runs.csv", "differences.csv", *figure, "index.html"}


def test_methods_are_chosen_by_name_in_all_that_is_written(runs: Path, tmp_path: Path) -> None:
    assert status(runs, "--output", tmp_path, "--method", "vpn*", "Random") == 0
    for name in ("runs.csv", "fig4.md", "fig4.svg", "differences.csv"):
        text = (tmp_path / name).read_text()
        assert {"VPNs", "Random"} <= set(re.findall(r"\w+", text))
        assert not re.search(r"\bOMP\b", text), name
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 9


def test_only_given_twice_draws_both(runs: Path, tmp_path: Path) -> None:
    assert status(runs, "--output", tmp_path, "--only", "fig7", "--only", "tabA1") == 0
    assert {"fig7.svg", "tabA1.md"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--only", "fig77"], "unknown id 'fig77' (did you mean 'fig7'?)"),
        (["--only", "fig8"], "fig8 has no runs here: vpns grid configs/grid/fig8.yaml"),
        (["--onyl", "fig8"], "unrecognized arguments: --onyl"),
        (["--method", "Randon"], "no run has method 'Randon' (did you mean 'Random'?); there are:"),
    ],
)
def test_wrong_requests_are_one_line_and_status_2(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str],
    reason: str,
) -> None:  # fmt: skip
    assert status(runs, "--output", tmp_path / "report", *arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert reason in said


def test_no_results_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no result\.json"):
        make_report([tmp_path / "empty"], tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_mixed_runs_end_with_status_2_where_they_were_asked_for(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(runs, result("OMP", 0.8, protocol="released"))
    everything = tmp_path / "everything"
    assert status(runs, "--output", everything) == 0
    said = capsys.readouterr().out
    assert re.search(r"refused: fig4: OMP: protocol is paper in .+ and released in .+:", said)
    asked = tmp_path / "asked"
    assert status(runs, "--output", asked, "--only", "fig4") == 2
    assert "protocol is paper" in capsys.readouterr().err
    # the rest of what was asked for is written all the same
    assert ">VPNs</text>" in (asked / "fig4.svg").read_text()
    assert "| OMP | refused | refused | refused |" in (asked / "fig4.md").read_text()


def test_a_grid_can_be_asked_for_by_its_name(tmp_path: Path) -> None:
    write(tmp_path / "runs", *grid(grid="mine"), *grid(grid="fig4_mini"))
    report = make_report([tmp_path / "runs"], tmp_path / "report", only=["mine"])
    assert [drawn.definition.id for drawn in report.drawn] == ["mine"]


def test_no_grid_s_name_takes_the_place_of_another_or_of_a_part_of_the_page(tmp_path: Path) -> None:
    for name in ("a b", "a-b", "cost", "runs", ""):
        write(tmp_path / "runs", *grid(("VPNs", "OMP"), (0.5, 0.9), (7,), grid=name))
    report = make_report([tmp_path / "runs"], tmp_path / "report")
    own = [drawn for drawn in report.drawn if drawn.definition.grid is not None]
    names = [drawn.definition.file for drawn in own]
    assert names == ["runs", "a-b", "a-b-2", "cost-2", "runs-2"]
    assert all((tmp_path / "report" / f"{name}.svg").is_file() for name in names)
    # each of its own grid alone
    for drawn in own:
        assert drawn.exhibit
        points = [p for panel in drawn.exhibit.panels for c in panel.curves for p in c.points]
        assert {run.grid for p in points for run in p.runs} == {drawn.definition.grid}
    page = (tmp_path / "report" / "index.html").read_text()
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert [e["id"] for e in data["exhibits"]][:5] == names


def test_what_is_said_below_a_figure_fits_on_it(tmp_path: Path) -> None:
    write(tmp_path / "runs", result("VPNs", 0.5), result("VPNs", 0.5, seed=9))
    make_report([tmp_path / "runs"], tmp_path / "report", only=["fig4"])
    svg = (tmp_path / "report" / "fig4.svg").read_text()
    lines = re.findall(r">([^<]*(?:standard deviation|95\s%)[^<]*)</", svg)
    assert len(lines) == 2
    assert max(map(len, lines)) < 95


@pytest.mark.parametrize(("seeds", "spread"), [((7,), False), ((7, 9), True)])
def test_one_seed_has_no_standard_deviation(
    tmp_path: Path, seeds: tuple[int, ...], spread: bool
) -> None:
    write(tmp_path / "runs", *(result("VPNs", 0.5, seed=seed) for seed in seeds))
    only = ["fig4", "tabA1", "tabA3"]
    make_report([tmp_path / "runs"], tmp_path / "report", only=only)
    written = [p for i in only for p in (tmp_path / "report").glob(f"{i}.*") if p.suffix != ".png"]
    assert {path.suffix for path in written} == {".svg", ".md", ".tex"}
    # a table of data sets has none but a dense network's
    said = {p.name for p in written if "standard deviation" in p.read_text()}
    named = {p.name for p in written if p.stem != "tabA1"}
    assert said == (named if spread else set())


def test_a_grid_s_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    for facts in grid():
        write(tmp_path / "runs", facts)
    for file in (tmp_path / "runs").glob("*/result.json"):
        facts = json.loads(file.read_text()) | {"grid": {"name": "../out"}}
        file.write_text(json.dumps(facts))
    make_report([tmp_path / "runs"], tmp_path / "report")
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "report"}


def test_the_grid_files_that_make_an_id_are_named(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs" / "grid").mkdir(parents=True)
    for name in ("fig5_resnet50", "fig5_vgg16", "fig55"):
        (tmp_path / "configs" / "grid" / f"{name}.yaml").touch()
    monkeypatch.chdir(tmp_path)
    lacking = make_report([runs], tmp_path / "report").lacking
    assert lacking["fig5"] == (
        "vpns grid configs/grid/fig5_resnet50.yaml; vpns grid configs/grid/fig5_vgg16.yaml"
    )
    assert set(lacking) < set(IDS)


def test_a_thousand_results_take_less_than_ten_seconds_and_no_torch(tmp_path: Path) -> None:
    methods = ("VPNs", "HYDRA", "OMP", "Random", "SNIP")
    names = ("CIFAR10", "CIFAR100", "TinyImageNet", "DTD", "Food101", "OxfordPets", "Flowers102",
             "StanfordCars")  # fmt: skip
    cells = [
        facts
        for name in names
        for facts in grid(methods, (0.4, 0.6, 0.8, 0.9, 0.95), (7, 9, 17, 1, 2), dataset=name)
    ]
    assert len(cells) == 1_000
    write(tmp_path / "runs", *cells)
    code = (
        "import sys, vpns_lightning.commands.report as r\n"
        f"r.run([{str(tmp_path / 'runs')!r}, '--output', {str(tmp_path / 'report')!r}])\n"
        "sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # one thread, so this is the time on an idle machine, however busy this one is
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10
    assert done.stdout.startswith("1000 runs")
    assert (tmp_path / "report" / "fig4.svg").is_file()


def test_the_page_loads_nothing_from_elsewhere(runs: Path, tmp_path: Path) -> None:
    make_report([runs], tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    assert "default-src 'none'" in page
    assert re.findall(r"(?:src|href)=[\"'](?!#|data:)", page) == []
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", page)


def test_nothing_in_a_result_can_become_part_of_the_page(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><!--"
    write(tmp_path / "runs", result(command=evil))
    make_report([tmp_path / "runs"], tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    assert "alert(1)</script>" not in page
    stored = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert stored is not None
    assert json.loads(stored.group(1))["runs"][0]["command"] == evil


def test_a_paper_s_figure_has_its_width_and_no_title(runs: Path, tmp_path: Path) -> None:
    said = ("--only", "fig4", "--style", "paper", "--format", "pdf,svg,png")
    assert status(runs, "--output", tmp_path, *said) == 0
    assert (tmp_path / "fig4.pdf").read_bytes().startswith(b"%PDF")
    width, _ = png_size(tmp_path / "fig4.png")
    assert width == 975  # 3.25 inches of 300 dots
    svg = (tmp_path / "fig4.svg").read_text()
    title = "VPNs and the baselines on eight data sets"
    assert title not in svg
    assert ">VPNs</text>" in svg
    caption = (tmp_path / "fig4.caption.txt").read_text()
    assert caption.startswith(f"{title}. Mean and standard deviation over 2 seeds")
    assert status(runs, "--output", tmp_path, *said, "--style", "slides", "--width", "8") == 0
    assert png_size(tmp_path / "fig4.png")[0] == 2400
    assert title in (tmp_path / "fig4.svg").read_text()


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[16:24]
    return int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")


def test_a_single_seed_is_nowhere_said_to_have_a_deviation(tmp_path: Path) -> None:
    folder = write(tmp_path / "runs", *grid(("VPNs", "OMP", "Dense"), (0.5, 0.9), (7,)))
    for style in ("paper", "screen"):
        look = replace(LOOKS[style], formats=("svg",))  # the text of a picture can be read
        make_report([folder], tmp_path / style, look=look)
        texts = [
            p for p in (tmp_path / style).iterdir() if p.suffix in {".svg", ".md", ".tex", ".txt"}
        ]
        assert len(texts) > 10
        assert not [p.name for p in texts if "deviation" in p.read_text()]


def test_more_curves_than_a_panel_holds_are_shown_family_by_family(tmp_path: Path) -> None:
    pruners = ("OMP", "SNIP", "GraSP", "SynFlow", "LTH", "BiP")
    methods = ("VPNs", "HYDRA", *pruners, *(f"VPNs w. {name}" for name in pruners))
    folder = write(tmp_path / "runs", *grid(methods, (0.5, 0.9), (7,), grid="many"))
    make_report([folder], tmp_path, only=["many"])
    svg = (tmp_path / "many.svg").read_text()
    assert svg.count(">test accuracy (%)</text>") == 7
    assert all(svg.count(f">{name}</text>") == 1 for name in methods)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--format", "jpg,png"], "--format 'jpg' is unknown"),
        (["--width", "wide"], "--width must be column, page, or from 2 to 40 inches"),
        (["--font-size", "0"], "--font-size must be from 4 to 72 points"),
        (["--style", "poster"], "poster"),
    ],
)
def test_sizes_that_cannot_be_are_one_line(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str],
    reason: str,
) -> None:  # fmt: skip
    assert status(runs, "--output", tmp_path / "report", *arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert reason in said
    assert not (tmp_path / "report").exists()
