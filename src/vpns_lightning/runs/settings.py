"""The settings of a run that decide with which other runs it may be compared."""

import inspect
from collections.abc import Sequence
from typing import Any

from vpns_lightning.data import ImageData
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.runs.record import Settings, Stages
from vpns_lightning.stages import VIEWS, MaskFinding, Stage


def at_hand(data: ImageData) -> bool:
    """Return whether the data set's files are there; an imported run can do without."""
    return not data.layout.missing(data.root)


def options(part: object) -> Settings:
    """Return a part's class name and the plain values that it was made with.

    Args:
        part: A prompt, mapping or pruner that keeps its arguments as attributes.
    """
    names = inspect.signature(type(part)).parameters
    values = {name: getattr(part, name) for name in names if hasattr(part, name)}
    plain = {k: v for k, v in values.items() if v is None or isinstance(v, (bool, int, float, str))}
    return {"name": type(part).__name__, **plain}


def protocol(stages: Stages, mapping_on: str) -> str:
    """Return ``paper``, ``released`` or ``mixed``: how an iteration of finding and tuning trains.

    ``paper`` takes one gradient step on one view and fits the mapping on the dense network;
    ``released`` takes a step on each of both views.
    """
    counts = {len(stages[name].views or ()) for name in ("find", "tune") if name in stages}
    if counts == {1} and mapping_on == "dense":
        return "paper"
    return "released" if counts == {len(VIEWS)} else "mixed"


def headline(stages: Stages) -> str:
    """Return the key of the accuracy a run is judged by.

    That without the prompt where the last stage that trained showed plain images last.
    """
    # a stage whose steps nobody counted, as an imported one's, did train
    trained = [stage for stage in stages.values() if stage.gradient_steps != 0]
    views = (trained[-1].views or ()) if trained else ()
    return "test_accuracy_plain" if views and views[-1] == "plain" else "test_accuracy"


def outline(
    network: PromptedClassifier, data: ImageData, stages: Sequence[Stage], seed: int
) -> dict[str, Any]:
    """Return a short config of a run that was not started from one.

    Args:
        network: The network.
        data: Its data.
        stages: Its stages, in order.
        seed: Of everything random.
    """
    described: dict[str, Any] = {
        "seed_everything": seed,
        "network": {
            "backbone": network.backbone_name,
            "weights": network.weights_name,
            "prompt": type(network.prompt).__name__ if network.prompt else None,
            "mapping": type(network.mapping).__name__,
        },
        "data": {"class_path": data.name, "input_size": data.input_size},
    }
    for stage in stages:
        about: dict[str, Any] = {"epochs": stage.epochs, "views": list(stage.views)}
        if isinstance(stage, MaskFinding):
            about |= {"pruner": type(stage.pruner).__name__, "sparsity": stage.sparsity}
            if stage.sparsity_by_layer:
                about["sparsity_by_layer"] = stage.sparsity_by_layer
        described[stage.name] = about
    return described
