"""A network back from its run folder, which alone is enough."""

import sys
from argparse import ArgumentError
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import ArgumentParser, Namespace

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.trust import TRUSTED_PACKAGES, is_trusted
from vpns_lightning.data import ImageData
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.network.specification import is_timm
from vpns_lightning.runs.folder import RunFolder
from vpns_lightning.runs.handoff import load_network, read_about
from vpns_lightning.runs.record import HandOff
from vpns_lightning.sparsity import unmask_layers

# keys whose value may be a bare class path instead of a class_path mapping
CLASS_KEYS = {
    *("backbone", "data", "pruner", "prompt", "mapping", "optimizer", "lr_scheduler"),
    *("logger", "callbacks", "plugins", "strategy", "profiler"),
}


def check_class_paths(content: Any, file: str, *, imported: bool = False) -> None:
    """Refuse a config that would have another package imported, before it is.

    Args:
        content: Of the config.
        file: What it is, for the message.
        imported: Packages that the calling program has imported will do; nothing new runs then.

    Raises:
        UserError: It names a class of a package that is neither ours nor the user's.
    """
    for class_path in _class_paths(content):
        package, _, name = class_path.partition(".")
        known = is_trusted(package) or (imported and package in sys.modules)
        if name and not known and not is_timm(class_path):
            raise UserError(
                f"{file} names the class {class_path}: configs may only name classes "
                f"of {', '.join(TRUSTED_PACKAGES)}; import your own with --plugins {package}"
            )


def _class_paths(tree: Any) -> Iterator[str]:  # any YAML content
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == "class_path" and isinstance(value, str):
                yield value
            else:
                yield from _class_paths(value)
            if key in CLASS_KEYS:
                yield from (
                    v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)
                )
    elif isinstance(tree, list):
        for item in tree:
            yield from _class_paths(item)


def instantiate(parser: ArgumentParser, config: Namespace) -> Namespace:
    """Build what a config describes.

    Raises:
        UserError: A constructor refused its arguments; jsonargparse's wrapping is taken off.
    """
    try:
        # newer jsonargparse has another name for it and warns of the old one
        build = getattr(parser, "instantiate", None) or parser.instantiate_classes
        built: Namespace = build(config)
        return built
    except ValueError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise cause from None


class LoadedRun(NamedTuple):
    """A run read back.

    Attributes:
        folder: Its folder.
        network: The network after the last finished stage, in eval mode.
        config: Its config, plain values.
        about: Facts in its hand-off: stage, sparsity, class names and more.
    """

    folder: RunFolder
    network: PromptedClassifier
    config: dict[str, Any]
    about: HandOff


def load_run(path: str | Path, *, accelerator: str = "cpu") -> LoadedRun:
    """Rebuild the network of a run; pretrained weights and data are not needed.

    Args:
        path: The run folder.
        accelerator: ``cpu``, ``cuda`` (or ``gpu``), or ``auto``.

    Raises:
        UserError: It is no run folder, was not started by ``vpns fit``, no stage is finished, or
            its config names a class of a package that nobody named.
    """
    folder = RunFolder(path)
    config = folder.read_config()
    parts = {key: config[key] for key in ("network", "data") if key in config}
    check_class_paths(parts, str(folder.config), imported=True)
    if not folder.handoff.is_file():
        raise UserError(f"no stage of {folder.path} is finished yet: run vpns fit to its end")
    about = read_about(folder.handoff)
    if about.sparsity is None or not (about.stage and about.input_size and about.class_names):
        raise UserError(
            f"{folder.handoff} was not written by a run: it does not say stage, sparsity, size of "
            "images and names of classes"
        )
    network = _build(config.get("network", {}), about, folder)
    load_network(folder.handoff, network)
    return LoadedRun(folder, network.to(pick_device(accelerator)).eval(), config, about)


def load(run: str | Path, *, accelerator: str = "cpu") -> PromptedClassifier:
    """Return the network of a finished run, ready to answer: images in [0, 1] to logits.

    Prompt, normalisation, masks and label mapping are inside, and it is in eval mode. Images are
    of ``data.input_size`` px.

    Args:
        run: The run folder.
        accelerator: ``cpu``, ``cuda`` (or ``gpu``), or ``auto``.

    Raises:
        UserError: It is no run folder, was not started by ``vpns fit``, or no stage is finished.
    """
    return load_run(run, accelerator=accelerator).network


def dense_twin(loaded: LoadedRun) -> PromptedClassifier:
    """Return the network of a run as it is without masks and cuts, in eval mode on the CPU.

    Prompt, classes and label mapping are the run's; weights are random, which costs as much.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        twin = _build(loaded.config.get("network", {}), loaded.about, loaded.folder)
    mapping = loaded.network.mapping
    twin.mapping.sequence.copy_(mapping.sequence)
    twin.mapping.fitted.fill_(True)
    if mapping.sliced:
        twin._slice_head()
    unmask_layers(twin.backbone)
    return twin.eval()


def _build(arguments: dict[str, Any], about: HandOff, folder: RunFolder) -> PromptedClassifier:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(PromptedClassifier, "network")
    known = {
        "num_classes": about.num_classes,
        "source_classes": about.source_classes,
        "weights": None,
        "compile": False,
    }
    if isinstance(arguments.get("prompt"), str):
        raise UserError(
            f"{folder.path} was not started by vpns fit, so its config does not say how to build "
            "the network: build it yourself and call vpns_lightning.runs.handoff.load_network"
        )
    config = _parsed(parser, {"network": {**arguments, **known}}, str(folder.config))
    network: PromptedClassifier = instantiate(parser, config).network
    network.weights_name = about.weights
    return network


def _parsed(parser: ArgumentParser, arguments: dict[str, Any], file: str) -> Namespace:
    try:
        parsed: Namespace = parser.parse_object(arguments)
        return parsed
    except ArgumentError as error:
        raise UserError(f"{file} does not describe a run: {' '.join(str(error).split())}") from None


def load_data(config: dict[str, Any], **changes: object) -> ImageData:
    """Rebuild the data module of a run.

    Args:
        config: The run's config.
        changes: Arguments to replace, such as ``root``; None keeps the run's.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageData, "data", skip={"seed"}, required=True)
    data = config["data"]
    given = {key: value for key, value in changes.items() if value is not None}
    arguments = {**data.get("init_args", {}), **given}
    parsed = _parsed(parser, {"data": {**data, "init_args": arguments}}, "the run's config")
    module: ImageData = instantiate(parser, parsed).data
    module.seed = config.get("seed_everything", module.seed)
    return module


def pick_device(accelerator: str) -> torch.device:
    """Return the device that ``cpu``, ``cuda``, ``gpu`` or ``auto`` means here.

    Raises:
        UserError: It is none of these, or there is no such device.
    """
    wanted = {"gpu": "cuda", "auto": "cuda" if torch.cuda.is_available() else "cpu"}
    name = wanted.get(accelerator, accelerator)
    if name not in {"cpu", "cuda"} or (name == "cuda" and not torch.cuda.is_available()):
        raise UserError(f"accelerator {accelerator!r} is not available here: use auto, cpu or cuda")
    return torch.device(name)
