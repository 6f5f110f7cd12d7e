"""The command line: what it prints, refuses, and costs before it starts."""

import csv
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import yaml
from safetensors.torch import load_file

import vpns_lightning
from toy_config import laid
from toy_data import noise
from vpns_lightning import cli
from vpns_lightning.commands.keys import as_record, fit_parser
from vpns_lightning.commands.lightning_cli import VPNsCLI
from vpns_lightning.commands.measuring import classify
from vpns_lightning.commands.parsing import parse
from vpns_lightning.runs.loading import load_run

BASE = laid("network.backbone", "resnet18")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(BASE))
    return path


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one line that a refused command prints."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("vpns: error: ")
    return lines[0]


def test_version_and_help_import_no_torch() -> None:
    code = (
        "import sys; from vpns_lightning.cli import main; main(['--version']); main(['--help']);"
        "assert not {'torch', 'lightning', 'jsonargparse'} & set(sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert vpns_lightning.__version__ in printed
    assert "vpns fit --config" in printed


def test_a_whole_number_is_a_count_of_batches_whatever_was_imported_before() -> None:
    code = (
        "from typing import Union; from lightning.pytorch import Trainer;"
        "annotations = Trainer.__init__.__wrapped__.__annotations__;"
        "annotations['limit_train_batches'] = Union[float, int, None];"
        "from vpns_lightning.commands.keys import fit_parser;"
        "parsed = fit_parser().parse_args(["
        "'--network.backbone=resnet18', '--data=Digits', '--find.pruner=OMP',"
        "'--find.sparsity=0.5', '--trainer.limit_train_batches=1',"
        "'--trainer.limit_val_batches=1.0']).trainer;"
        "print(repr(parsed.limit_train_batches), repr(parsed.limit_val_batches))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert printed.split() == ["1", "1.0"]


def test_an_unknown_subcommand_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'test'" in refusal(capsys, "tset")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--find.pruner=Hydar", "did you mean 'Hydra'"),
        ("--network.prompt=PadPromt", "did you mean 'PadPrompt'"),
        ("--network.mapping=FrequencyMaping", "did you mean 'FrequencyMapping'"),
        ("--data=CIFAR1000", "did you mean 'CIFAR100'"),
        ("--network.backbone=resnet81", "did you mean 'resnet18'"),
        ("--find.sparsty=0.8", "find has no option 'sparsty' (did you mean 'sparsity'?)"),
        ("--data.batchsize=8", "did you mean 'batch_size'"),
        ("--network.prompt.pad_siz=8", "did you mean 'pad_size'"),
        ("--find.views=[promted]", "did you mean 'prompted'"),
        ("--find.epochs=-1", "epochs must be >= 0"),
        ("--network.prompt.pad_size=17", "pad_size 17 px does not fit a canvas of 32 px"),
        ("--data.input_size=48", "canvas of 32 px"),
        ("--data.batch_size=0", "batch_size"),
        ("--data.num_workers=-1", "num_workers must be >= 0"),
        ("--network.weights=IMAGENET1K_V9", "did you mean 'IMAGENET1K_V1'"),
        ("--network.weights=nowhere.safetensors", "does not exist"),
        ("--trainer.precision=16-true", "use bf16-mixed"),
        ("--find.epochs=many", "many"),
        ("--config=nowhere.yaml", "nowhere.yaml does not exist"),
    ],
)
def test_wrong_input_is_one_line_that_names_the_remedy(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, said: str
) -> None:
    root = f"--trainer.default_root_dir={tmp_path / 'run'}"
    assert said in refusal(capsys, "fit", f"--config={config}", root, option)
    assert not (tmp_path / "run" / "find").exists()


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (["compare", "runs/a"], "RUN"),
        (["export", "--run", "runs/a"], "output"),
        (["grid", "--slots", "2"], "file"),
        (["import", "--checkpoint", "best.pth"], "backbone"),
        (["predict", "--run", "runs/a"], "images"),
        (["report", "--output", "page"], "runs"),
    ],
)
def test_what_is_missing_is_named_with_where_it_is_explained(
    capsys: pytest.CaptureFixture[str], given: list[str], missing: str
) -> None:
    line = refusal(capsys, *given)
    assert missing in line
    assert line.endswith("--help")


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_a_seed_that_numpy_does_not_take_is_one_line(
    capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path, seed: str
) -> None:
    root = f"--trainer.default_root_dir={tmp_path / 'run'}"
    said = refusal(capsys, "fit", f"--config={config}", root, f"--seed_everything={seed}")
    assert f"a seed must be from 0 to 4294967295, got {seed}" in said


