"""Gradient steps from a config alone, against sums done by hand."""

from pathlib import Path
from typing import Any

import pytest

from vpns_lightning.grid.estimate import gradient_steps, stage_epochs, training_images


def config(pruner: str = "Hydra", **changes: Any) -> dict[str, Any]:
    """Return a config of 1,437 digits in batches of 64: 23 batches an epoch."""
    content: dict[str, Any] = {
        "data": {
            "class_path": "vpns_lightning.Digits",
            "init_args": {"root": "data", "batch_size": 64, "validation": 0.0},
        },
        "warmup": {"epochs": 0, "views": ["prompted"]},
        "find": {
            "pruner": {"class_path": f"vpns_lightning.{pruner}", "init_args": {}},
            "epochs": 2,
            "sparsity": 0.9,
            "views": ["prompted"],
        },
        "tune": {"epochs": 3, "views": ["prompted"]},
        "prompt_tuning": {"epochs": 0},
        "trainer": {"limit_train_batches": None},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        content[section][name] = value
    return content


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        (config(), 23 * (2 + 3)),
        (config(warmup__epochs=4, prompt_tuning__epochs=1), 23 * (4 + 2 + 3 + 1)),
        # one step on each of two views
        (config(find__views=["prompted", "plain"], tune__views=["prompted", "plain"]), 23 * 5 * 2),
        # weights and scores in turn
        (config("BiP"), 23 * (2 * 2 + 3)),
        # 20 % a round: ten rounds for 90 %, nearest
        (config("LTH"), 23 * (10 * 2 + 3)),
        # these train nothing, whatever epochs they were given
        (config("OMP"), 23 * 3),
        (config("SNIP"), 23 * 3),
        (config("Dense"), 23 * 3),
        # a number of batches, and a fraction of them
        (config(trainer__limit_train_batches=20.0), 20 * 5),
        (config(trainer__limit_train_batches=1.0), 23 * 5),
        (config(trainer__limit_train_batches=0.5), 11 * 5),
        (config(trainer__limit_train_batches=100), 23 * 5),
    ],
)
def test_steps_are_counted_as_they_will_be_taken(given: dict[str, Any], steps: int) -> None:
    assert gradient_steps(given) == steps


def test_rounds_count_as_epochs_of_finding() -> None:
    assert stage_epochs(config("LTH")) == {"find": 20, "tune": 3}
    assert stage_epochs(config("OMP", warmup__epochs=1)) == {"warmup": 1, "find": 0, "tune": 3}


def folder(root: Path) -> dict[str, Any]:
    return {
        "class_path": "vpns_lightning.ImageFolder",
        "init_args": {"root": str(root), "batch_size": 1},
    }


def test_the_images_of_a_folder_are_counted(tmp_path: Path) -> None:
    for name in ("a.png", "b.JPG", "notes.txt"):
        path = tmp_path / "train" / "x" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert gradient_steps(config() | {"data": folder(tmp_path)}) == 2 * 5


def test_the_steps_on_data_that_are_not_here_are_unknown(tmp_path: Path) -> None:
    assert training_images(folder(tmp_path)) is None
    assert gradient_steps(config() | {"data": folder(tmp_path)}) is None


def test_held_out_images_are_not_trained_on() -> None:
    data = {"class_path": "vpns_lightning.Digits", "init_args": {"validation": 0.1}}
    assert training_images(data) == 1293


def test_a_limit_of_each_class_counts_before_what_is_held_out(tmp_path: Path) -> None:
    digits = {"limit_per_class": 20, "validation": 0.1}
    data = {"class_path": "vpns_lightning.Digits", "init_args": digits}
    assert training_images(data) == 180
    for name in ("x/a.png", "x/b.png", "x/c.png", "y/a.png"):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    own = folder(tmp_path)
    own["init_args"]["limit_per_class"] = 2
    assert training_images(own) == 3
