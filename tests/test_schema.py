"""`vpns schema`: every shipped config fits it, what is wrong does not, editors find it."""

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from vpns_lightning.grid.file import KEYS

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(set(CONFIGS.rglob("*.yaml")) - set(CONFIGS.glob("wandb/*")))
# keys and classes that other libraries have, which differ between their versions
OTHERS = ("optimizer", "lr_scheduler", "logger", "callbacks", "profiler")


@cache
def validator(kind: str) -> Draft202012Validator:
    schema = json.loads((CONFIGS / "schema" / f"{kind}.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_every_reference_of_the_schema_leads_to_a_definition() -> None:
    text = (CONFIGS / "schema" / "config.json").read_text()
    named = set(re.findall(r'"\$ref": "#/\$defs/(\w+)"', text))
    assert named == json.loads(text)["$defs"].keys()


def kind_of(path: Path) -> str:
    return "grid" if path.parent.name == "grid" else "config"


def wrong(kind: str, content: object) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator(kind).iter_errors(content)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_a_shipped_config_fits_the_schema_that_its_first_line_names(path: Path) -> None:
    first, _, rest = path.read_text().partition("\n")
    link = first.removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / link).resolve() == CONFIGS / "schema" / f"{kind_of(path)}.json"
    assert wrong(kind_of(path), yaml.safe_load(rest)) == []


@pytest.mark.parametrize(
    "content",
    [
        "find: {sparsityy: 0.9}",
        "find: {sparsity: high}",
        "find: {pruner: Hidra}",
        "find: {pruner: {class_path: Hydra, init_args: {threshhold: 1}}}",
        "tune: {epochs: 1.5}",
        "network: {prompt: {class_path: PadPrompt, init_args: {pad_size: wide}}}",
        "data: {class_path: CIFAR100, init_args: {batchsize: 1}}",
        "trainer: {max_epochs: 3}",
        "finds: {epochs: 1}",
    ],
)
def test_what_the_parser_refuses_an_editor_underlines(content: str) -> None:
    assert wrong("config", yaml.safe_load(content))


@pytest.mark.parametrize(
    "content",
    [
        "find: {pruner: mine.Magnitude}",
        "find: {pruner: {class_path: mine.Magnitude, init_args: {power: 2}}}",
        "network: {prompt: null, backbone: timm/vit_tiny_patch16_224}",
        "find: {optimizer: {init_args: {lr: 0.1}}}",
        "find: {pruner: vpns_lightning.Hydra}",
        "trainer: {logger: false, limit_train_batches: 0.5, callbacks: [RichProgressBar]}",
    ],
)
def test_what_the_parser_takes_an_editor_takes(content: str) -> None:
    assert wrong("config", yaml.safe_load(content)) == []


@pytest.mark.parametrize("change", [{"seeds": ["a"]}, {"sparsities": [2]}, {"sparsity": [0.5]}])
def test_a_wrong_grid_file_is_underlined(change: dict[str, Any]) -> None:
    grid = {"name": "a", "about": "b", "methods": {"A": None}, "sparsities": [0.5], "seeds": [1]}
    assert wrong("grid", grid) == []
    assert wrong("grid", grid | change)
    assert validator("grid").schema["properties"].keys() == set(KEYS)


def ours(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without what other libraries decide."""
    kept = json.loads(json.dumps(schema))
    kept["properties"].pop("trainer")
    for name in OTHERS:
        kept["$defs"].pop(name)
    return dict(kept)


@pytest.mark.slow
def test_the_schemas_are_those_of_the_parser(tmp_path: Path) -> None:
    # in a process of its own: tests define classes
    for kind, options in (("config", ()), ("grid", ("--grid",))):
        file = tmp_path / f"{kind}.json"
        command = [sys.executable, "-m", "vpns_lightning.cli", "schema", *options]
        subprocess.run([*command, "--output", str(file)], check=True, timeout=120)
        made, kept = json.loads(file.read_text()), validator(kind).schema
        again = f"vpns schema {' '.join(options)} --output configs/schema/{kind}.json"
        assert (made if options else ours(made)) == (kept if options else ours(kept)), again
