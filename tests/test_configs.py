"""Every config in the repository is parsed, and run from end to end on toy data."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from safetensors.torch import load_file

import vpns_lightning
from toy_data import make_layout
from vpns_lightning import cli
from vpns_lightning.commands.keys import as_record, fit_parser
from vpns_lightning.commands.parsing import parse
from vpns_lightning.network import IdentityMapping, PadPrompt, PromptedClassifier
from vpns_lightning.runs.handoff import save_masks
from vpns_lightning.sparsity import select, set_masks

CONFIGS = Path(__file__).parents[1] / "configs"
OVERLAYS = sorted([*CONFIGS.glob("pruner/*.yaml"), *CONFIGS.glob("study/*.yaml")])
OVERLAYS.append(CONFIGS / "debug.yaml")
BASES = sorted(set(CONFIGS.glob("*.yaml")) - set(OVERLAYS))
# batch sizes of the authors' released code
BATCH_SIZES = {
    "CIFAR10": 256,
    "CIFAR100": 256,
    "TinyImageNet": 256,
    "ImageNet": 1024,
    "Flowers102": 128,
    "DTD": 64,
    "Food101": 256,
    "OxfordPets": 64,
    "StanfordCars": 128,
}
PAPER = [path for path in BASES if path.stem.split("_")[0] in {"resnet18", "resnet50", "vgg16"}]
PAPER.remove(CONFIGS / "resnet18_image_folder.yaml")
ON_THE_MACHINE = {
    "trainer.accelerator": "cpu",
    "trainer.devices": 1,
    "trainer.precision": "32-true",
    "trainer.logger": "null",
    "trainer.limit_val_batches": 1,
    "trainer.limit_train_batches": 1,
    "trainer.log_every_n_steps": 1,
    "trainer.enable_progress_bar": "false",
    "find.epochs": 1,
    "tune.epochs": 1,
}
# a canvas of 32 px with a pad of 4 px; a head of 1,000 classes, as the pretrained one has
TOY_NETWORK = {"network.weights": "null", "network.source_classes": 1000}
TOY_PAD = {
    "network.prompt.init_args.canvas_size": 32,
    "network.prompt.init_args.pad_size": 4,
}
TOY_SQUARE = {"network.prompt.init_args.canvas_size": 32, "network.prompt.init_args.size": 10}
# the network sees images of 32 px
TOY_FLOW = {"find.pruner.init_args.rounds": 10, "find.pruner.init_args.input_size": 32}
PAD_VALUES = 3 * 4 * 4 * (32 - 4)
SQUARE_VALUES = 3 * 10 * 10
TOY_IMAGES = 1


class Expected(NamedTuple):
    """What `result.json` must say after a toy run.

    Attributes:
        method: As the paper names it.
        sparsity: Reached.
        steps: Gradient steps over all stages: batches x epochs x views of each.
        prompt_parameters: Values of the prompt.
        asked: Sparsity asked for.
    """

    method: str = "VPNs"
    sparsity: float = 0.9
    steps: int = 2
    prompt_parameters: int = PAD_VALUES
    asked: float = 0.9


def config_id(path: Path) -> str:
    return str(path.relative_to(CONFIGS).with_suffix(""))


def slow_but_cifar(path: Path) -> Any:  # pytest's ParameterSet has no public name
    # they differ in data set and backbone, and all are parsed by fast tests
    marks = [] if path.stem in {"resnet18_cifar10", "resnet18_cifar100"} else [pytest.mark.slow]
    return pytest.param(path, id=config_id(path), marks=marks)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


@cache
def parsed(*paths: Path) -> dict[str, Any]:
    arguments = [argument for path in paths for argument in ("--config", str(path))]
    parser = fit_parser()
    return flat(as_record(parser, parse(parser, arguments)))


@pytest.fixture(autouse=True)
def no_deprecations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence jsonargparse's on calls that its older versions still need."""
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for one run, emptied afterwards: checkpoints of real backbones are large."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def run_toy(
    folder: Path,
    paths: list[Path],
    options: dict[str, object],
    images_per_class: int = TOY_IMAGES,
) -> dict[str, Any]:
    data = parsed(*paths)["data.class_path"].rpartition(".")[2]
    if data != "Digits":
        make_layout(data, folder / "data", images_per_class=images_per_class)
    everything = {
        "data.init_args.root": folder / "data",
        "data.init_args.input_size": 32,
        "data.init_args.batch_size": 16,
        "data.init_args.num_workers": 0,
        "trainer.default_root_dir": folder / "run",
        **options,
    }
    arguments = [argument for path in paths for argument in ("--config", str(path))]
    cli.main(["fit", *arguments, *(f"--{key}={value}" for key, value in everything.items())])
    result: dict[str, Any] = json.loads((folder / "run" / "result.json").read_text())
    return result