@pytest.mark.parametrize("sparsity", ["1", "1.0", "1.2", "-0.1", "nan", "inf", "2", "true", "half"])
def test_sparsity_outside_its_range_is_refused(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], sparsity: str
) -> None:
    root = f"--trainer.default_root_dir={tmp_path / 'run'}"
    said = refusal(capsys, "fit", f"--config={config}", root, f"--find.sparsity={sparsity}")
    assert "sparsity" in said


def test_a_misspelt_key_in_a_config_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**BASE, "find": {**BASE["find"], "sparsty": 0.8}}))
    assert "'sparsty' (did you mean 'sparsity'?)" in refusal(capsys, "fit", f"--config={path}")


def test_a_config_cannot_import_a_foreign_module(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text(
        f"import os; os.mkdir({str(tmp_path / 'ran')!r})\nclass Thing: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for where in (
        {"find": {**BASE["find"], "pruner": {"class_path": "evil.Thing"}}},
        {"find": {**BASE["find"], "pruner": "evil.Thing"}},
        {"trainer": {"callbacks": [{"class_path": "evil.Thing"}]}},
        {"data": {"class_path": "evil.Thing"}},
        {"tune": {"optimizer": {"class_path": "evil.Thing"}}},
        {"tune": {"optimizer": "evil.Thing"}},
    ):
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(BASE | where))
        assert "--plugins evil" in refusal(capsys, "fit", f"--config={path}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "where",
    [
        {"find.pruner.class_path": "evil_bypass.Thing"},
        {"find": {**BASE["find"], "pruner": '{"class_path": "evil_bypass.Thing"}'}},
        {"find": {**BASE["find"], "pruner": "part.yaml"}},
        {"config": "whole.yaml"},
        {"config": ["whole.yaml"]},
        {"trainer": {**BASE["trainer"], "callbacks+": {"class_path": "evil_bypass.Thing"}}},
        {"tune": {"optimizer": {"class_path": "torch.hub.load"}}},
        {
            "trainer": {
                "callbacks": [
                    {
                        "class_path": "LambdaCallback",
                        "init_args": {"on_fit_start": "evil_bypass.Thing"},
                    }
                ]
            }
        },
        {
            "trainer": {
                "logger": {
                    "class_path": "WandbLogger",
                    "dict_kwargs": {"settings": {"class_path": "subprocess.Popen"}},
                }
            }
        },
    ],
)
def test_no_way_of_writing_a_config_imports_a_foreign_class(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    where: dict[str, Any],
) -> None:
    (tmp_path / "evil_bypass.py").write_text("class Thing:\n    def __init__(self, **k): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    thing = {"class_path": "evil_bypass.Thing"}
    Path("part.yaml").write_text(yaml.safe_dump(thing))
    Path("whole.yaml").write_text(yaml.safe_dump({"find": {"pruner": thing}}))
    Path("config.yaml").write_text(yaml.safe_dump(BASE | where))
    refusal(capsys, "fit", "--config=config.yaml", f"--trainer.default_root_dir={tmp_path / 'run'}")
    assert "evil_bypass" not in sys.modules
    assert not (tmp_path / "run" / "find").exists()


def test_a_plugin_named_on_the_command_line_brings_its_classes(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = tmp_path / "my_pruner_plugin.py"
    plugin.write_text(
        "from vpns_lightning import Hydra\n"
        "class MyPruner(Hydra):\n"
        "    def method(self, *, prompted): return 'mine'\n"
    )
    run = tmp_path / "run"
    cli.main(
        [
            "fit",
            f"--config={config}",
            "--plugins",
            str(plugin),
            "--find.pruner=my_pruner_plugin.MyPruner",
            f"--trainer.default_root_dir={run}",
        ]
    )
    assert json.loads((run / "result.json").read_text())["method"] == "mine"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(BASE))
    cli.main(["fit", f"--config={path}", f"--trainer.default_root_dir={folder / 'run'}"])
    return folder / "run"


def test_test_reports_the_accuracy_of_the_result(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["test", "--run", str(run), "--accelerator", "cpu"])
    output = capsys.readouterr().out
    printed = json.loads(output[output.index("{") :])
    result = json.loads((run / "result.json").read_text())
    for key in ("test_accuracy", "test_accuracy_plain", "test_images"):
        assert printed[key] == result[key]


def test_a_finished_run_is_tuned_longer_without_finding_again(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("fit", "--from", str(run), "--tune.epochs", "2")
    assert "--find.sparsity cannot be given" in refusal(capsys, *given, "--find.sparsity", "0.3")
    cli.main(given)
    again = run.with_name("run_again")
    result = json.loads((again / "result.json").read_text())
    assert result["stages"]["tune"]["epochs"] == 2
    assert result["source"] == str(run)
    before, after = (load_file(path / "find" / "handoff.safetensors") for path in (run, again))
    assert all(torch.equal(before[key], after[key]) for key in before if key.endswith("mask"))
    capsys.readouterr()
    cli.main(given)  # the same command finds it finished
    assert "is finished" in capsys.readouterr().out
    cli.main(["test", "--run", str(again), "--accelerator", "cpu"])


@pytest.mark.parametrize("subcommand", cli.COMMANDS)
def test_every_subcommand_answers_without_arguments_to_help_and_to_nonsense(
    subcommand: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ((), ("--help",), ("--no-such-option",), ("nonsense", "--run")):
        code: object = 0
        with suppress(SystemExit):
            try:
                cli.main([subcommand, *options])
            except SystemExit as stopped:
                code = stopped.code
                raise
        said = capsys.readouterr()
        if code == 2:
            (line,) = said.err.strip().splitlines()
            assert line.startswith("vpns: error: ")
            if not options and subcommand in cli.NEEDS:
                assert f": vpns {subcommand} " in line  # a command that has what is missing
        else:
            assert code in {0, None}
            assert said.out.strip()


def test_the_help_of_fit_fits_a_few_screens_and_its_headings_are_keys(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["fit", "--help"])
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 350
    assert max(map(len, lines)) <= 100
    for key in ("data", "network", "warmup", "find", "tune", "prompt_tuning", "trainer"):
        assert f"{key}:" in lines
    with pytest.raises(SystemExit) as stopped:
        cli.main(["fit", "--find.pruner.help", "LTH"])
    assert stopped.value.code == 0
    assert "--find.pruner.fraction" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--data.batch_size", "zero"), "data.batch_size is a whole number, got 'zero'"),
        (("--find.optimizer", "Adan"), "find.optimizer: 'Adan' is unknown (did you mean 'Adam'?)"),
        (("--trainer.max_epochs", "3"), "epochs belong to the stages: --find.epochs"),
        (("--ckpt_path", "x"), "the same command resumes"),
        (("--seed_everything", "[7, 9]"), "several seeds are several runs, which vpns grid makes"),
        (("--trainer.gradient_clip_val", "1"), "trainer.gradient_clip_val is not set here"),
        (("--find.optimizer", "{class_path: SGD, init_args: {lrr: 1}}"), "did you mean 'lr'"),
        (("--find.pruner.scope", "nowhere"), "got 'nowhere'"),
        (("--find", "3"), "find is a section with keys of its own"),
        (("--trainer.devices", "-2"), "trainer.devices -2 is no number of devices"),
        (("--trainer.precision", "fp8"), "trainer.precision is one of"),
        (("--trainer.logger", "TensorBoardLogger"), "TensorBoardLogger needs save_dir: --trainer"),
        (("--tune.lr_scheduler", "StepLR"), "StepLR needs step_size"),
    ],
)
def test_a_wrong_value_names_key_value_and_what_is_allowed(
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, str],
    said: str,
) -> None:
    root = f"--trainer.default_root_dir={tmp_path / 'run'}"
    assert said in refusal(capsys, "fit", f"--config={config}", root, *options)


