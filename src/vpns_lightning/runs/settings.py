"""The settings of a run that decide with which other runs it may be compared."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from vpns_lightning.data import ImageData
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.runs.record import Settings, Stages, Training, as_plain
from vpns_lightning.stages import VIEWS, MaskFinding, Stage, SubnetworkTuning

PLAIN = (type(None), bool, int, float, str)
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def at_hand(data: ImageData) -> bool:
    """Return whether the data set's files are there; an imported run can do without."""
    return not data.layout.missing(data.root)


def options(part: object) -> Settings:
    """Return a part's class name and the plain values that it was made with.

    Args:
        part: A prompt, mapping or pruner that keeps its arguments as attributes.
    """
    plain = {k: v for k, v in _arguments(part).items() if isinstance(v, PLAIN)}
    return {"name": type(part).__name__, **plain}


def class_path(part: object) -> str:
    """Return where the class of a part is found, as a config names it."""
    return f"{type(part).__module__}.{type(part).__qualname__}"


def _arguments(part: object) -> dict[str, Any]:
    """Return those arguments of a part that it keeps as attributes.

    Where a class hands ``**kwargs`` on to that which it is derived from, those of both.
    """
    names: dict[str, None] = {}
    for kind in type(part).__mro__[:-1]:
        taken = inspect.signature(kind).parameters.values()
        named = (each.name for each in taken if each.kind not in VARIADIC)
        names |= dict.fromkeys(named)
        if not any(each.kind is each.VAR_KEYWORD for each in taken):
            break
    return {name: getattr(part, name) for name in names if hasattr(part, name)}


def training(stage: Stage) -> Training:
    """Return what a stage trains with besides the defaults."""
    average = stage.average if isinstance(stage, SubnetworkTuning) else None
    return Training(
        loss=None if stage.objective.loss is None else options(stage.objective.loss),
        clip_norm=stage.clip_norm,
        accumulate=stage.accumulate,
        mixup=stage.mixup,
        cutmix=stage.cutmix,
        average=None if average is None else options(average),
    )


def schedule(scheduler: LRScheduler) -> Settings:
    """Return a schedule's class name and the values that it was made with."""
    settings = options(scheduler)
    # MultiStepLR's are a counter; SequentialLR keeps what it was given under private names alone
    milestones = getattr(scheduler, "milestones", getattr(scheduler, "_milestones", None))
    if milestones:
        settings["milestones"] = sorted(milestones)
    inner = getattr(scheduler, "_schedulers", ())
    if inner:
        settings["schedulers"] = [schedule(each) for each in inner]
    return settings


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
    """Return the config of a run that was not started from one, as far as its parts tell it.

    Args:
        network: The network.
        data: Its data.
        stages: Its stages, in order.
        seed: Of everything random.
    """
    spec = network.specification
    described: dict[str, Any] = {
        "seed_everything": seed,
        "network": {
            "backbone": class_path(network.backbone) if spec is None else spec.plain(),
            "weights": network.weights_name,
            "prompt": _described(network.prompt) if network.prompt else None,
            "mapping": _described(network.mapping),
            "exclude": list(network.exclude),
            "pad_plain": network.pad_plain,
            "drop_conv_bias": network.drop_conv_bias,
            "channels_last": network.channels_last,
            "mean": network.mean.flatten().tolist(),
            "std": network.std.flatten().tolist(),
        },
        "data": _described(data),
    }
    described["data"]["init_args"].pop("seed", None)  # the run sets it
    for stage in stages:
        about: dict[str, Any] = {"epochs": stage.epochs, "views": list(stage.views)}
        if isinstance(stage, MaskFinding):
            about |= {"pruner": type(stage.pruner).__name__, "sparsity": stage.sparsity}
            if stage.sparsity_by_layer:
                about["sparsity_by_layer"] = stage.sparsity_by_layer
        described[stage.name] = about | as_plain(training(stage))
    return described


def as_before(outlined: Mapping[str, Any]) -> dict[str, Any]:
    """Return an outline as version 0.1.0 wrote it: names of classes, without their arguments."""
    short: dict[str, Any] = {**outlined, "network": dict(outlined["network"])}
    kept = ("backbone", "weights", "prompt", "mapping")
    network = outlined["network"]
    short["network"] = {key: _short(network[key]) for key in kept if key != "weights"}
    short["network"]["weights"] = network["weights"]
    size = outlined["data"]["init_args"].get("input_size")
    short["data"] = {"class_path": _short(outlined["data"]), "input_size": size}
    return short


def _short(described: Any) -> Any:  # a class and its arguments, a name, or None
    name = described["class_path"] if isinstance(described, Mapping) else described
    return name.rpartition(".")[2] if isinstance(name, str) else name


def _described(part: object) -> dict[str, Any]:
    """Return a part as a config names it; arguments that it does not keep are left out."""
    plain: dict[str, Any] = {}
    for name, value in _arguments(part).items():
        if isinstance(value, list | tuple) and all(isinstance(each, PLAIN) for each in value):
            plain[name] = list(value)
        elif isinstance(value, (*PLAIN, Path)):
            plain[name] = str(value) if isinstance(value, Path) else value
    return {"class_path": class_path(part), "init_args": plain}
