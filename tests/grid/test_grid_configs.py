"""Every grid file of the repository: it expands, and the configs of its cells parse."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from vpns_lightning.commands.grid import resolver
from vpns_lightning.grid.cells import Cell, Resolve, expand
from vpns_lightning.grid.estimate import gradient_steps
from vpns_lightning.grid.file import read_grid

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs" / "grid").glob("*.yaml"))
FIGURES = ("fig1", "fig4", "fig5", "fig6", "fig7", "fig8", "fig9", "fig10", "figA11")
TABLES = ("tabA1", "tabA2", "tabA3")
EIGHT = "cifar10 cifar100 tiny_imagenet flowers102 dtd food101 stanford_cars oxford_pets"
# distinct kinds of entries; the others are parsed among the slow tests
QUICK = ("fig6_mini", "fig10_pad_size_mini", "tabA3_mini")
# a run of a grid in small: what is trained in seconds, cells that end within minutes
MOST_STEPS = 400
MOST_CELLS = 40


@pytest.fixture(scope="module")
def resolve() -> Resolve:
    """Return a parser that remembers: many grids hold the same config."""
    parse = resolver()
    known: dict[tuple[str, ...], dict[str, Any]] = {}

    def remembering(options: Sequence[str]) -> dict[str, Any]:
        key = tuple(options)
        if key not in known:
            known[key] = parse(options)
        return known[key]

    return remembering


@pytest.fixture(autouse=True)
def repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand where the commands are given: at the root of the repository."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


def slow_unless_quick(path: Path) -> Any:  # pytest's ParameterSet has no public name
    marks = [] if path.stem in QUICK else [pytest.mark.slow]
    return pytest.param(path, id=path.stem, marks=marks)


@pytest.mark.parametrize("path", [slow_unless_quick(path) for path in FILES])
def test_the_configs_of_all_cells_parse(
    path: Path, resolve: Resolve, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = expand(read_grid(path), resolve)
    assert capsys.readouterr().err == ""  # no key under the name that it had before
    assert len({cell.name for cell in cells}) == len(cells)
    for cell in cells:
        assert cell.config["find"]["sparsity"] == cell.sparsity
    if path.stem.endswith("_mini"):
        check_small(cells)


def check_small(cells: Sequence[Cell]) -> None:
    assert len(cells) <= MOST_CELLS
    for cell in cells:
        assert cell.config["data"]["class_path"].endswith(".Digits")
        steps = gradient_steps(cell.config)
        assert steps is not None
        assert steps <= MOST_STEPS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_grid_file_is_named_as_its_grid_and_says_its_command(path: Path) -> None:
    grid = read_grid(path)
    assert grid.runs == Path("runs") / path.stem
    if grid.name != path.stem:  # what adds to the figure of another file is named after it
        assert path.stem.startswith(f"{grid.name}_")
        assert read_grid(path.with_stem(grid.name)).name == grid.name
    header = path.read_text().partition("name:")[0]
    assert f"vpns grid configs/grid/{path.name}" in header
    files = [*grid.base]
    for axis in (grid.data, grid.backbones):
        files += [file for files in axis.values() for file in files]
    for method in grid.methods:
        files += method.configs
        files += [method.masks_of[0]] if method.masks_of else []
    for file in files:
        assert (ROOT / file).is_file(), file


def test_every_figure_and_table_has_a_grid_and_one_in_small() -> None:
    names = {path.stem for path in FILES}
    for figure in (*FIGURES, *TABLES):
        own = [name for name in names if name.partition("_")[0] == figure]
        assert any(name.endswith("_mini") for name in own), figure
        assert any(not name.endswith("_mini") for name in own), figure
    assert {f"fig4_{data}" for data in EIGHT.split()} <= names


def test_the_paper_s_grids_have_its_seeds_and_sparsities() -> None:
    for path in FILES:
        grid = read_grid(path)
        if grid.name.startswith(("fig4_", "fig5", "fig7")) and not grid.name.endswith("_mini"):
            assert grid.seeds == (7, 9, 17)
            assert grid.sparsities == (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