def test_the_old_name_of_a_section_is_read_and_said(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.yaml"
    old.write_text(yaml.safe_dump({**BASE, "prompt": {"epochs": 0}}))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["fit", f"--config={old}", "--prompt.epochs=1", "--print_config"])
    assert stopped.value.code == 0
    printed = capsys.readouterr()
    assert printed.err.count(f"{old}: prompt is called prompt_tuning now") == 1
    # which is how a config gets its present names: vpns fit --config old.yaml --print_config
    shown = yaml.safe_load(printed.out)
    assert shown["prompt_tuning"]["epochs"] == 1


def test_the_cli_gives_its_parts_to_work_with(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    made = VPNsCLI([f"--config={config}", f"--trainer.default_root_dir={run}"], run=False)
    assert not run.exists()
    assert made.network.num_classes == made.datamodule.num_classes == 10
    assert made.stages["find"].network is made.network
    assert made.fit()["sparsity"] == json.loads((run / "result.json").read_text())["sparsity"]


@pytest.mark.slow
def test_on_two_devices_every_image_counts_once(run: Path, tmp_path: Path) -> None:
    two = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
    for index in range(5):
        noise(index, (20, 30)).save(tmp_path / f"{index}.png")
    given = ["predict", "--run", str(run), "--images", str(tmp_path)]
    written = []
    for name, options in (("one.csv", ["--trainer.accelerator=cpu"]), ("two.csv", two)):
        output = tmp_path / name
        vpns = [sys.executable, "-m", "vpns_lightning.cli"]
        subprocess.run([*vpns, *given, "--output", str(output), *options], check=True)
        written.append(list(csv.DictReader(output.read_text().splitlines())))
    assert [row["image"] for row in written[1]] == [f"{index}.png" for index in range(5)]
    assert [r["class_1"] for r in written[0]] == [r["class_1"] for r in written[1]]
    printed = subprocess.run(
        [*vpns, "test", "--run", str(run), *two], check=True, capture_output=True, text=True
    ).stdout
    measured = json.loads(printed[printed.index("{") :])
    result = json.loads((run / "result.json").read_text())
    for key in ("test_accuracy", "test_accuracy_plain", "test_images"):
        assert measured[key] == result[key]


def test_test_refuses_images_of_other_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for root, classes in {"own": "abc", "others": "abd", "fewer": "ab"}.items():
        for name in (f"{split}/{each}" for split in ("train", "test") for each in classes):
            (tmp_path / root / name).mkdir(parents=True)
            for index in range(3):
                noise(index, (8, 8)).save(tmp_path / root / name / f"{index}.png")
    config = tmp_path / "config.yaml"
    images = {"root": str(tmp_path / "own"), "input_size": 32, "batch_size": 4, "num_workers": 0}
    data = {"class_path": "ImageFolder", "init_args": images}
    config.write_text(yaml.safe_dump(BASE | {"data": data}))
    run = tmp_path / "run"
    cli.main(["fit", f"--config={config}", f"--trainer.default_root_dir={run}"])
    shutil.copytree(tmp_path / "own", tmp_path / "copy")
    cli.main(["test", "--run", str(run), "--root", str(tmp_path / "copy")])
    assert '"test_images": 9' in capsys.readouterr().out
    given = ("test", "--run", str(run), "--root")
    assert "they differ in c, d" in refusal(capsys, *given, str(tmp_path / "others"))
    assert "knows 3 classes" in refusal(capsys, *given, str(tmp_path / "fewer"))


def test_predict_writes_class_names_and_probabilities(run: Path, tmp_path: Path) -> None:
    for index in range(3):
        noise(index, (20, 30)).save(tmp_path / f"{index}.png")
    output = tmp_path / "predictions.csv"
    cli.main(
        [
            *("predict", "--run", str(run), "--images", str(tmp_path), "--output", str(output)),
            *("--accelerator", "cpu", "--top", "10"),
        ]
    )
    with output.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["0.png", "1.png", "2.png"]
    for row in rows:
        values = [float(row[f"probability_{k}"]) for k in range(1, 11)]
        assert sum(values) == pytest.approx(1, abs=1e-4)
        assert values == sorted(values, reverse=True)
        assert {row[f"class_{k}"] for k in range(1, 11)} == {str(d) for d in range(10)}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--top", "0"), "top must be at least 1, got 0"),
        (("--top", "-1"), "top must be at least 1, got -1"),
        (("--batch_size", "0"), "batch_size must be at least 1, got 0"),
        (("--batch_size", "-3"), "batch_size must be at least 1, got -3"),
        (("--output", "."), "name a file in it"),
    ],
)
def test_predict_refuses_options_that_would_write_nothing(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, str],
    said: str,
) -> None:
    noise(0, (20, 30)).save(tmp_path / "0.png")
    output = tmp_path / "predictions.csv"
    given = ("--run", str(run), "--images", str(tmp_path), "--output", str(output), *options)
    assert said in refusal(capsys, "predict", *given)
    assert not output.exists()


