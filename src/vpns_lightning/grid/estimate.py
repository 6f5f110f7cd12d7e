"""What a cell will cost, from its config alone: epochs and gradient steps of each stage."""

import math
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from vpns_lightning.data import ImageData
from vpns_lightning.data.folders import is_hidden, is_image
from vpns_lightning.pruners import DataSaliency, Pruner, Saliency, Stored


def stage_epochs(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the epochs of every stage that a run has, in order, rounds included."""
    find = config["find"]
    pruner = _pruner(find["pruner"])
    epochs = {
        "warmup": config["warmup"]["epochs"],
        "find": pruner.epochs(find["epochs"], find["sparsity"]) if pruner else 0,
        "tune": config["tune"]["epochs"],
        "prompt_tuning": config["prompt_tuning"]["epochs"],
    }
    return {stage: count for stage, count in epochs.items() if count or stage in {"find", "tune"}}


def gradient_steps(config: Mapping[str, Any]) -> int | None:
    """Return the gradient steps of a run by one process, or None where its data are not there."""
    images = training_images(config["data"])
    if images is None:
        return None
    total = 0
    for stage, epochs in stage_epochs(config).items():
        steps = len(config[stage].get("views", ("prompted",)))
        if stage == "find":
            steps *= _steps_a_batch(_pruner(config["find"]["pruner"]))
        size = config["data"]["init_args"]["batch_size"] * (config[stage].get("accumulate") or 1)
        total += epochs * _batches(images, size, config) * steps
    return total


def training_images(data: Mapping[str, Any]) -> int | None:
    """Return how many images a data set trains on: as published, or as its folder holds.

    Under ``limit_per_class`` at most: published counts do not say how many a class has.
    """
    arguments = data.get("init_args", {})
    cls = _named(data["class_path"])
    assert issubclass(cls, ImageData)
    limit = arguments.get("limit_per_class")
    if cls.counts:
        total: int | None = cls.counts.train
        if limit is not None:
            total = min(cls.counts.train, limit * cls.num_classes)
    else:
        total = _files(Path(arguments["root"]) / "train", limit)
    return None if total is None else round(total * (1 - arguments.get("validation", 0)))


def _batches(images: int, size: int, config: Mapping[str, Any]) -> int:
    # a last batch of a single image is left out
    batches = math.ceil(images / size) - (size > 1 and images > 1 and images % size == 1)
    limit = config["trainer"].get("limit_train_batches")
    if limit is None:
        return batches
    # as the Trainer reads it: 1.0 are all batches, 2.0 are two
    fraction = isinstance(limit, float) and limit <= 1
    return int(batches * limit) if fraction else min(batches, int(limit))


@cache
def _files(folder: Path, limit: int | None = None) -> int | None:
    """Return the images in a folder of class folders, at most ``limit`` of each."""
    if not folder.expanduser().is_dir():
        return None
    counts = [
        sum(is_image(path.name) and not is_hidden(path.name) for path in class_folder.rglob("*"))
        for class_folder in folder.expanduser().iterdir()
    ]
    return sum(count if limit is None else min(count, limit) for count in counts)


def _steps_a_batch(pruner: Pruner | None) -> int:
    # saliencies look at images, but learn from none
    if pruner is None or isinstance(pruner, Saliency | DataSaliency):
        return 0
    return len(pruner.shuffles)


def _pruner(config: Mapping[str, Any]) -> Pruner | None:
    """Return the pruner; None for masks of another run, whose file may not be there yet."""
    cls = _named(config["class_path"])
    if issubclass(cls, Stored):
        return None
    pruner = cls(**config.get("init_args", {}))
    assert isinstance(pruner, Pruner)
    return pruner


def _named(class_path: str) -> type[Any]:
    module, _, name = class_path.rpartition(".")
    cls: type[Any] = getattr(import_module(module), name)
    return cls
