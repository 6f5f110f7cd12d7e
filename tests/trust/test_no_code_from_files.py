"""No file that a command opens runs code: configs, run folders, grids, weights, checkpoints."""

import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from payloads import configs, evil_module, pickles

from toy_config import BASE, Config, laid
from toy_folder import finished_network, write_folder
from vpns_lightning import cli

pytestmark = pytest.mark.trust

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a path that hostile code would make; a hostile module can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    evil_module(tmp_path, tmp_path / "mark")
    return tmp_path / "mark"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> tuple[int, str]:
        """Return exit status and what was said; nothing foreign may be imported by then."""
        try:
            cli.main(arguments)
            code = 0
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 1
        except Exception as error:
            return 1, f"traceback of {error!r}"
        said = capsys.readouterr().err
        assert "evil_module" not in sys.modules
        return code, said

    return run


def refused(said: tuple[int, str]) -> bool:
    code, text = said
    lines = [line for line in text.splitlines() if line.startswith("vpns: error")]
    return code == 2 and len(lines) == 1 and "weights_only" not in text


def written(folder: Path, content: Config | str) -> Path:
    path = folder / "hostile.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_configs_run_no_code(
    mark: Path, tmp_path: Path, command: Command, figures: dict[str, tuple[str, int, str, int]]
) -> None:
    tried, passed = 0, []
    for name, content in configs(tmp_path, mark):
        path = written(tmp_path, content)
        root = f"--trainer.default_root_dir={tmp_path / f'run{tried}'}"
        said = command("fit", f"--config={path}", root)
        tried += 1
        if mark.exists() or not refused(said):
            passed.append((name, mark.exists(), said))
            mark.unlink(missing_ok=True)
    figures["hostile configs of fit"] = ("tried", tried, "executed or not refused", len(passed))
    assert not passed, passed
    assert tried >= 60


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    facts = {"method": "VPNs", "test_accuracy": 0.5, "test_accuracy_plain": 0.5}
    return write_folder(tmp_path_factory.mktemp("run") / "run", finished_network(), **facts)


