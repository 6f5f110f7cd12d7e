"""``vpns grid`` as a user meets it: plans, refusals, what is passed on."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from vpns_lightning import cli
from vpns_lightning.commands import grid as command
from vpns_lightning.commands.grid import resolver

ROOT = Path(__file__).parents[2]
FAKE = (sys.executable, str(Path(__file__).with_name("fake_fit.py")))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working directory whose ``vpns fit`` is the stand-in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "FIT", FAKE)
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    monkeypatch.setenv("FAKE_PLAN", "{}")
    return tmp_path


def write(folder: Path, **changes: Any) -> str:
    content = {
        "name": "fig0",
        "about": "a test",
        "base": str(ROOT / "configs" / "quickstart.yaml"),
        "methods": {"VPNs": [], "OMP": [str(ROOT / "configs" / "pruner" / "omp.yaml")]},
        "sparsities": [0.9],
        "seeds": [7],
        **changes,
    }
    (folder / "grid.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return "grid.yaml"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(["grid", *arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("vpns: error: ")
    assert said.count("\n") == 1
    return said


def test_a_grid_is_planned_run_and_found_done(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(folder)
    cli.main(["grid", file, "--dry-run"])
    plan = capsys.readouterr().out
    assert "fig0: 2 cells" in plan
    # 23 batches: 3 + 2 + 3 epochs, and 3 + 120 of OMP's overlay
    assert "184" in plan
    assert "2,829" in plan
    assert "2 cells, 0 done; 3,013 gradient steps" in plan
    assert not (folder / "runs").exists()

    monkeypatch.setenv("FAKE_PLAN", json.dumps({"omp": ["crash"], "*": ["ok"]}))
    with pytest.raises(SystemExit) as ended:
        cli.main(["grid", file, "--retries", "0"])
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert "1 of 2 cells are done in runs/fig0" in printed
    assert "vpns: error: the reason" in printed
    # the handlers are those of before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    monkeypatch.setenv("FAKE_PLAN", "{}")
    cli.main(["grid", file])
    printed = capsys.readouterr().out
    assert "2 of 2 cells are done" in printed
    best = [line.split() for line in printed.splitlines() if "90 %" in line]
    assert sorted(line[0] for line in best) == ["OMP", "VPNs"]
    assert "all of them: vpns report runs/fig0 --output report/fig0" in printed
    cli.main(["grid", file, "--dry-run"])
    assert "2 cells, 2 done" in capsys.readouterr().out
    logs = [path.read_text() for path in folder.glob("runs/fig0/*/grid.log")]
    assert sum(log.count("--- 20") for log in logs) == 3


def test_keys_set_on_the_command_line_reach_every_cell(folder: Path) -> None:
    cli.main(["grid", write(folder), "--set", "tune.epochs=5", "--runs", "elsewhere"])
    configs = [yaml.safe_load(path.read_text()) for path in folder.glob("elsewhere/*/config.yaml")]
    assert [config["tune"]["epochs"] for config in configs] == [5, 5]
    told = [json.loads(p.read_text())["grid"] for p in folder.glob("elsewhere/*/result.json")]
    assert {cell["method"] for cell in told} == {"VPNs", "OMP"}


def test_a_plan_shows_whole_names_and_damaged_results(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    file = write(folder, name="fig0 [/draft]", methods={"m" * 300: [], "n" * 80: []}, runs="runs")
    cli.main(["grid", file])
    names = [path.parent.name for path in folder.glob("runs/*/result.json")]
    assert {len(name) for name in names} == {255, 7 + 80 + 21}
    (folder / "runs" / names[0] / "result.json").write_text("")
    capsys.readouterr()
    cli.main(["grid", file, "--dry-run"])
    plan = capsys.readouterr().out
    assert "fig0 [/draft]: 2 cells" in plan
    assert all(name in plan for name in names)
    assert "gradient steps" in plan
    assert "2 cells, 1 done" in plan
    assert "damaged" in plan


def test_the_home_folder_is_found_wherever_runs_is_given(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder / "home"))
    cli.main(["grid", write(folder), "--runs=~/runs"])
    assert len(list(folder.glob("home/runs/*/result.json"))) == 2
    assert not (folder / "~").exists()


def test_wrong_input_is_refused_before_anything_starts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "nothing.yaml does not exist" in refused(capsys, "nothing.yaml")
    wrong = {"OMP": [{"find.epcohs": 1}]}
    said = refused(capsys, write(folder, methods=wrong))
    assert "grid.yaml: method 'OMP': " in said
    assert "find has no option 'epcohs' (did you mean 'epochs'?)" in said
    said = refused(capsys, write(folder, methods={"A": ["none.yaml"]}))
    assert "grid.yaml: method 'A': config file none.yaml does not exist" in said
    file = write(folder)
    assert "sparsity" in refused(capsys, write(folder, sparsities=[1.5]))
    file = write(folder)
    assert "--set wants KEY=VALUE, got 'tune.epochs'" in refused(
        capsys, file, "--set", "tune.epochs"
    )
    assert "--slots must be at least 1" in refused(capsys, file, "--slots", "0")
    assert "--retries must be at least 0" in refused(capsys, file, "--retries", "-1")
    few = refused(capsys, file, "--gpus-per-cell", "99")
    assert "--gpus-per-cell 99 asks for more GPUs than a machine here has" in few
    assert "add --engine ray" in refused(capsys, file, "--address", "host:1")
    assert "unrecognized arguments: --slot_s" in refused(capsys, file, "--slot_s")
    assert not list(folder.glob("runs/fig0/digits*"))


def test_cells_whose_masks_are_missing_are_not_started(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(folder, name="fig0_source")
    (folder / source).rename(folder / "source.yaml")
    transfer = str(ROOT / "configs" / "study" / "transfer.yaml")
    moved = {"use": transfer, "masks_of": {"grid": "source.yaml", "method": "VPNs"}}
    said = refused(capsys, write(folder, methods={"moved": moved}))
    assert "1 cells tune masks that are not there yet, such as runs/fig0_source/digits_vpns" in said


def test_every_key_of_the_sweep_is_one_of_vpns_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    sweep = yaml.safe_load((ROOT / "configs" / "wandb" / "sweep.yaml").read_text())
    options = []
    for key, choice in sweep["parameters"].items():
        for value in choice.get("values", [choice.get("value")]):
            options.append(f"--{key}={value}")
    config = resolver()(["--config=configs/resnet18_cifar100.yaml", *options])
    # the last of each
    assert config["find"]["optimizer"]["init_args"]["lr"] == 1e-5
    assert config["tune"]["optimizer"]["init_args"]["lr"] == 1e-3
