"""The record of a run: what ``result.json`` and the facts in hand-offs hold.

This file alone spells their keys. It needs no torch, so that thousands of results are read at once.
A field that an older version did not write is ``UNSET``; one that says "there is none" is None.
"""

from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from vpns_lightning._version import __version__
from vpns_lightning.base.files import write_text
from vpns_lightning.base.renamed import present_stage, with_present_stages

SCHEMA = 1
Value = TypeVar("Value")
Stated: TypeAlias = Value | UnsetType
# a part of a run by its class's name, under "name", and the plain values it was made with
Settings: TypeAlias = dict[str, Any]
Fraction: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Sparsity: TypeAlias = Annotated[float, Meta(ge=0, lt=1)]


class Accuracy(Struct, frozen=True, kw_only=True):
    """Accuracy on the test images, each counted once.

    Attributes:
        test_accuracy: A fraction, with the prompt where there is one; None where not measured.
        test_accuracy_plain: A fraction, without the prompt.
        test_images: How many images were counted.
    """

    test_accuracy: Fraction | None = None
    test_accuracy_plain: Fraction | None = None
    test_images: int = 0


class Budget(Struct, frozen=True, kw_only=True):
    """What a stage was given.

    Attributes:
        epochs: Epochs, of one round where there are rounds.
        batches: Batches in an epoch, 0 for a stage without epochs.
    """

    epochs: int
    batches: int


class OptimizerRecord(Struct, frozen=True, kw_only=True):
    """An optimiser.

    Attributes:
        name: Its class.
        lr: The learning rate that each parameter group started from.
    """

    name: str
    lr: dict[str, float]