def check(result: dict[str, Any], expected: Expected, *, ties: int = 0, spread: int = 0) -> None:
    before, after = ("channels", "channels_kept") if result["structured"] else ("weights", "kept")
    counts = {"weights": result["weights_prunable"], "kept": result["weights_kept"]}
    total, kept = (_total({**result, **counts}[key]) for key in (before, after))
    asked = math.floor(round(expected.sparsity * total, 6))
    removed = total - kept
    assert asked - spread <= removed <= asked + ties + spread
    assert abs(result["sparsity"] - expected.sparsity) * total <= 1 + ties + spread
    found = (result["method"], result["gradient_steps"], result["prompt_parameters"])
    assert found == (expected.method, expected.steps, expected.prompt_parameters)
    assert result["sparsity_requested"] == expected.asked
    assert 0 <= result["test_accuracy"] <= 1
    assert 0 <= result["test_accuracy_plain"] <= 1


def _total(counts: int | dict[str, int]) -> int:
    return sum(counts.values()) if isinstance(counts, dict) else counts


@pytest.mark.parametrize("path", BASES, ids=config_id)
def test_a_base_config_needs_no_other_file(path: Path) -> None:
    values = parsed(path)
    assert values["find.sparsity"] == 0.9
    assert values["trainer.default_root_dir"].startswith("runs/")


@pytest.mark.parametrize("path", OVERLAYS, ids=config_id)
def test_an_overlay_changes_what_it_names_and_nothing_else(path: Path) -> None:
    base = parsed(CONFIGS / "resnet18_cifar100.yaml")
    both = parsed(CONFIGS / "resnet18_cifar100.yaml", path)
    named = tuple(flat(yaml.safe_load(path.read_text())))
    changed = {key for key in base.keys() | both.keys() if base.get(key) != both.get(key)}
    # a null, or a class given by its name alone, replaces everything below it
    roots = tuple(key.partition(".class_path")[0].partition(".init_args")[0] for key in named)
    assert changed
    assert [key for key in changed if not key.startswith(roots)] == []


@pytest.mark.parametrize("path", OVERLAYS, ids=config_id)
def test_an_overlay_has_at_most_ten_lines(path: Path) -> None:
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    assert len([line for line in lines if line]) <= 10