def test_predict_names_the_image_that_is_none_and_its_own_remedy(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_text("no image")
    given = ("--run", str(run), "--images", str(tmp_path), "--output", str(tmp_path / "p.csv"))
    said = refusal(capsys, "predict", *given)
    assert f"cannot decode image {tmp_path / 'broken.png'}" in said
    assert "--data" not in said  # predict has no such option


def test_predict_takes_file_names_of_any_bytes(run: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    folder = tmp_path / "images"
    (folder / "a folder.png").mkdir(parents=True)
    noise(0, (20, 30)).save(folder / name)
    output = tmp_path / "p.csv"
    cli.main(
        ["predict", "--run", str(run), "--images", str(folder), "--output", str(output)],
    )
    _, row = output.read_bytes().splitlines()
    assert row.startswith(b"caf\xe9.png,")


def test_no_cell_of_predictions_is_a_formula_and_paths_name_their_files(
    run: Path, tmp_path: Path
) -> None:
    for name in ("=1+1.png", "+a.png", "-rf.png", "@b.png", "\tc.png", "plain.png"):
        noise(0, (20, 30)).save(tmp_path / name)
    loaded, output = load_run(run), tmp_path / "predictions.csv"
    names = ("=SUM(A1)", *(str(digit) for digit in range(1, 10)))
    loaded = loaded._replace(about=msgspec.structs.replace(loaded.about, class_names=names))
    options = {"top": 10, "batch_size": 6, "num_workers": 0, "trainer": {"accelerator": "cpu"}}
    classify(loaded, str(tmp_path), output=str(output), **options)
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    images = [row["image"] for row in rows]
    expected = ["./=1+1.png", "./+a.png", "./-rf.png", "./@b.png", "./\tc.png", "plain.png"]
    assert sorted(images) == sorted(expected)
    assert all((tmp_path / image).is_file() for image in images)
    for row in rows:
        assert {row[f"class_{k}"] for k in range(1, 11)} == {"'=SUM(A1)", *names[1:]}


def test_export_writes_a_plain_torchvision_network(run: Path, tmp_path: Path) -> None:
    import torchvision
    from safetensors.torch import load_file

    output = tmp_path / "net.safetensors"
    cli.main(["export", "--run", str(run), "--output", str(output)])
    plain = torchvision.models.resnet18(num_classes=10)
    plain.load_state_dict(load_file(output))
    zeros = sum(
        int((m.weight == 0).sum()) for m in plain.modules() if isinstance(m, torch.nn.Conv2d)
    )
    assert zeros > 0


def test_data_check_reports_counts(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["data", "check", "--data", "Digits"])
    assert "1,437 train" in capsys.readouterr().out


def test_data_check_takes_the_data_of_a_config(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["data", "check", "--config", str(config)])
    assert "1,437 train" in capsys.readouterr().out


def test_data_check_says_which_folder_to_fill(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, "data", "check", "--data", "CIFAR100", "--data.root", str(tmp_path))
    assert "cifar-100-python" in said
    assert str(tmp_path) in said


def test_a_folder_without_a_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is no run folder" in refusal(capsys, "test", "--run", str(tmp_path))


def test_an_unwritable_run_folder_is_refused(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    root = f"--trainer.default_root_dir={tmp_path / 'file' / 'run'}"
    assert "could not be written" in refusal(capsys, "fit", f"--config={config}", root)


def test_wandb_without_a_key_runs_offline_and_logs_everything(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    run = tmp_path / "run"
    logger = "{class_path: lightning.pytorch.loggers.WandbLogger, init_args: {project: vpns}}"
    with pytest.warns(UserWarning, match="W&B runs offline because there is no key"):
        cli.main(
            [
                *("fit", f"--config={config}", f"--trainer.default_root_dir={run}"),
                *("--trainer.logger", logger),
            ]
        )
    assert (run / "result.json").is_file()
    assert (run / "metrics.csv").is_file()
    # one run a stage
    runs = sorted(path.name for path in run.glob("wandb/offline-run-*"))
    assert [name.rpartition("-")[2] for name in runs] == ["find", "tune"]


class Squared(vpns_lightning.Hydra):
    """A pruner whose argument is a number unless a config says null."""

    def __init__(self, power: float | None = 2.0) -> None:
        super().__init__()
        self.power = power


def test_a_null_stays_a_null_in_the_stored_config(config: Path) -> None:
    parser = fit_parser()
    pruner = {"class_path": f"{__name__}.Squared", "init_args": {"power": None}}
    chosen = parse(parser, [f"--config={config}", f"--find.pruner={json.dumps(pruner)}"])
    record = as_record(parser, chosen)
    assert record["find"]["pruner"]["init_args"] == {"power": None}
    assert record["find"]["lr_scheduler"] is None


def test_the_completion_script_knows_subcommands_keys_and_names(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cli.main(["--print_completion", "bash"])
    script = tmp_path / "vpns.sh"
    script.write_text(capsys.readouterr().out)
    assert script.stat().st_size < 100_000
    for typed, expected in (
        ("f", {"fit"}),
        ("fit --find.prun", {"--find.pruner"}),
        ("fit --find.pruner Hy", {"Hydra"}),
        ("fit --network.backbone vgg16", {"vgg16", "vgg16_bn"}),
        ("data pre", {"prepare"}),
        ("grid --engine ra", {"ray"}),
        ("test --ru", {"--run"}),
    ):
        code = (
            f"source '{script}'; COMP_WORDS=(vpns {typed});"
            "COMP_CWORD=$((${#COMP_WORDS[@]} - 1));"
            '_shtab_vpns; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        printed = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
        assert set(printed.stdout.split()) == expected, typed
    cli.main(["--print_completion", "zsh"])
    assert "#compdef vpns" in capsys.readouterr().out


def test_a_reader_that_closes_early_is_no_error() -> None:
    command = f"{sys.executable} -m vpns_lightning.cli configs | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("debug")
    assert not done.stderr


def test_a_shell_without_completion_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "bash, zsh" in refusal(capsys, "--print_completion", "fish")
    assert "name of a shell" in refusal(capsys, "--print_completion")
