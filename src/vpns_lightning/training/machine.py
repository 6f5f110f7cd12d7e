"""The machine a run uses: which Trainer options can work, and how one is set up for a stage."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from vpns_lightning.base.errors import UserError, nearest
from vpns_lightning.base.processes import say
from vpns_lightning.data import ImageData
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners import Structured
from vpns_lightning.runs.folder import METHOD_PARTS
from vpns_lightning.runs.settings import class_path, options
from vpns_lightning.sparsity import replace_module
from vpns_lightning.stages import MaskFinding, Stage, rehearse

# where a run was tried: torch's own devices, which hold the whole network
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
PROFILERS = ("simple", "advanced", "pytorch", "xla")  # that Lightning knows by a word
NAMED = 6  # weights that stay dense, of more only their number is said
PLAIN_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# each is expected here and would only make users look for a fault
EXPECTED_WARNINGS = (
    ".*does not have many workers which may be a bottleneck.*",  # cached images need none
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*number of training batches .* is smaller than the logging interval.*",  # epochs are logged
    ".*isinstance.treespec, LeafSpec.*",  # inside Lightning
    ".*It is recommended to use `self.log.*sync_dist=True.*",  # equal on all processes
    ".*broadcast_buffers. is deprecated.*",  # Lightning passes it on
    ".*Grad strides do not match bucket view strides.*",  # 1 x 1 kernels have two sets of strides
    ".*configure_optimizers. returned .None..*",  # pruners that train nothing
)


# by which Lightning says that options of a Trainer do not fit each other or this machine
NOT_FITTING = (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError)
# options of the Trainer that the stages or the pipeline decide, and where to set them instead
ELSEWHERE = {
    "max_epochs": "epochs belong to the stages: --find.epochs, --tune.epochs, --warmup.epochs",
    "min_epochs": "epochs belong to the stages: --find.epochs, --tune.epochs, --warmup.epochs",
    "max_steps": "stages last epochs (--find.epochs, --tune.epochs); --trainer.limit_train_batches "
    "shortens an epoch",
    "min_steps": "stages last epochs: --find.epochs, --tune.epochs",
    "max_time": "stop the run with SIGTERM when the time is over; the same command resumes it",
    "accumulate_grad_batches": "stages take their own gradient steps: --tune.accumulate, "
    "--find.accumulate",
    "gradient_clip_val": "stages take their own gradient steps, which are not clipped unless "
    "--tune.clip_norm or --find.clip_norm is set",
    "gradient_clip_algorithm": "stages clip the 2-norm: --tune.clip_norm, --find.clip_norm",
    "enable_checkpointing": "every epoch is saved in the run folder, which resuming needs",
    "use_distributed_sampler": "the data module draws for each process, in an order of its own",
    "reload_dataloaders_every_n_epochs": "the data module keeps its loaders, in exact orders",
    "barebones": "--config configs/debug.yaml makes a run short",
    "fast_dev_run": "--config configs/debug.yaml makes a run short",
    "overfit_batches": "--trainer.limit_train_batches shortens an epoch",
    "num_sanity_val_steps": "nothing is validated before a stage",
    "enable_autolog_hparams": "config.yaml in the run folder holds every key",
    "model_registry": "checkpoints stay in the run folder",
}


@dataclass(frozen=True)
class Machine:
    """What a run is computed on: the Trainer's arguments, anew for every stage.

    Attributes:
        options: Plain arguments, such as devices and precision.
        parts: Returns what is built for a stage by its name: loggers, callbacks, plugins.
        connecting: Returns what of that connects processes: a strategy, plugins.
        loggers_of_stage: Loggers are a stage's own, and end with it.
    """

    options: Mapping[str, Any]
    parts: Callable[[str], Mapping[str, Any]]
    connecting: Callable[[], Mapping[str, Any]] = dict
    loggers_of_stage: bool = False

    @classmethod
    def of(cls, trainer: "Mapping[str, Any] | Machine | None") -> "Machine":
        """Return the machine that Trainer arguments describe.

        Callbacks are copied for each stage; loggers and plugins are those that were given.

        Raises:
            UserError: One of them belongs to the stages.
        """
        if isinstance(trainer, Machine):
            return trainer
        given = {key: value for key, value in (trainer or {}).items() if value is not None}
        for key in given:
            if key in ELSEWHERE:
                raise UserError(f"trainer.{key} is not set here: {ELSEWHERE[key]}")
        callbacks = as_list(given.pop("callbacks", None))
        loggers = as_list(given.pop("logger", None))
        return cls(given, lambda stage: {"callbacks": deepcopy(callbacks), "logger": loggers})


def described(machine: Machine) -> dict[str, list[dict[str, Any]]]:
    """Return class and plain values of callbacks and plugins that a program gave as objects."""
    given = {**machine.options, **machine.parts("")}
    return {
        key: [
            {"class_path": class_path(part), **options(part)}
            for part in as_list(given.get(key))
            if not isinstance(part, str)
        ]
        for key in METHOD_PARTS
    }


def check_run(
    network: PromptedClassifier,
    data: ImageData,
    machine: Mapping[str, Any],
    stages: Sequence[Stage],
) -> None:
    """Refuse what could only fail later.

    Raises:
        UserError: Class counts, image size, precision, an optimiser or a schedule do not
            fit, or there is no batch to train on.
    """
    _check_options(machine, stages)
    if data.num_classes != network.num_classes:
        raise UserError(
            f"the network has {network.num_classes} classes, {data.name} has {data.num_classes}"
        )
    if network.prompt is not None:
        network.prompt.check_input_size(data.input_size)
    if any(stage.network is not network for stage in stages):
        raise UserError("all stages must hold the network that is passed to fit_stages")
    for stage in stages:
        rehearse(stage)


def _check_options(machine: Mapping[str, Any], stages: Sequence[Stage]) -> None:
    check_devices(machine)
    check_precision(machine.get("precision"))
    for option in ("val_check_interval", "check_val_every_n_epoch"):
        if machine.get(option) == 0:
            raise UserError(f"trainer.{option} must be above 0; left out, every epoch is validated")
    if machine.get("sync_batchnorm") and (
        machine.get("accelerator") == "cpu" or not torch.cuda.is_available()
    ):
        raise UserError("trainer.sync_batchnorm needs GPUs: leave it out on a CPU")
    if machine.get("limit_train_batches") == 0 and any(stage.epochs for stage in stages):
        raise UserError(
            "trainer.limit_train_batches 0 leaves no batch to train on: set it to 1 or more, or "
            "the epochs of a stage that shall not train to 0"
        )


def tell_dense(network: PromptedClassifier) -> None:
    """Say which of the backbone's weights no mask reaches, where there are any."""
    dense = network.dense_weights()
    if not dense:
        return
    named = list(dense)
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    total = sum(parameter.numel() for parameter in network.backbone.parameters())
    say(
        f"stays dense besides biases and normalisation: {', '.join(named[:NAMED])}{more} "
        f"({sum(dense.values()):,} of {total:,} values)"
    )


