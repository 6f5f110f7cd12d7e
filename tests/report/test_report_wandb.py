"""What ``vpns report --wandb`` logs, read back; and the view that a script builds."""

import importlib.util
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from report.toy_results import grid, write
from vpns_lightning.base.errors import UserError
from vpns_lightning.commands import report as command
from wandb_file import Written, runs_below

ROOT = Path(__file__).parents[2]


def table(folder: Path, key: str) -> Any:
    (file,) = folder.glob(f"wandb/offline-run-*/files/media/table/{key}_*.table.json")
    return json.loads(file.read_text())


def test_a_report_is_one_run_with_tables_charts_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    runs = write(tmp_path / "runs", *grid(("VPNs", "OMP"), (0.5, 0.9), (7, 9)))
    output = tmp_path / "out"
    command.run([str(runs), "--output", str(output), "--only", "runs", "--wandb=vpns"])
    folder = shlex.quote(str(output / "wandb"))
    assert f"wandb sync {folder}/offline-run-* sends it" in capsys.readouterr().out
    (told,) = runs_below(output).values()
    assert isinstance(told, Written)
    assert (told.run.job_type, told.run.project) == ("report", "vpns")
    assert {"VPNs", "OMP", "CIFAR100"} <= set(told.run.tags)
    assert told.summary["runs"] == 8
    listed = table(output, "all_runs")
    assert len(listed["data"]) == 8
    assert "test_accuracy" in listed["columns"]
    points = table(output, "points")
    rows = [dict(zip(points["columns"], row, strict=True)) for row in points["data"]]
    vpns = [row for row in rows if (row["method"], row["level"]) == ("VPNs", "0.9")]
    assert vpns[0]["seeds"] == 2
    assert vpns[0]["high"] - vpns[0]["mean"] == pytest.approx(vpns[0]["std"])
    drawn = {file.stem for file in output.glob("*.png")}
    figures = {Path(f).name.rpartition("_")[0] for f in told.files if "/figures/" in f}
    assert {name.rpartition("_")[0] for name in figures} == drawn
    # curves to point at, and the same with bands
    charts = [key for key in told.config if key.startswith("_wandb.visualize.")]
    assert any(key.endswith("_means") for key in charts)
    assert "_wandb.visualize.cost/CIFAR100" in charts
    bands = [file for file in output.glob("wandb/offline-run-*/files/media/html/**/*.html")]
    assert any("<svg" in file.read_text() and "VPNs" in file.read_text() for file in bands)


def test_a_report_that_wandb_does_not_take_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def refuse(**_: Any) -> None:
        raise RuntimeError("no such team")

    monkeypatch.setattr(wandb, "init", refuse)
    runs = write(tmp_path / "runs", *grid(("VPNs",), (0.5,), (7,)))
    with pytest.raises(UserError, match=r"W&B did not take the report \(no such team\)"):
        command.run([str(runs), "--output", str(tmp_path / "out"), "--wandb", "vpns"])
    assert (tmp_path / "out" / "index.html").is_file()


# the package's own; it is not imported where reports are made
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_view_filters_groups_and_plots_what_runs_have() -> None:
    pytest.importorskip("wandb_workspaces")
    path = ROOT / "scripts" / "wandb" / "workspace.py"
    spec = importlib.util.spec_from_file_location("workspace", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    view = module.workspace("team", "vpns", group="fig4")
    settings = view.runset_settings
    filters = str(settings.filters)
    assert "JobType" in filters.replace("jobType", "JobType")
    assert "fig4" in filters
    assert [key.name for key in settings.groupby] == ["dataset", "method", "sparsity_requested"]
    assert [section.name for section in view.sections] == [
        *("results", "curves by method", "pictures"),
    ]
    # what is sent to the server
    sent = view._to_model().model_dump_json(by_alias=True)
    for key in ("tune/acc", "test_accuracy", "gradient_steps", "tune/prompt"):
        assert key in sent
