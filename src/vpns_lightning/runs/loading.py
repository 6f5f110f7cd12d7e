"""A network back from its run folder, which alone is enough."""

import json
import sys
from argparse import ArgumentError
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import ArgumentParser, Namespace
from torch.nn.modules.loss import _Loss
from torch.optim.lr_scheduler import LRScheduler

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.trust import TRUSTED_PACKAGES, guard_parsing, is_trusted
from vpns_lightning.data import ImageData
from vpns_lightning.network import LabelMapping, Prompt, PromptedClassifier
from vpns_lightning.network.specification import is_timm
from vpns_lightning.pruners import Pruner
from vpns_lightning.runs.folder import HUB_CONFIG, HUB_MODEL, RunFolder
from vpns_lightning.runs.handoff import load_network, read_about
from vpns_lightning.runs.record import HandOff
from vpns_lightning.sparsity import unmask_layers
from vpns_lightning.stages.averaging import WeightAverage

# keys whose value may be a bare class path instead of a class_path mapping
CLASS_KEYS = {
    *("backbone", "data", "pruner", "prompt", "mapping", "optimizer", "lr_scheduler"),
    *("loss", "average", "schedulers"),
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
    if isinstance(tree, dict | Namespace):
        for key, value in _entries(tree).items():
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


def _entries(tree: dict[str, Any] | Namespace) -> dict[str, Any]:
    return vars(tree) if isinstance(tree, Namespace) else tree


def guard() -> None:
    """Have the parsers of this process import nothing but what a config may name."""
    guard_parsing((ImageData, Pruner, Prompt, LabelMapping, WeightAverage, LRScheduler, _Loss))


def check_untyped(config: Any, key: str = "") -> None:  # a parsed config, or a part of one
    """Refuse a class where any value will do: nothing says of which kind it must be.

    Args:
        config: A parsed config.
        key: Where it stands.

    Raises:
        UserError: ``dict_kwargs`` holds a ``class_path``.
    """
    if isinstance(config, list):
        for item in config:
            check_untyped(item, key)
    elif isinstance(config, dict | Namespace):
        for name, value in _entries(config).items():
            inner = f"{key}.{name}" if key else str(name)
            if name == "dict_kwargs" and next(_class_paths(value), None) is not None:
                raise UserError(
                    f"{inner} names the class {next(_class_paths(value))}: a class may only stand "
                    "where its kind is known, and dict_kwargs take plain values"
                )
            check_untyped(value, inner)


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


def load_run(
    path: str | Path, *, network: PromptedClassifier | None = None, accelerator: str = "cpu"
) -> LoadedRun:
    """Rebuild the network of a run; pretrained weights and data are not needed.

    Args:
        path: The run folder, or one that ``vpns export`` wrote for the Hub.
        network: A network built as that of the run was, which takes its state; None builds one
            from the run's config.
        accelerator: ``cpu``, ``cuda`` (or ``gpu``), or ``auto``.

    Raises:
        UserError: It is no run folder, no stage is finished, its config does not say how to build
            the network, or names a class of a package that nobody named.
    """
    folder = RunFolder(path)
    published = not folder.config.is_file() and (folder.path / HUB_CONFIG).is_file()
    file = folder.path / HUB_MODEL if published else folder.handoff
    config = _published(folder.path / HUB_CONFIG) if published else folder.read_config()
    parts = {key: config[key] for key in ("network", "data") if key in config}
    check_class_paths(parts, str(folder.config), imported=True)
    if not file.is_file():
        raise UserError(f"no stage of {folder.path} is finished yet: run vpns fit to its end")
    about = read_about(file)
    if about.sparsity is None or not (about.stage and about.input_size and about.class_names):
        raise UserError(
            f"{file} was not written by a run: it does not say stage, sparsity, size of "
            "images and names of classes"
        )
    if network is None:
        network = _build(config.get("network", {}), about, folder)
    load_network(file, network)
    return LoadedRun(folder, network.to(pick_device(accelerator)).eval(), config, about)


def _published(file: Path) -> dict[str, Any]:
    """Return the config of a folder that was exported for the Hub.

    Raises:
        UserError: It is damaged, or of another kind of model.
    """
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("network"), dict):
        raise UserError(f"{file} was not written by vpns export: it does not describe a network")
    return config


def load(
    run: str | Path,
    *,
    network: PromptedClassifier | None = None,
    accelerator: str = "cpu",
    masked: bool = False,
) -> PromptedClassifier:
    """Return the network of a finished run, ready to answer: images in [0, 1] to logits.

    Prompt, normalisation and label mapping are inside, and it is in eval mode. Images are of
    ``data.input_size`` px. Its layers are torch's own, pruned weights zero, so that it can be
    traced, quantised or pruned further.

    Args:
        run: The run folder, of ``vpns fit`` or ``fit_stages``, or one that ``vpns export`` wrote
            for the Hub.
        network: A network built as that of the run was, for a run whose config does not say how:
            one with a backbone of your own that was built in Python.
        accelerator: ``cpu``, ``cuda`` (or ``gpu``), or ``auto``.
        masked: Leave the layers that keep masks beside their weights.

    Raises:
        UserError: It is no such folder, no stage is finished, or its config does not say how to
            build the network and ``network`` is not given.
    """
    loaded = load_run(run, network=network, accelerator=accelerator).network
    if not masked:
        # torch's own pruning takes no weights of another memory format; images keep theirs
        unmask_layers(loaded.backbone).to(memory_format=torch.contiguous_format)
    return loaded


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
        twin.slice_head()
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
    try:
        config = _parsed(parser, {"network": {**arguments, **known}}, str(folder.config))
        network: PromptedClassifier = instantiate(parser, config).network
    except UserError as error:
        raise UserError(
            f"the network of {folder.path} cannot be built from its config ({error}): build it as "
            f"it was built then, and give it: vpns.load({str(folder.path)!r}, network=...)"
        ) from None
    network.weights_name = about.weights
    return network


def _parsed(parser: ArgumentParser, arguments: dict[str, Any], file: str) -> Namespace:
    guard()
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