def check_channels(find: MaskFinding, data: ImageData) -> None:
    """Let a pruner of channels look at a copy of the network before a warm-up is spent on it.

    Raises:
        UserError: Its channels cannot be removed as asked.
    """
    if isinstance(find.pruner, Structured):
        pruner = deepcopy(find.pruner)
        pruner.image_size = data.input_size
        pruner.attach(deepcopy(find.network), find.sparsity)


def tune_ddp(trainer: pl.Trainer, stage: Stage) -> None:
    """Set what DDP should do here, whichever way the user asked for it."""
    if not isinstance(trainer.strategy, DDPStrategy):
        return
    # Lightning makes the strategy of a name, as in be_patient, and has no public place to add what
    # it is to hand to DDP
    options = trainer.strategy._ddp_kwargs
    # masks are large buffers that are equal anyway; statistics are synchronised at the hand-off
    options.setdefault("broadcast_buffers", False)
    options.setdefault("gradient_as_bucket_view", True)
    if "plain" in stage.views and stage.network.has_prompt:
        # a plain step leaves the prompt without gradient
        options.setdefault("find_unused_parameters", True)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's remarks on hardware and products for a while; warnings still show."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message)
        try:
            yield
        finally:
            logger.setLevel(level)


@contextmanager
def same_norms(network: nn.Module) -> Iterator[None]:
    """Put batch normalisation back as it was once a stage is over.

    Under ``trainer.sync_batchnorm`` Lightning replaces it, and afterwards leaves a class of its own
    that the next stage could neither gate nor cut.
    """
    kinds = {name: type(layer) for name, layer in network.named_modules()}
    yield
    for name, layer in list(network.named_modules()):
        kind = kinds.get(name, type(layer))
        replaced = kind in PLAIN_NORMS and type(layer) is not kind
        if replaced and isinstance(layer, nn.modules.batchnorm._BatchNorm):
            replace_module(network, name, _as_kind(kind, layer))