@pytest.mark.parametrize("path", BASES, ids=config_id)
def test_a_base_config_fits_one_screen(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 50


@pytest.mark.parametrize("path", [*BASES, *OVERLAYS], ids=config_id)
def test_the_header_of_a_config_is_a_command_with_its_own_name(path: Path) -> None:
    header = path.read_text().partition("\n\n")[0].splitlines()
    commands = [line for line in header if line.startswith("#") and "vpns fit --config" in line]
    assert any(f"configs/{config_id(path)}.yaml" in line for line in commands)


def test_every_config_that_a_comment_names_is_there() -> None:
    comments = [
        line for path in CONFIGS.rglob("*.yaml") for line in re.findall("#.*", path.read_text())
    ]
    named = {each for line in comments for each in re.findall(r"configs/[\w/]+\.yaml", line)}
    assert len(named) > 80
    assert [each for each in named if not (CONFIGS.parent / each).is_file()] == []


def test_configs_of_the_paper_differ_only_in_network_data_and_folder() -> None:
    first, *others = [parsed(path) for path in PAPER]
    free = ("network.backbone", "network.weights", "network.mapping", "trainer.default_root_dir")
    for other in others:
        keys = first.keys() | other.keys()
        differing = {key for key in keys if first.get(key) != other.get(key)}
        assert [k for k in differing if not k.startswith((*free, "data."))] == []


@pytest.mark.parametrize("path", PAPER, ids=config_id)
def test_a_config_of_the_paper_has_its_hyper_parameters(path: Path) -> None:
    values = parsed(path)
    data = values["data.class_path"].rpartition(".")[2]
    assert values["data.init_args.batch_size"] == BATCH_SIZES[data]
    assert values["data.init_args.input_size"] == values["network.prompt.init_args.canvas_size"]
    assert values["network.prompt.init_args.pad_size"] == 16
    assert (values["find.epochs"], values["tune.epochs"]) == (30, 30)
    # cosine to zero, the default of both stages
    assert not [key for key, value in values.items() if "lr_scheduler" in key and value]
    find, tune = "find.optimizer.init_args.", "tune.optimizer.init_args."
    assert (values[f"{find}lr"], values[f"{find}weight_decay"]) == (1e-4, 1e-4)
    assert (values[f"{tune}lr"], values[f"{tune}weight_decay"]) == (0.01, 1e-4)
    assert values[f"{tune}momentum"] == 0.9
    assert values["trainer.default_root_dir"] == f"runs/{path.stem}_s90"


@pytest.mark.parametrize("path", [slow_but_cifar(path) for path in PAPER])
def test_a_config_of_the_paper_runs(path: Path, folder: Path) -> None:
    result = run_toy(folder, [path], {**ON_THE_MACHINE, **TOY_NETWORK, **TOY_PAD})
    check(result, Expected())


def test_the_image_folder_config_runs(folder: Path) -> None:
    path = CONFIGS / "resnet18_image_folder.yaml"
    check(run_toy(folder, [path], {**ON_THE_MACHINE, **TOY_NETWORK, **TOY_PAD}), Expected())


def test_the_config_of_the_ranking_runs(folder: Path) -> None:
    path = CONFIGS / "rank_cifar10.yaml"
    # one of the two images of each class is held out
    options = {**ON_THE_MACHINE, **TOY_NETWORK, **TOY_PAD}
    check(run_toy(folder, [path], options, images_per_class=2), Expected())


def test_the_source_network_is_trained_and_exported_with_a_head_of_its_own(folder: Path) -> None:
    path = CONFIGS / "source" / "tiny_imagenet_64px.yaml"
    result = run_toy(folder, [path], ON_THE_MACHINE)
    check(result, Expected("Dense", sparsity=0, steps=1, prompt_parameters=0, asked=0))
    network = vpns_lightning.load(folder / "run")
    vpns_lightning.export(network, folder / "net.safetensors", input_size=64)
    weights = load_file(folder / "net.safetensors")
    assert weights["fc.weight"].shape == (result["classes"], 512)


def test_the_quickstart_runs_its_three_stages(folder: Path) -> None:
    options = {**ON_THE_MACHINE, "warmup.epochs": 1}
    result = run_toy(folder, [CONFIGS / "quickstart.yaml"], options)
    check(result, Expected(steps=3))
    assert list(result["stages"]) == ["warmup", "find", "tune"]


# what each overlay needs besides the toy options of its base, and what must come out
RUNS: dict[str, tuple[dict[str, object], Expected]] = {
    "pruner/hydra": ({}, Expected("HYDRA", prompt_parameters=0)),
    "pruner/dense": (
        {"tune.epochs": 1},
        Expected("Dense", sparsity=0, steps=1, prompt_parameters=0, asked=0),
    ),
    "pruner/random": (
        {"tune.epochs": 1},
        Expected("Random", steps=1, prompt_parameters=0),
    ),
    "pruner/omp": (
        {"tune.epochs": 1},
        Expected("OMP", steps=1, prompt_parameters=0),
    ),
    "pruner/snip": (
        {"tune.epochs": 1},
        Expected("SNIP", steps=1, prompt_parameters=0),
    ),
    "pruner/grasp": (
        {"tune.epochs": 1},
        Expected("GraSP", steps=1, prompt_parameters=0),
    ),
    "pruner/synflow": (
        {"tune.epochs": 1, **TOY_FLOW},
        Expected("SynFlow", steps=1, prompt_parameters=0),
    ),
    "pruner/wanda": (
        {"tune.epochs": 1},
        Expected("Wanda", steps=1, prompt_parameters=0),
    ),
    # a round and the last training; 20 % of what remains, rounded, is 20 % to a weight
    "pruner/lth": (
        {"find.sparsity": 0.2},
        Expected("LTH", sparsity=0.2, prompt_parameters=0, asked=0.2),
    ),
    # two steps an iteration, no tuning
    "pruner/bip": ({"tune.epochs": 0}, Expected("BiP", prompt_parameters=0)),
    "pruner/stored": (TOY_PAD, Expected("VPNs (transferred)", steps=1)),
    "pruner/gradual": ({"tune.epochs": 0}, Expected("GMP", steps=1, prompt_parameters=0)),
    "pruner/rigl": ({"tune.epochs": 0}, Expected("RigL", steps=1, prompt_parameters=0)),
    "pruner/structured_vpns": (
        {**TOY_PAD, "warmup.epochs": 1},
        Expected("VPNs (structured)", sparsity=0.5, steps=3, asked=0.5),
    ),
    "pruner/slim": ({}, Expected("Slim", sparsity=0.5, prompt_parameters=0, asked=0.5)),
    "pruner/depgraph": ({}, Expected("DepGraph", sparsity=0.5, prompt_parameters=0, asked=0.5)),
    "study/transfer": (TOY_PAD, Expected("VPNs (transferred)", steps=1)),
    "study/mask_only": (TOY_PAD, Expected()),
    "study/tune_only": (TOY_PAD, Expected("HYDRA")),
    # one step on each of two views
    "study/hydra_2step": ({}, Expected("HYDRA", steps=4, prompt_parameters=0)),
    "study/no_prompt": ({}, Expected("HYDRA", prompt_parameters=0)),
    "study/fix_prompt": (TOY_SQUARE, Expected(prompt_parameters=SQUARE_VALUES)),
    "study/random_prompt": (TOY_SQUARE, Expected(prompt_parameters=SQUARE_VALUES)),
    "study/pilot_zero_shot": (
        {**TOY_PAD, "tune.epochs": 0, "prompt_tuning.epochs": 1},
        Expected("HYDRA"),
    ),
    "study/pilot_fine_tuned": ({**TOY_PAD, "prompt_tuning.epochs": 1}, Expected("HYDRA", steps=3)),
    "study/pad_size": (TOY_PAD, Expected()),
    "study/input_size": ({**TOY_PAD, "data.init_args.input_size": 24}, Expected()),
    # one step on each of two views
    "study/released_code": (TOY_PAD, Expected(steps=4)),
    "study/two_views": (TOY_PAD, Expected(steps=4)),
}


STORED = ("pruner/stored", "study/transfer")
# the released code drops every score that equals the threshold
TIES = {"study/released_code": 8}
# masks of random scores over a head of 1,000 classes: what falls on the few rows that a small head
# takes of it and on the other layers varies, with a standard deviation of about 210 weights
SPREAD = dict.fromkeys(STORED, 2_000)


def save_toy_masks(path: Path) -> None:
    """Write masks as a run on a data set of 1,000 classes leaves them."""
    network = PromptedClassifier(
        "resnet18", 1000, prompt=PadPrompt(32, 4), mapping=IdentityMapping()
    )
    network.fit_mapping()
    scores = {
        name: torch.rand_like(w, requires_grad=False) for name, w in network.prunable().items()
    }
    set_masks(network.backbone, select(scores, 0.9))
    save_masks(path, network, method="VPNs")


@pytest.mark.filterwarnings("ignore:with every=100 .* it is too short for any")  # of one iteration
@pytest.mark.parametrize("name", RUNS)
def test_an_overlay_runs(name: str, folder: Path) -> None:
    options, expected = RUNS[name]
    if name in STORED:
        stored = folder / "masks.safetensors"
        save_toy_masks(stored)
        options = {**options, "find.pruner.init_args.path": stored}
    paths = [CONFIGS / "resnet18_cifar10.yaml", CONFIGS / f"{name}.yaml"]
    result = run_toy(folder, paths, {**ON_THE_MACHINE, **TOY_NETWORK, **options})
    check(result, expected, ties=TIES.get(name, 0), spread=SPREAD.get(name, 0))


def test_the_debug_overlay_runs_two_batches_of_each_stage(folder: Path) -> None:
    paths = [CONFIGS / "resnet18_cifar10.yaml", CONFIGS / "debug.yaml"]
    result = run_toy(folder, paths, {**TOY_NETWORK, **TOY_PAD})
    check(result, Expected(steps=4))


def test_every_overlay_is_run() -> None:
    assert {config_id(path) for path in OVERLAYS} == {*RUNS, "debug"}
