"""The keys of a config: one parser of them for ``vpns fit`` and ``vpns grid``."""

import re
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from vpns_lightning.base.errors import UserError
from vpns_lightning.commands.help import ShortHelp
from vpns_lightning.data import ImageData
from vpns_lightning.network import PromptedClassifier, specify
from vpns_lightning.runs.loading import guard
from vpns_lightning.stages import STAGES, SubnetworkTuning
from vpns_lightning.training.machine import ELSEWHERE

SHARES = (
    *("limit_train_batches", "limit_val_batches", "limit_test_batches"),
    *("limit_predict_batches", "val_check_interval"),
)


class ParsingError(UserError):
    """What the parser says of a command line or config, in its own words."""


class Parser(LightningArgumentParser):
    """A parser that raises instead of printing its usage and leaving, with a short help."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"formatter_class": ShortHelp, "allow_abbrev": False, **options})
        guard()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong.

        Raises:
            ParsingError: Always.
        """
        raise ParsingError(message) from ex


def add_run_keys(parser: ArgumentParser) -> None:
    """Add the keys of a config but ``seed_everything``: data, network, stages and trainer."""
    add_data_key(parser)
    parser.add_class_arguments(PromptedClassifier, "network")
    parser.link_arguments("data.num_classes", "network.num_classes", apply_on="instantiate")
    for key, stage in STAGES.items():
        parser.add_class_arguments(stage, key, skip={"name"} if stage is SubnetworkTuning else None)
        parser.link_arguments("network", f"{key}.network", apply_on="instantiate")
    parser.set_defaults({"warmup.epochs": 0, "prompt_tuning.epochs": 0})
    add_trainer_keys(parser)
    parser.add_argument(
        "--other_processes",
        type=bool,
        default=False,
        help="resume with another number of processes: a step then takes more or fewer images",
    )
    parser.add_argument(
        "--log_artifacts",
        type=bool,
        default=False,
        help="let W&B or MLflow keep masks, the exported network and its card too",
    )
    parser.add_argument(
        "--from",
        type=str | None,
        default=None,
        help="a finished run: its masks are tuned again or longer, and nothing is found anew",
    )
    _name_groups(parser)


def add_data_key(parser: ArgumentParser, *, required: bool = True) -> None:
    """Add the key of the images."""
    parser.add_subclass_arguments(ImageData, "data", skip={"seed"}, required=required)


def add_evaluation_keys(parser: ArgumentParser) -> None:
    """Add the keys of the machine for what is only measured: one device, unless more are asked."""
    add_trainer_keys(parser)
    parser.set_defaults({"trainer.devices": 1})
    _name_groups(parser)


def add_trainer_keys(parser: ArgumentParser) -> None:
    """Add the keys of the Trainer that describe the machine."""
    parser.add_class_arguments(
        Trainer, "trainer", instantiate=False, fail_untyped=False, skip={*ELSEWHERE, *SHARES}
    )
    # by hand, since ``typing`` keeps one order of int and float for the whole process, the one
    # made first: with a float first, ``limit_train_batches: 1`` would be the whole epoch
    assert parser.groups is not None
    group = parser.groups["trainer"]
    for name in SHARES:
        what = "after how many batches, or which share of an epoch, validation runs"
        limit = f"batches of an epoch (1), or its share (1.0), in {name.split('_')[1]}"
        group.add_argument(
            f"--trainer.{name}",
            type=int | float | None,
            default=None,
            help=what if name == "val_check_interval" else limit,
        )


HEADINGS = {
    "data": "images, and how they are read and loaded",
    "network": "prompt, backbone and label mapping: one module for training and export",
    "warmup": "dense training before anything is pruned; 0 epochs leave it out",
    "find": "stage 1: masks and prompt; the weights stay as they are",
    "tune": "stage 2: weights and prompt; the masks stay as they are",
    "prompt_tuning": "after all else the prompt alone; 0 epochs leave it out",
    "trainer": "the machine: options of the Lightning Trainer that stages do not decide",
}


def _name_groups(parser: ArgumentParser) -> None:
    """Head each section of the help with the key that it describes."""
    for key, group in (parser.groups or {}).items():
        if key in HEADINGS:
            group.title, group.description = key, HEADINGS[key]


def fit_parser() -> ArgumentParser:
    """Return a parser of the keys of a config, as ``vpns fit`` has it."""
    parser = Parser(prog="vpns fit")
    parser.add_argument("-c", "--config", action="config", help="a YAML file")
    add_seed(parser)
    add_run_keys(parser)
    return parser


def add_seed(parser: ArgumentParser) -> None:
    """Add the key of the seed."""
    parser.add_argument("--seed_everything", type=int, default=7, help="seed of everything random")


def as_record(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """Return a config as plain values, without the names of the files it came from."""
    record: dict[str, Any] = yaml.safe_load(parser.dump(config, skip_unset=False))
    record.pop("config", None)
    for asked in ("other_processes", "log_artifacts"):
        record.pop(asked, None)  # asked for each time, and no part of what is learned
    if record.get("from") is None:
        record.pop("from", None)
    # the same backbone is said the same, however its arguments were given
    record["network"]["backbone"] = specify(record["network"]["backbone"]).plain()
    return record


def default_folder(config: Namespace) -> str:
    """Return ``runs/<backbone>_<data>_<pruner>_s<sparsity>_seed<seed>``.

    Raises:
        UserError: The backbone is not said as it should be.
    """
    names = (
        slug(str(specify(config.network.backbone))),
        _last(config.data.class_path),
        _last(config.find.pruner.class_path),
    )
    level = f"s{100 * config.find.sparsity:g}"
    return str(Path("runs") / "_".join([*names, level, f"seed{config.seed_everything}"]).lower())


def slug(text: str) -> str:
    """Return a name as part of a folder's, which holds no slash and no quotes."""
    return "-".join(re.findall(r"[\w.]+", text))


def _last(class_path: str) -> str:
    return class_path.rpartition(".")[2]