def _as_kind(kind: type[Any], layer: nn.modules.batchnorm._BatchNorm) -> nn.Module:
    """Return batch normalisation of a class that shares all tensors with ``layer``."""
    norm: nn.Module = kind(
        layer.num_features,
        layer.eps,
        layer.momentum,
        layer.affine,
        layer.track_running_stats,
        device="meta",
    )
    for name, parameter in layer.named_parameters(recurse=False):
        norm.register_parameter(name, parameter)
    for name, buffer in layer.named_buffers(recurse=False):
        norm.register_buffer(name, buffer)
    return norm.train(layer.training)


def as_list(value: Any) -> list[Any]:
    """Return a Trainer argument that may be one thing, several, a switch, or None as a list."""
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, Sequence) else [value]


def check_devices(machine: Mapping[str, Any]) -> None:
    """Refuse kinds and numbers of devices that no machine has, and profilers that are none.

    Args:
        machine: The Trainer's arguments.

    Raises:
        UserError: The accelerator is of another kind than those tried, a number is none, or a word
            names no profiler.
    """
    profiler = machine.get("profiler")
    if isinstance(profiler, str) and profiler not in PROFILERS:
        raise UserError(
            f"trainer.profiler {profiler!r} is not one of {', '.join(PROFILERS)}"
            f"{nearest(profiler, PROFILERS)}"
        )
    kind, devices = machine.get("accelerator"), machine.get("devices")
    if isinstance(kind, str) and kind not in ACCELERATORS:
        raise UserError(
            f"trainer.accelerator {kind!r} is not one of {', '.join(ACCELERATORS)}"
            f"{nearest(kind, ACCELERATORS)}"
        )
    number = str(devices).removeprefix("-")
    if number.isdigit() and (int(str(devices)) < -1 or int(number) == 0):
        raise UserError(
            f"trainer.devices {devices} is no number of devices: use 1 or more, or -1 for all"
        )
    listed = devices if isinstance(devices, list) else str(devices).split(",")
    if not number.isdigit() and not all(
        str(each).strip().isdigit() for each in listed if devices not in {None, "auto"}
    ):
        raise UserError(
            f"trainer.devices {devices} is no number of devices: use a whole number, a list of "
            "their numbers from 0, or auto"
        )


def check_precision(precision: object) -> None:
    """Refuse precisions that would store scores and weights in half or in double precision.

    Raises:
        UserError: ``16-true``, ``bf16-true``, ``64-true`` or alike.
    """
    if str(precision) in {"64", "64-true"}:
        raise UserError(
            f"precision {precision!r} does not fit the images, which are float32: use 32-true"
        )
    if str(precision) in {
        "16-true",
        "bf16-true",
        "transformer-engine",
        "transformer-engine-float16",
    }:
        raise UserError(
            f"precision {precision!r} would keep scores in half precision, where thousands of them "
            "tie: use bf16-mixed or 16-mixed"
        )


def warn_of_slow_precision(trainer: pl.Trainer) -> None:
    """Say that this CPU has no fast half-precision kernels, where that is so."""
    if trainer.strategy.root_device.type != "cpu" or trainer.precision == "32-true":
        return
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pl.utilities.rank_zero_warn(
            f"precision {trainer.precision} is many times slower than 32-true on this CPU, which "
            "has no bfloat16 instructions: leave trainer.precision out"
        )