def commands_on(run: Path, folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield every subcommand that opens a run folder."""
    (folder / "images").mkdir(exist_ok=True)
    yield "test", f"--run={run}", "--trainer.accelerator=cpu"
    yield "validate", f"--run={run}", "--trainer.accelerator=cpu"
    yield "predict", f"--run={run}", f"--images={folder / 'images'}"
    yield "export", f"--run={run}", f"--output={folder / 'net.safetensors'}"
    yield "bench", f"--run={run}"


def test_run_folders_run_no_code_in_any_subcommand(
    mark: Path,
    finished: Path,
    tmp_path: Path,
    command: Command,
    figures: dict[str, tuple[str, int, str, int]],
) -> None:
    import shutil

    stored = yaml.safe_load((finished / "config.yaml").read_text())
    network = stored["network"]
    prompts: list[object] = [
        {"class_path": "evil_module.Prompt", "init_args": network["prompt"]["init_args"]},
        {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(mark)]}},
        "evil_module.Prompt",
        f'{{"class_path": "os.system", "init_args": {{"command": "touch {mark}"}}}}',
        str(written(tmp_path, {"class_path": "evil_module.Prompt"})),
    ]
    places: list[Config] = [{"network": {**network, "prompt": prompt}} for prompt in prompts]
    places += [{"network": {**network, "backbone": "evil_module.touch"}}]
    places += [{"network": {**network, "backbone": {"class_path": "os.system"}}}]
    tried, passed = 0, []
    for index, place in enumerate(places):
        run = tmp_path / f"hostile{index}"
        shutil.copytree(finished, run)
        (run / "config.yaml").write_text(yaml.safe_dump({**stored, **place}))
        for arguments in commands_on(run, tmp_path):
            said = command(*arguments)
            tried += 1
            if mark.exists() or not refused(said):
                passed.append((arguments[0], place, mark.exists(), said))
                mark.unlink(missing_ok=True)
    for index, data in enumerate(
        ({"class_path": "evil_module.Data"}, "evil_module.Data", {"class_path": "os.system"})
    ):
        run = tmp_path / f"data{index}"
        shutil.copytree(finished, run)
        (run / "config.yaml").write_text(yaml.safe_dump({**stored, "data": data}))
        for arguments in list(commands_on(run, tmp_path))[:2]:
            said = command(*arguments)
            tried += 1
            if mark.exists() or not refused(said):
                passed.append((arguments[0], data, mark.exists(), said))
    for verb in ("check", "prepare"):
        for given in (
            "--data=evil_module.Data",
            f"--config={written(tmp_path, laid('data', {'class_path': 'evil_module.Data'}))}",
            f"--config={written(tmp_path, laid('data', 'evil_module.Data'))}",
        ):
            said = command("data", verb, given)
            tried += 1
            if mark.exists() or not refused(said):
                passed.append((verb, given, mark.exists(), said))
    figures["hostile run folders and data sections"] = ("tried", tried, "passed", len(passed))
    assert not passed, passed


def test_grids_run_no_code(
    mark: Path, tmp_path: Path, command: Command, figures: dict[str, tuple[str, int, str, int]]
) -> None:
    base = written(tmp_path, BASE)
    plugin = str(tmp_path / "evil_module.py")
    thing = {"class_path": "evil_module.Thing"}
    popen = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(mark)]}}
    values: list[Config] = [
        {"plugins": plugin},
        {"plugins": "evil_module"},
        {f"plugins={plugin} ": "x"},
        {"config": str(written(tmp_path, BASE))},
        {"find.pruner": thing},
        {"find": {"pruner": "evil_module.Pruner"}},
        {"trainer.logger": [popen]},
        {"tune.optimizer": '{"class_path": "evil_module.Thing"}'},
        {"trainer.callbacks+": popen},
        {"find.pruner.class_path": "evil_module.Pruner"},
    ]
    tried, passed = 0, []
    for value in values:
        for place in ("overrides", "methods", "axes"):
            grid: Config = {
                **{"name": "g", "about": "a grid", "base": str(base), "sparsities": [0.5]},
                **{"seeds": [1], "methods": {"m": []}, "runs": str(tmp_path / "runs")},
            }
            if place == "methods":
                grid["methods"] = {"m": [value]}
            elif place == "axes":
                grid["axes"] = {key: [each] for key, each in value.items()}
            else:
                grid[place] = value
            file = tmp_path / "grid.yaml"
            file.write_text(yaml.safe_dump(grid))
            said = command("grid", str(file), "--dry-run")
            tried += 1
            if mark.exists() or not refused(said):
                passed.append((place, value, mark.exists(), said))
                mark.unlink(missing_ok=True)
    figures["hostile values in grids"] = ("tried", tried, "executed or not refused", len(passed))
    assert not passed, passed


def test_pickles_run_no_code(
    mark: Path,
    finished: Path,
    tmp_path: Path,
    command: Command,
    figures: dict[str, tuple[str, int, str, int]],
) -> None:
    config = written(
        tmp_path, {k: v for k, v in BASE.items() if k != "find"} | {"find": BASE["find"]}
    )
    tried, passed = 0, []
    for index, (name, content) in enumerate(pickles(mark)):
        files = []
        for suffix in ("pth", "safetensors", "ckpt"):
            file = tmp_path / f"weights{index}.{suffix}"
            torch.save(content, file)
            files.append(file)
        plain = tmp_path / f"plain{index}.pth"
        plain.write_bytes(pickle.dumps(content))
        files.append(plain)
        for file in files:
            attempts = [
                ("fit", f"--config={config}", f"--network.weights={file}"),
                (
                    *("fit", f"--config={config}", "--find.pruner=Stored"),
                    *(f"--find.pruner.path={file}", "--find.epochs=0"),
                ),
                (
                    *("import", f"--checkpoint={file}", "--backbone=resnet18", "--data=Digits"),
                    *("--sparsity=0.5", f"--output={tmp_path / 'imported'}"),
                ),
            ]
            for arguments in attempts:
                root = [f"--trainer.default_root_dir={tmp_path / f'run{tried}'}"]
                said = command(*arguments, *(root if arguments[0] == "fit" else []))
                tried += 1
                if mark.exists() or not refused(said):
                    passed.append((name, arguments, mark.exists(), said))
                    mark.unlink(missing_ok=True)
        run = tmp_path / f"begun{index}"
        root = f"--trainer.default_root_dir={run}"
        (run / "find").mkdir(parents=True)
        torch.save(content, run / "find" / "last.ckpt")
        said = command("fit", f"--config={config}", root)
        tried += 1
        if mark.exists() or not refused(said):
            passed.append((name, "last.ckpt", mark.exists(), said))
            mark.unlink(missing_ok=True)
        torch.save(content, run / "handoff.safetensors")
        for said in (
            command("fit", f"--config={config}", root),
            command("test", f"--run={run}"),
            command("export", f"--run={run}", f"--output={tmp_path / 'x.pt2'}"),
        ):
            tried += 1
            if mark.exists() or not refused(said):
                passed.append((name, "handoff.safetensors", mark.exists(), said))
    figures["hostile pickles"] = ("tried", tried, "executed or not refused", len(passed))
    assert not passed, passed