class Training(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a stage trained with besides the defaults; only what was set is written.

    Attributes:
        loss: The loss; cross-entropy where None.
        clip_norm: The 2-norm that gradients were clipped to.
        accumulate: Batches whose gradients made one step.
        mixup: Alpha of MixUp.
        cutmix: Alpha of CutMix.
        average: Of the weights, handed on in place of the last ones.
    """

    loss: Settings | None = None
    clip_norm: float | None = None
    accumulate: int = 1
    mixup: float | None = None
    cutmix: float | None = None
    average: Settings | None = None


class StageRecord(Struct, frozen=True, kw_only=True):
    """What a stage cost, how it trained, and what it reached.

    Attributes:
        epochs: Epochs trained; a pruner that looks at a few images takes passes, but no epoch.
        gradient_steps: Optimiser steps.
        forward_backward_passes: Passes of a batch forward and backward.
        seconds: Of training, interruptions left out.
        peak_memory_bytes: Of the device's allocator, on a CPU of the process.
        budget: What it was given.
        views: What a step trained on, in order.
        unaugmented: Views whose images were not cropped and flipped.
        optimizers: Its optimisers.
        lr_scheduler: Its schedule; None where nothing was scheduled.
        training: What it trained with besides the defaults.
        precision: Lightning's name of it.
        processes: How many trained together.
        processes_before: How many had trained earlier parts of the stage, where that changed.
        metrics: The last values logged.
        accuracy: Of the network after it.
        reused_from: The cell of a grid, or the run folder, whose stage was taken.
        stopped: It ended before its epochs were over, as a callback wanted; else ``UNSET``.
    """

    epochs: Stated[int | None] = UNSET
    gradient_steps: Stated[int | None] = UNSET
    forward_backward_passes: Stated[int | None] = UNSET
    seconds: Stated[float | None] = UNSET
    peak_memory_bytes: Stated[int | None] = UNSET
    budget: Stated[Budget | None] = UNSET
    views: Stated[tuple[str, ...] | None] = UNSET
    unaugmented: Stated[tuple[str, ...] | None] = UNSET
    optimizers: Stated[tuple[OptimizerRecord, ...] | None] = UNSET
    lr_scheduler: Stated[Settings | None] = UNSET
    training: Stated[Training | None] = UNSET
    precision: Stated[str | None] = UNSET
    processes: Stated[int | None] = UNSET
    processes_before: Stated[tuple[int, ...]] = UNSET
    metrics: Stated[dict[str, float | None]] = UNSET
    accuracy: Stated[Accuracy] = UNSET
    reused_from: Stated[str] = UNSET
    stopped: Stated[bool] = UNSET

    @property
    def reached(self) -> Accuracy:
        """Return the accuracy after the stage, an empty one where nobody measured."""
        return self.accuracy or Accuracy()


Stages: TypeAlias = dict[str, StageRecord]


class GridRecord(Struct, frozen=True, kw_only=True):
    """Where a run stands in a grid.

    Attributes:
        name: The grid.
        cell: The cell.
        method: The method as the grid calls it.
        axes: What else the grid varies.
    """

    name: str = ""
    cell: str = ""
    method: str = ""
    axes: dict[str, Any] | None = None


class RunSoFar(Struct, frozen=True, kw_only=True):
    """What is known of a run while its stages are under way.

    Attributes:
        seed: Of everything random; None where it is not known.
        dataset: Class of the data module.
        input_size: Side of the images in px, before prompting.
        class_names: In index order.
        stages: What the finished stages came to, in order.
        imported: The run was not trained here.
        checkpoint: The file it was imported from.
        last_epoch: The last epoch of that file.
        source: Folder of the run whose masks were tuned, where it is another.
    """

    seed: int | None
    dataset: str
    input_size: int
    class_names: tuple[str, ...] = ()
    stages: Stages = {}
    imported: Stated[bool] = UNSET
    checkpoint: Stated[str] = UNSET
    last_epoch: Stated[int | None] = UNSET
    source: Stated[str] = UNSET

    def after(self, stage: str, record: StageRecord) -> "RunSoFar":
        """Return the run with one more stage finished."""
        return msgspec.structs.replace(self, stages={**self.stages, stage: record})


class HandOff(RunSoFar, frozen=True, kw_only=True):
    """The facts in a file that a stage hands on, or in one of masks.

    Attributes:
        backbone: Of the network.
        weights: What it was pretrained with.
        num_classes: Target classes.
        source_classes: Classes of its head before the label mapping took some.
        prunable_sha256: Hash of the names and shapes of all layers with masks.
        version: Of this package.
        schema: Of these facts.
        stage: The stage just finished.
        sparsity: Measured after it.
        method: As the paper writes it; in files of masks.
        shared_by: The cell of a grid that made a warm-up for others.
        tensors_sha256: Hash of all tensors.
    """

    seed: int | None = None
    dataset: str = ""
    input_size: int = 0
    backbone: str
    weights: str | None
    num_classes: int
    source_classes: int
    prunable_sha256: str = ""
    version: str
    schema: int
    stage: str = ""
    sparsity: float | None = None
    method: Stated[str] = UNSET
    shared_by: Stated[str] = UNSET
    tensors_sha256: Stated[str] = UNSET

    def run_so_far(self) -> RunSoFar:
        """Return what the file says of the run, without its network."""
        return RunSoFar(**{name: getattr(self, name) for name in RunSoFar.__struct_fields__})


class RunRecord(Struct, frozen=True, kw_only=True):
    """A finished run, the content of ``result.json``.

    Sparsity is the fraction of weights removed. Of a structured run ``sparsity_requested`` and
    ``sparsity`` count channels. Accuracies are fractions of the test images.

    Attributes:
        method: As the paper writes it.
        sparsity_requested: What was asked for.
        sparsity_by_layer: What was asked for of layers by name.
        sparsity: What was measured, over all prunable weights.
        effective_sparsity: With weights that no signal reaches counted as removed.
        sparsity_per_layer: Of each layer.
        collapsed_layers: Layers with nothing kept.
        dense_accuracy: After the warm-up.
        accuracy_before_tuning: After finding.
        accuracy_before_prompt: Without what a prompt learned after all else.
        prompt: None where there is none.
        data_folder: Name of the images' folder; tells image folders apart.
        batch_size: Images that go through the network together, over all processes; a step
            takes ``accumulate`` times as many.
        train_images: How many are trained on.
        limit_per_class: Training images taken of each class; None takes all.
        limit_test_per_class: Test images likewise.
        validation: Fraction of the training images held out.
        views: Of each stage.
        protocol: ``paper``, ``released`` or ``mixed``.
        lr_schedulers: Of each stage that was scheduled.
        training: Of each stage, what it trained with besides the defaults.
        headline: The key of the accuracy that the run is judged by.
        macs: Multiply-adds of the dense network for one image.
        effective_macs: Those left after pruning: a count, not a time.
        structured: Channels were cut.
        channels: Of each group, in the dense network.
        channels_kept: Of each group.
        versions: Of the packages.
        command: What started it.
        grid: Where it stands in a grid.
        parts: Callbacks and plugins of the Trainer that may have changed what was learned.
        source: Folder of the run whose masks were tuned, where it is another.
    """

    schema: Annotated[int, Meta(ge=0)] | None = SCHEMA
    method: str
    backbone: str
    weights: Stated[str | None] = UNSET
    dataset: str
    classes: Stated[int | None] = UNSET
    seed: int | None
    sparsity_requested: Sparsity
    sparsity_by_layer: Stated[dict[str, float] | None] = UNSET
    sparsity: Fraction
    effective_sparsity: Stated[float | None] = UNSET
    weights_kept: Stated[int | None] = UNSET
    weights_prunable: Stated[int | None] = UNSET
    sparsity_per_layer: Stated[dict[str, float] | None] = UNSET
    collapsed_layers: Stated[tuple[str, ...] | None] = UNSET
    test_accuracy: Fraction | None = None
    test_accuracy_plain: Fraction | None = None
    test_images: Stated[int | None] = UNSET
    dense_accuracy: Stated[float | None] = UNSET
    accuracy_before_tuning: Stated[float | None] = UNSET
    accuracy_before_prompt: Stated[float | None] = UNSET
    prompt: Stated[Settings | None] = UNSET
    mapping: Stated[Settings | None] = UNSET
    pruner: Stated[Settings | None] = UNSET
    data_folder: Stated[str | None] = UNSET
    input_size: Stated[int | None] = UNSET
    batch_size: Stated[int | None] = UNSET
    precision: Stated[str | None] = UNSET
    train_images: Stated[int | None] = UNSET
    limit_per_class: Stated[int | None] = UNSET
    limit_test_per_class: Stated[int | None] = UNSET
    validation: Stated[float | None] = UNSET
    views: Stated[dict[str, tuple[str, ...] | None] | None] = UNSET
    protocol: Stated[str | None] = UNSET
    budget: Stated[dict[str, Budget | None] | None] = UNSET
    optimizers: Stated[dict[str, tuple[OptimizerRecord, ...] | None] | None] = UNSET
    lr_schedulers: Stated[dict[str, Settings] | None] = UNSET
    training: Stated[dict[str, Training] | None] = UNSET
    headline: Stated[str | None] = UNSET
    stages: Stages
    epochs: Stated[float | None] = UNSET
    gradient_steps: Stated[float | None] = UNSET
    forward_backward_passes: Stated[float | None] = UNSET
    seconds: Stated[float | None] = UNSET
    parameters: Stated[int | None] = UNSET
    parameters_kept: Stated[int | None] = UNSET
    prompt_parameters: Stated[int | None] = UNSET
    macs: Stated[int | None] = UNSET
    effective_macs: Stated[int | None] = UNSET
    macs_unit: Stated[str] = UNSET
    structured: Stated[bool] = UNSET
    channels: Stated[dict[str, int]] = UNSET
    channels_kept: Stated[dict[str, int]] = UNSET
    versions: Stated[dict[str, str]] = UNSET
    command: Stated[str | None] = UNSET
    grid: Stated[GridRecord | None] = UNSET
    imported: Stated[bool] = UNSET
    checkpoint: Stated[str] = UNSET
    parts: Stated[dict[str, list[Any]]] = UNSET
    source: Stated[str] = UNSET

    @property
    def accuracy(self) -> float | None:
        """Return the accuracy by which the run is judged, a fraction."""
        judged: float | None = getattr(self, self.headline or "test_accuracy", None)
        return judged


class NewerError(ValueError):
    """What was read was written by a newer version of this package."""


def decode(text: bytes | str, kind: type[Value]) -> Value:
    """Return a record from JSON.

    Args:
        text: The JSON.
        kind: The record's class.

    Raises:
        NewerError: It was written by a newer version.
        ValueError: The text is no such record; the message names the key.
    """
    try:
        plain = msgspec.json.decode(text)
        if not isinstance(plain, dict):
            raise ValueError("is not a JSON object")
        _refuse_newer(plain)
        return msgspec.convert(_current(plain), kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"is not what a run writes: {error}") from None
    except msgspec.MsgspecError as error:
        raise ValueError(f"cannot be read: {error}") from None


def _refuse_newer(plain: dict[str, Any]) -> None:
    """Say that a record is newer before its fields, which may have changed, are looked at."""
    schema, versions = plain.get("schema"), plain.get("versions")
    version = versions.get("vpns_lightning") if isinstance(versions, dict) else plain.get("version")
    if isinstance(schema, int) and schema > SCHEMA and isinstance(version, str):
        raise NewerError(
            f"was written by vpns_lightning {version}, newer than {__version__} (schema {schema}): "
            "upgrade to read it"
        )


def _current(plain: dict[str, Any]) -> dict[str, Any]:
    """Return what an older version wrote with the names that stages have now."""
    for key in ("stages", "views", "budget", "optimizers"):
        if isinstance(plain.get(key), dict):
            plain[key] = with_present_stages(plain[key])
    if isinstance(plain.get("stage"), str):
        plain["stage"] = present_stage(plain["stage"])
    return plain


def encode(record: Struct, *, indent: int = 0) -> str:
    """Return a record as JSON, in the order of its fields; what is ``UNSET`` is left out."""
    text = msgspec.json.encode(record)
    return (msgspec.json.format(text, indent=indent) if indent else text).decode()


def as_plain(record: Struct) -> dict[str, Any]:
    """Return a record as a reader of its JSON has it."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(record))
    return plain


def read_record(path: Path) -> RunRecord:
    """Return the content of a ``result.json``.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no result, or of a newer schema.
    """
    record = decode(path.read_bytes(), RunRecord)
    if record.headline and record.headline not in RunRecord.__struct_fields__:
        raise ValueError(f"is judged by {record.headline!r}, which no result has")
    return record


def write_record(path: Path, record: RunRecord) -> None:
    """Write ``result.json``, the mark of a finished run."""
    write_text(path, encode(record, indent=2) + "\n")
