"""Every command and piece of Python of the README, the pages and the tutorials is run on toy data.

Commands are run as they are written, with options added that make them a matter of a second
(`ADDED`). A new one needs nothing here unless it works on files that the toy folder lacks. Programs
that are not ours, and why they are not run, are in test_documented_commands.py.
"""

import shlex
import shutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from torchvision.models import squeezenet1_1

import documented
import toy_data
import vpns_lightning as vpns
from documented import OURS, PYTHON, Block, blocks
from reference.released_checkpoint import Checkpoint, frame
from report.toy_results import result, write
from vpns_lightning import cli
from vpns_lightning.base import trust
from vpns_lightning.commands.lightning_cli import VPNsCLI

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
PROMPT = "{class_path: PadPrompt, init_args: {canvas_size: 32, pad_size: 4}}"
MACHINE = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto"]
ADDED = {
    "fit": [
        *("--network.backbone=squeezenet1_1", "--network.weights=null"),
        *(f"--network.prompt={PROMPT}", "--data.init_args.input_size=32"),
        *("--data.init_args.batch_size=64", "--data.init_args.num_workers=0"),
        *("--warmup.epochs=0", "--find.epochs=1", "--tune.epochs=1", *MACHINE),
        *("--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"),
        *("--trainer.precision=32-true", "--trainer.logger=null"),
    ],
    "test": MACHINE,
    "grid": ["--dry-run"],  # each cell is read; tests/grid runs some
    "bench": [
        *("--rounds=1", "--warmup=0", "--runtimes=eager"),
        *("--batch_sizes=1", "--memory_batch=0"),
    ],
    "import": ["--backbone=squeezenet1_1", "--data.input_size=32"],
}
# methods that the results page draws
RANKED = ("Dense", "OMP", "SNIP", "SynFlow", "GMP", "BiP", "RigL", "Random", "HYDRA", "VPNs")
AGAIN = ["--tune.epochs=1", *MACHINE]  # of a run made by the options above
# blocks that have tests of their own, which count them
TESTED_ELSEWHERE = {
    "formats.md": "tests/exporting/test_formats.py",
    "own_data.md": "tests/test_own_data_docs.py",
}
CHANGED = {
    '"resnet18"': '"squeezenet1_1"',
    '"conv1"': '"features.0"',  # of the other backbone
    'weights="IMAGENET1K_V1"': "weights=None",
    "weights='IMAGENET1K_V1'": "weights=None",
    "canvas_size=224, pad_size=16": "canvas_size=32, pad_size=4",
    "input_size=224, batch_size=256": "input_size=32, batch_size=4",
    "sparsity=0.9)": "sparsity=0.9, epochs=1)",
    "SubnetworkTuning(network)": "SubnetworkTuning(network, epochs=1)",
    'run_dir="runs/notebook")': 'run_dir="runs/notebook", trainer=trainer)',
}


def write_inputs(folder: Path) -> None:
    """Write what readers of the pages have: images, data sets, a checkpoint, runs of others."""
    toy_data.make_layout("CIFAR100", folder / "data", 1)
    toy_data.make_layout("TinyImageNet", folder / "data", 1)
    toy_data.make_layout("ImageNet", folder / "scratch" / "data", 1, (8, 8))
    toy_data.make_layout("ImageFolder", folder / "photos", 2)
    (table,) = (block.text for block in blocks() if block.language == "csv")
    (folder / "photos" / "images.csv").write_text(table)
    (folder / "my_images").mkdir()
    (folder / "photos" / "photos").mkdir()
    (folder / "data" / "photos").mkdir()
    for number in "123":
        image = toy_data.noise(int(number), (20, 20))
        for name in (f"my_images/{number}.png", f"photos/photos/{number}.jpg"):
            image.save(folder / name)
        image.save(folder / "data" / "photos" / f"{number}.png")
    labels = "1.png 0 train\n2.png 1 train\n3.png 1 test\n"
    (folder / "data" / "labels.txt").write_text(labels)
    region = frame(40, 4)
    Checkpoint(squeezenet1_1(), classes=100, density=0.1, region=region, drop=True).save(
        folder / "best.pth"
    )
    for seed, name in enumerate(("fig1_cifar10", "fig7_mini")):
        write(folder / "grids" / "runs" / name, result(grid="fig7_mini", seed=seed))
    for name, seed in (("rank", 7), ("rank_cifar100", 9)):
        ranked = (result(method, grid="rank", seed=seed) for method in RANKED)
        write(folder / "grids" / "runs" / name, *ranked)
    write(folder / "grids" / "example_results", result())


