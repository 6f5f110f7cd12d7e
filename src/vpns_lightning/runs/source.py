"""The network after finding, kept so that later runs can tune it anew."""

import os
import shutil
from pathlib import Path

import msgspec

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.files import replacing
from vpns_lightning.data import ImageData
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.runs.folder import RunFolder
from vpns_lightning.runs.handoff import copy_network, read_about
from vpns_lightning.runs.record import RunRecord
from vpns_lightning.runs.settings import options
from vpns_lightning.stages import MaskFinding


def keep_found(run: RunFolder) -> None:
    """Keep the hand-off of finding, which tuning will replace."""
    if run.found.is_file() or read_about(run.handoff).stage != "find":
        return
    with replacing(run.found) as temporary:
        try:
            os.link(run.handoff, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(run.handoff, temporary)


def source_of(
    path: str | Path, network: PromptedClassifier, data: ImageData, find: MaskFinding
) -> RunFolder:
    """Return the folder of a finished run from which another may be tuned.

    Args:
        path: The folder.
        network: Of the new run.
        data: Of the new run.
        find: Finding as the new run describes it; it is not run again.

    Raises:
        UserError: The run is not finished, was finished by a version that did not keep the network
            after finding, or found with other settings; the first is named.
    """
    run = RunFolder(path)
    record = run.read_result()
    if record is None:
        raise UserError(f"{run.path} is no finished run, so there is nothing to tune from")
    if not run.found.is_file():
        raise UserError(
            f"{run.found} is missing: the run was finished by a version that did not keep the "
            "network after finding. Tune on its masks instead: find.pruner Stored, path "
            f"{run.masks}"
        )
    for name, there, here in _compared(record, network, data, find):
        if there != here and there is not msgspec.UNSET:
            raise UserError(
                f"{run.path} was found with other settings: {name} is {there!r} there, {here!r} "
                "now. Repeat its settings, or find again without a source"
            )
    return run


def _compared(
    record: RunRecord, network: PromptedClassifier, data: ImageData, find: MaskFinding
) -> list[tuple[str, object, object]]:
    return [
        ("backbone", record.backbone, network.backbone_name),
        ("classes", record.classes, network.num_classes),
        ("data", record.dataset, data.name),
        ("data.input_size", record.input_size, data.input_size),
        ("data.limit_per_class", record.limit_per_class, data.limit_per_class),
        ("find.sparsity", record.sparsity_requested, find.sparsity),
        ("find.sparsity_by_layer", record.sparsity_by_layer, find.sparsity_by_layer),
        ("find.pruner", record.pruner, options(find.pruner)),
        ("network.prompt", record.prompt, network.prompt and options(network.prompt)),
    ]


def take_found(source: RunFolder, run: RunFolder, seed: int) -> None:
    """Begin a run after finding, with what another has found; its cost stays in the record."""
    about = read_about(source.found)
    stages = {
        name: msgspec.structs.replace(stage, reused_from=str(source.path))
        for name, stage in about.stages.items()
    }
    copy_network(source.found, run.handoff, seed=seed, stages=stages, source=str(source.path))
