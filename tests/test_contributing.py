"""CONTRIBUTING.md: its map has every room, its method runs, its containers name what there is."""

import configparser
import re
from pathlib import Path

import pytest
import yaml

import vpns_lightning
from vpns_lightning import cli

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
PACKAGE = ROOT / "src" / "vpns_lightning"


def test_the_map_has_every_room_and_files_that_exist() -> None:
    rows = re.findall(r"^\| (`.+?) \| .+ \| (.+) \|$", PAGE.partition("## Add")[0], re.M)
    rooms = {name.strip("`"): files for names, files in rows for name in names.split(", ")}
    there = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms.keys() - {"cli.py"} == there
    for room, files in rooms.items():
        first = re.findall(r"`(\S+?)`", files)[0]
        assert any((PACKAGE / each / first).is_file() for each in (room, "exporting", "commands"))


def test_its_classes_can_be_subclassed() -> None:
    table = re.findall(r"^\| .+ \| `(\w+)` \| .+ \|$", PAGE.partition("Which class")[2], re.M)
    assert len(table) == 5
    assert all(issubclass(getattr(vpns_lightning, name), vpns_lightning.Pruner) for name in table)


def test_its_method_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.+?)```", PAGE, re.S)
    monkeypatch.chdir(tmp_path)
    Path("largest_last.py").write_text(code)
    given = ["--plugins", "largest_last.py", "--find.pruner", "LargestLast", "--print_config"]
    with pytest.raises(SystemExit) as left:
        cli.main(["fit", "--config", "quickstart", *given])
    assert left.value.code == 0
    pruner = yaml.safe_load(capsys.readouterr().out)["find"]["pruner"]
    assert pruner["class_path"] == "largest_last.LargestLast"


def test_the_image_is_built_of_what_there_is() -> None:
    text = (ROOT / "Dockerfile").read_text()
    (files,) = re.findall(r"^COPY (setup.+) \./$", text, re.M)
    folders = re.findall(r"^COPY (\w+) \w+$", text, re.M)
    assert [name for name in (*files.split(), *folders) if not (ROOT / name).exists()] == []
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert not {*files.split(), *folders} & set(ignored)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (extras,) = re.findall(r"\.whl\)\[(.+?)\]", text)
    assert {*extras.split(",")} <= {*setup["options.extras_require"]}


def test_the_recipe_for_clusters_is_that_of_the_image(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "containers" / "vpns.def").read_text()
    (saved,) = re.findall(r"docker save vpns -o (\S+)", text)
    assert f"\nFrom: {saved}\n" in text
    variables = re.findall(r"(\w+)=", text.partition("%environment")[2].partition("%runscript")[0])
    image = (ROOT / "Dockerfile").read_text()
    assert [name for name in variables if f"{name}=" not in image] == []
    for command in re.findall(r"^    vpns (.+)$", text.partition("%test")[2], re.M):
        cli.main(command.split())
    assert "quickstart" in capsys.readouterr().out


def test_hooks_before_a_commit_are_those_of_make_check() -> None:
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    asked = {tuple(hook["entry"].split()[:2]) for hook in repo["hooks"]}
    assert asked == {(".venv/bin/ruff", "check"), (".venv/bin/ruff", "format")}
    checked = re.findall(r"\$\(BIN\)/(ruff \S+)", (ROOT / "Makefile").read_text())
    assert {f"ruff {command}" for _, command in asked} == {*checked}


def test_continuous_integration_runs_the_one_script() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in [step.get("run") for step in steps]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100
    setup = (ROOT / "setup.cfg").read_text()
    versions = re.findall(r"Python :: (3\.\d+)$", setup, re.M)
    assert workflow["jobs"]["ci"]["strategy"]["matrix"]["python"] == versions
    made = re.findall(r"^make (\S+)$", (ROOT / ".ci" / "run").read_text(), re.M)
    assert made == ["check", "docs", "test", "test-slow"]
