"""Configs are found by name wherever a command is given; `vpns configs` lists and copies them."""

from pathlib import Path

import pytest
import yaml

from vpns_lightning import cli
from vpns_lightning.base.errors import UserError
from vpns_lightning.base.shipped import config_file, shipped_folder, shipped_names
from vpns_lightning.grid.file import read_grid
from vpns_lightning.report.make import how_to_make

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand where there is no clone."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    cli.main(list(arguments))
    return capsys.readouterr().out


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as left:
        cli.main(list(arguments))
    assert left.value.code == 2
    return capsys.readouterr().err


def test_every_config_of_the_repository_comes_with_the_package() -> None:
    files = {str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yaml")}
    assert set(shipped_names()) == files
    assert {"quickstart", "pruner/omp", "grid/fig7_mini"} <= files


@pytest.mark.parametrize(
    "given", ["pruner/omp", "pruner/omp.yaml", "configs/pruner/omp.yaml", "configs/pruner/omp"]
)
def test_a_config_is_found_by_its_name(given: str) -> None:
    assert config_file(given).read_text() == (CONFIGS / "pruner" / "omp.yaml").read_text()


def test_a_file_that_exists_wins_and_a_folder_does_not(elsewhere: Path) -> None:
    (elsewhere / "quickstart").mkdir()
    assert config_file("quickstart") == shipped_folder() / "quickstart.yaml"
    (elsewhere / "debug").write_text("{}")
    assert config_file("debug") == Path("debug")


@pytest.mark.parametrize("given", ["../configs/quickstart", "pruner", "/quickstart.yaml"])
def test_what_is_no_name_finds_nothing(given: str) -> None:
    with pytest.raises(UserError, match="does not exist"):
        config_file(given)


def test_fit_takes_names_and_keys_over_them(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--config", "quickstart", "--config=pruner/omp", "--tune.epochs", "7")
    with pytest.raises(SystemExit):
        cli.main(["fit", *given, "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["find"]["pruner"]["class_path"].endswith(".OMP")
    assert config["data"]["class_path"].endswith(".Digits")
    assert config["tune"]["epochs"] == 7


def test_a_grid_is_found_by_its_name_and_so_are_the_configs_it_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert read_grid(Path("fig7_mini")).name == read_grid(Path("grid/fig7_mini")).name
    assert "0 done" in printed(capsys, "grid", "fig7_mini", "--dry-run")


def test_data_check_takes_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert "1,437 train" in printed(capsys, "data", "check", "--config", "quickstart")


def test_a_report_names_grids_that_can_be_run_from_anywhere() -> None:
    command = how_to_make("fig8")
    assert command == "vpns grid configs/grid/fig8.yaml"
    assert read_grid(Path(command.split()[-1])).name == "fig8"


def test_an_unknown_name_says_which_exist(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "fit", "--config", "quickstrat")
    assert "quickstrat does not exist" in said
    assert "did you mean 'quickstart'" in said
    assert "resnet18_cifar100" in said
    assert "pruner/..." in said
    assert "grid/fig7_mini" in refusal(capsys, "grid", "fig7_min")


def test_configs_are_listed_with_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "configs").splitlines()
    assert [line.split()[0] for line in lines] == shipped_names()
    assert all(len(line.split(maxsplit=1)[1]) > 10 for line in lines)
    (omp,) = printed(capsys, "configs", "pruner/omp").splitlines()
    assert omp == "pruner/omp  Overlay: OMP, one-shot magnitude pruning of the pretrained weights"


def test_copies_are_whole_and_replace_nothing(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = printed(capsys, "configs", "quickstart", "pruner", "--copy", "mine")
    copied = sorted((elsewhere / "mine").rglob("*.yaml"))
    assert sorted(said.splitlines()) == [str(file.relative_to(elsewhere)) for file in copied]
    assert len(copied) == 1 + len(list((CONFIGS / "pruner").glob("*.yaml")))
    for file in copied:
        original = CONFIGS / file.relative_to(elsewhere / "mine")
        assert file.read_text() == original.read_text()
    (elsewhere / "mine" / "quickstart.yaml").write_text("mine: true")
    assert "exists: nothing was copied" in refusal(
        capsys, "configs", "study", "quickstart", "--copy", "mine"
    )
    assert (elsewhere / "mine" / "quickstart.yaml").read_text() == "mine: true"
    assert not (elsewhere / "mine" / "study").exists()


def test_an_unknown_config_cannot_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'quickstart'" in refusal(capsys, "configs", "quickstar")
    assert refusal(capsys, "configs", "--copi", "x").startswith("vpns: error:")
