"""``vpns import``: a run folder from a checkpoint of the authors' released code."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import msgspec
import yaml
from jsonargparse import ArgumentParser, Namespace

from vpns_lightning.base.errors import UserError
from vpns_lightning.commands.parsing import parse
from vpns_lightning.data import ImageData
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.network.downloads import file_sha256
from vpns_lightning.pruners import Hydra
from vpns_lightning.released import (
    PromptKind,
    Released,
    check_sparsity_of,
    check_values,
    network_arguments,
    network_from,
    read_released,
)
from vpns_lightning.runs.collecting import collect
from vpns_lightning.runs.evaluation import evaluate
from vpns_lightning.runs.folder import RunFolder
from vpns_lightning.runs.handoff import load_network, save_masks, save_network
from vpns_lightning.runs.loading import instantiate, pick_device
from vpns_lightning.runs.record import Accuracy, RunRecord, RunSoFar, StageRecord, write_record
from vpns_lightning.runs.settings import at_hand
from vpns_lightning.sparsity import check_sparsity, sparsity_report
from vpns_lightning.stages import VIEWS, MaskFinding

STAGE = "imported"


def import_parser() -> ArgumentParser:
    """Return the parser of ``vpns import``."""
    parser = ArgumentParser(
        prog="vpns import",
        description=(
            "Make a run folder of a checkpoint of the authors' released code, for vpns test, "
            "predict, export and bench. Masks come from the scores at --sparsity, because the "
            "file does not store them. Where the data set is at hand, accuracy is measured with "
            "the prompt and without; the released code reports the latter."
        ),
        exit_on_error=False,
    )
    parser.add_argument("--checkpoint", type=str, required=True, help="best.pth")
    parser.add_argument(
        "--backbone", type=str, required=True, help="resnet18, resnet50, vgg16, ..."
    )
    parser.add_subclass_arguments(ImageData, "data", skip={"seed"}, required=True)
    parser.add_argument("--sparsity", type=float, required=True, help="fraction of weights removed")
    parser.add_argument("--output", type=str, required=True, help="the run folder to make")
    parser.add_argument(
        "--prompt",
        type=str,
        default="auto",
        choices=get_args(PromptKind),
        help="pad or fix, for a prompt that covers the whole image; else its mask says it",
    )
    parser.add_argument("--accelerator", type=str, default="auto", help="cpu, cuda or auto")
    return parser


def run(arguments: Sequence[str]) -> None:
    """Run ``vpns import``.

    Raises:
        UserError: The checkpoint, or what is said about it, is wrong; nothing is written then.
    """
    parser = import_parser()
    config = parse(parser, arguments)
    check_sparsity(config.sparsity)
    device = pick_device(config.accelerator)
    folder = RunFolder(config.output)
    if folder.config.exists() or folder.handoff.exists():
        raise UserError(f"{folder.path} holds a run already: choose another --output")
    released = read_released(config.checkpoint)
    data: ImageData = instantiate(parser, config).data
    check_values(released)
    untold = check_sparsity_of(released, config.sparsity)
    if untold is not None:
        print(untold)
    described = network_arguments(released, config.backbone, data.num_classes, config.prompt)
    network = network_from(released, described, config.sparsity)
    if network.prompt is not None:
        network.prompt.check_input_size(data.input_size)
        _say_size(described["prompt"], data.input_size)
    measured = sparsity_report(network.backbone).sparsity
    with folder.locked():
        run = _measured(network.to(device), data, _known(released, network, data))
        result = _collect(network, data, config.sparsity, run, ["vpns", "import", *arguments])
        # only now: a folder whose import was stopped can be imported into again
        folder.keep_config(
            {
                "imported": {
                    "checkpoint": str(released.path.absolute()),
                    "sha256": file_sha256(released.path),
                    "sparsity": config.sparsity,
                },
                "network": described,
                "data": _plain(parser, config)["data"],
            }
        )
        save_network(folder.handoff, network.cpu(), run, stage=STAGE, sparsity=measured)
        load_network(folder.handoff, network)
        save_masks(folder.masks, network, run, method=result.method, stage=STAGE, sparsity=measured)
        write_record(folder.result, result)
    _say(folder, result)


def _say_size(prompt: Mapping[str, Any], input_size: int) -> None:
    """Say that images leave a gap between them and a border that surrounds them."""
    given = prompt["init_args"]
    inner = given["canvas_size"] - 2 * given.get("pad_size", 0)
    if "pad_size" in given and 0 < input_size < inner:
        print(
            f"the prompt's border leaves {inner} px free, and images of {input_size} px do not "
            f"fill it: if it was trained at {inner} px, add --data.input_size {inner}"
        )


def _plain(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    record: dict[str, Any] = yaml.safe_load(parser.dump(config, skip_unset=False))
    return record


def _known(released: Released, network: PromptedClassifier, data: ImageData) -> RunSoFar:
    """Return what the checkpoint and the data set say."""
    names = data.class_names if at_hand(data) else map(str, range(data.num_classes))
    # the released code takes a step on each of both views
    views = VIEWS if network.prompt is not None else VIEWS[:1]
    return RunSoFar(
        seed=None,
        dataset=data.name,
        input_size=data.input_size,
        class_names=tuple(names),
        stages={STAGE: StageRecord(views=views)},
        imported=True,
        checkpoint=released.path.name,
        last_epoch=released.epoch,
    )


def _measured(network: PromptedClassifier, data: ImageData, run: RunSoFar) -> RunSoFar:
    """Return the run with its accuracy, where the images are there."""
    accuracy = Accuracy()
    if at_hand(data):
        data.prepare_data()
        accuracy = evaluate(network, data)
    return run.after(STAGE, msgspec.structs.replace(run.stages[STAGE], accuracy=accuracy))


def _collect(
    network: PromptedClassifier,
    data: ImageData,
    sparsity: float,
    run: RunSoFar,
    command: Sequence[str],
) -> RunRecord:
    """Return the content of ``result.json``; what the checkpoint does not say is None."""
    find = MaskFinding(
        network,
        Hydra(tie_rule="threshold"),
        sparsity=sparsity,
        views=run.stages[STAGE].views or VIEWS,
        mapping_on="pruned",
    )
    return msgspec.structs.replace(
        collect(network, data, find, run, command),
        epochs=None,
        gradient_steps=None,
        forward_backward_passes=None,
        seconds=None,
        protocol="released",
        imported=True,
        checkpoint=run.checkpoint,
    )


def _say(folder: RunFolder, result: RunRecord) -> None:
    print(
        f"{folder.path}: {result.method}, {result.backbone} on {result.dataset}, sparsity "
        f"{result.sparsity:.6f} ({result.weights_kept:,} of {result.weights_prunable:,} "
        "weights kept)"
    )
    if result.test_accuracy is None:
        print(
            "the data set is not there, so no accuracy was measured and classes are numbers: "
            f"vpns test --run {shlex.quote(str(folder.path))} --data.root FOLDER measures"
        )
    elif result.prompt is None:
        print(f"test accuracy {result.test_accuracy:.4f}; there is no prompt")
    else:
        print(
            f"test accuracy {result.test_accuracy:.4f} with the prompt, "
            f"{result.test_accuracy_plain:.4f} without"
        )