def copy_runs(folder: Path) -> None:
    """Give the run of the quickstart the names that pages use for others."""
    names = ("A", "B", "runs/a", "runs/b", "runs/x", "runs/fig7/A", "runs/fig7/B")
    for name in names:
        shutil.copytree(folder / "runs" / "quickstart", folder / name)


def run(words: Sequence[str]) -> list[str]:
    """Run a `vpns` command with what makes it short; return it if it fails."""
    line = shlex.join(["vpns", *words])
    print("$", line)
    added = ADDED.get(words[0], []) if "--from" not in words else AGAIN
    try:
        cli.main([*words, *([] if "--help" in words else added)])
    except SystemExit as left:
        return [line] if left.code else []
    except Exception:
        traceback.print_exc()
        return [line]
    return []


@pytest.fixture(scope="module")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory, in which all commands of the pages were run, in their order."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as changed:
        changed.chdir(folder)
        changed.setattr("sys.path", list(sys.path))
        changed.setattr(trust, "_named", set())
        changed.setattr(vpns.CIFAR100, "counts", None)
        changed.setenv("WANDB_MODE", "offline")  # one session of W&B serves all tests
        write_inputs(folder)
        failed = run(["fit", "--config", "quickstart"])
        copy_runs(folder)
        for command in OURS:
            # of results of grids, which are drawn sooner than runs are made
            changed.chdir(folder / "grids" if command.words[1] == "report" else folder)
            command.write_plugins()
            failed += run(command.words[1:])
        assert not failed
        changed.chdir(folder)
        yield folder
    shutil.rmtree(folder)


def test_the_commands_leave_what_the_pages_say(toy_folder: Path) -> None:
    for left in (
        *("net.safetensors", "net.md", "small.safetensors", "mine/pruner/omp.yaml"),
        *("runs/quickstart/predictions.csv", "runs/quickstart/bench.md", "compare.png"),
        *("folder/model.safetensors", "resnet18_tiny_imagenet_64px.safetensors"),
        *("grids/report/index.html", "runs/imported/masks.safetensors", "runs/x_again/result.json"),
        *("runs/magnitude/result.json", "runs/largest_last/result.json"),
    ):
        assert (toy_folder / left).is_file(), left
    assert list((toy_folder / "scratch" / "data" / ".vpns_cache").iterdir())


def test_the_python_of_the_pages_runs(toy_folder: Path) -> None:
    built = VPNsCLI(["--config", "runs/x/config.yaml"], run=False)
    names: dict[str, Any] = {
        **{"network": built.network, "data": built.datamodule},
        **{"find": built.stages["find"], "tune": built.stages["tune"]},
        "trainer": {"accelerator": "cpu", "limit_train_batches": 1, "limit_val_batches": 1},
    }
    unused = set(CHANGED)
    lines = [c.words[2] for c in documented.FOREIGN if c.words[:2] == ["python", "-c"]]
    code = [b for b in blocks() if b.language in PYTHON and b.page not in TESTED_ELSEWHERE]
    asked = " ".join(command.text for command in documented.COMMANDS.values())
    for block in [*code, *(Block("", "python", line) for line in lines)]:
        if block.plugin:
            assert f"--plugins {block.plugin}" in asked, f"no command uses {block.plugin}"
            continue
        text = block.text
        for shown, meant in CHANGED.items():
            unused -= {shown} if shown in text else set()
            text = text.replace(shown, meant)
        exec(text, {"vpns": vpns} | names)
    assert not unused
    assert (toy_folder / "s90.safetensors").is_file()
    assert (toy_folder / "runs" / "longer" / "result.json").is_file()
