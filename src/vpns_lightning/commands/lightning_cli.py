"""``vpns fit|validate|test|predict``: the Lightning CLI over one config, one Trainer a stage."""

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.processes import say
from vpns_lightning.base.seeds import check_seed
from vpns_lightning.commands.keys import (
    Parser,
    add_data_key,
    add_evaluation_keys,
    add_run_keys,
    as_record,
    default_folder,
)
from vpns_lightning.commands.measuring import classify, measure
from vpns_lightning.commands.naming import naming_parts
from vpns_lightning.commands.parsing import import_plugins, parse, taken
from vpns_lightning.commands.trainer_section import machine_of
from vpns_lightning.data import ImageData
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.runs.folder import RunFolder
from vpns_lightning.runs.loading import check_class_paths, instantiate, load_run
from vpns_lightning.sparsity import check_sparsity
from vpns_lightning.stages import STAGES, Stage
from vpns_lightning.training.machine import Machine, check_precision
from vpns_lightning.training.pipeline import fit_stages

USAGES = {
    "fit": "vpns fit --config FILE [--config FILE] [--KEY VALUE] [--plugins FILE.py]",
    "validate": "vpns validate --run DIR [DIR ...] [--KEY VALUE]",
    "test": "vpns test --run DIR [DIR ...] [--KEY VALUE]",
    "predict": "vpns predict --run DIR --images DIR [--output FILE.csv] [--KEY VALUE]",
}
MORE = (
    "VALUE may be YAML. What a class takes: --KEY.help NAME, as in --find.pruner.help LTH; which "
    "classes there are: --KEY.help. --print_config shows the config that all options come to."
)
OF_THE_RUN = "The data set and all else are those of the run, unless options say otherwise."
EPILOGS = {
    "fit": f"Keys are those of a config file; later options win. {MORE}",
    "validate": OF_THE_RUN,
    "test": OF_THE_RUN,
    "predict": "On several devices: --trainer.devices 2 --trainer.strategy ddp.",
}
# what --from takes from the run that it names
FOUND_WITH = ("--find", "--warmup", "--network", "--data", "--config", "-c")
# options of version 0.1.0, and what they stand for
ALIASES = {
    "--root": "--data.root",
    "--accelerator": "--trainer.accelerator",
}
DATA_ALIASES = {"--batch_size": "--data.batch_size", "--num_workers": "--data.num_workers"}


class Subcommands(Trainer):
    """The subcommands: what they do, and their options beside the keys of a config."""

    def fit(self) -> None:  # type: ignore[override]  # a signature for the parser, never called
        """Find a sparse subnetwork and its prompt, then tune both; the same command resumes."""

    def validate(self) -> None:  # type: ignore[override]
        """Measure the accuracy of runs on the images they held out for validation."""

    def test(self) -> None:  # type: ignore[override]
        """Measure the accuracy of finished runs on their test images, each counted once."""

    def predict(  # type: ignore[override]
        self,
        images: str,
        *,
        output: str | None = None,
        top: int = 5,
        batch_size: int = 64,
        num_workers: int | None = None,
    ) -> None:
        """Classify every image below a folder with a finished run, into a CSV file.

        Args:
            images: The folder of images, or one image.
            output: The CSV file; predictions.csv in the run folder where not given.
            top: Classes to write for each image.
            batch_size: Images at a time, on each device.
            num_workers: Processes that decode images; a share of the cores where not given.
        """


class VPNsCLI(LightningCLI):
    """The Lightning CLI of a run: several stages, each with a Trainer made from one section.

    Args:
        args: Command line arguments, or a config as a mapping; the process's own where None.
        run: Run the subcommand that ``args`` begins with. Where False, ``args`` are options of
            ``fit`` without the subcommand, and nothing is trained: ``network``, ``stages`` and
            ``datamodule`` are there to work with, and ``fit()`` trains them.

    Attributes:
        network: The prompted, masked network that all stages hold.
        stages: By their keys: warmup, find, tune, prompt_tuning.
        datamodule: The images.
        machine: The trainer section, built anew for each stage.
        folder: The run folder.
        record: The config as it is stored in the run folder.

    Raises:
        UserError: The arguments or a config are wrong, or the run folder holds another run.
    """

    network: PromptedClassifier
    stages: Mapping[str, Stage]
    datamodule: ImageData
    machine: Machine
    folder: RunFolder
    record: dict[str, Any]

    def __init__(self, args: ArgsType = None, *, run: bool = True) -> None:
        # what Lightning says of a seed that the config holds anyway
        logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
        self.is_finished = False
        self._runs = run
        names = self.subcommands()
        super().__init__(
            save_config_callback=None,
            trainer_class=Subcommands,
            seed_everything_default=7,
            parser_kwargs={name: _described(name) for name in names} if run else _described("fit"),
            parser_class=Parser,
            args=args,
            run=run,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the subcommands; none of their options is left out."""
        return {"fit": set(), "validate": set(), "test": set(), "predict": set()}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed; what is only measured is not random."""
        fits = parser.prog == "vpns fit"
        parser.add_argument(
            "--seed_everything",
            type=int if fits else bool,
            default=self.seed_everything_default if fits else False,
            help="seed of everything random" if fits else argparse.SUPPRESS,
        )

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the keys of a config, or for what is only measured: run, data and trainer."""
        if parser.prog == "vpns fit":
            add_run_keys(parser)
            return
        parser.add_argument("--run", type=str, required=True, help="the run folder")
        if parser.prog != "vpns predict":
            add_data_key(parser, required=False)
        add_evaluation_keys(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, import plug-ins first, and check what needs nothing built."""
        if isinstance(args, Mapping | Namespace):
            self.config = parser.parse_object(args)
        else:
            given = list(sys.argv[1:] if args is None else args)
            self.config = parse(parser, given, keys=self._parser(given[0] if self._runs else None))
        config = self._of_subcommand(self.config)
        check_precision(config.trainer.precision)
        if "find" in config:
            check_sparsity(config.find.sparsity)
            check_seed(config.seed_everything)

    def before_instantiate_classes(self) -> None:
        """Say that a finished run is finished, and refuse a folder that holds another run."""
        config = self._of_subcommand(self.config)
        if "find" not in config:
            return
        self.folder = RunFolder(config.trainer.default_root_dir or default_folder(config))
        # the parser of the subcommand, for which Lightning has no public name
        self.record = as_record(self._parser(self.subcommand), config)
        self.is_finished = self.subcommand is not None and _finished(self.folder, self.record)

    def instantiate_classes(self) -> None:
        """Build data, network and stages; the Trainers are built when their stages begin."""
        config = self._of_subcommand(self.config)
        # a class, of which Lightning only asks whether it has the subcommand
        self.trainer = Trainer  # type: ignore[assignment]
        self.config_init = self.config
        self.model = self.datamodule = None  # type: ignore[assignment]
        if self.is_finished:
            return
        if "find" not in config:
            self.config_init = instantiate(self.parser, self.config)
            return
        self.machine = machine_of(config.trainer, self.folder, keeps_files=config.log_artifacts)
        config.trainer = Namespace()  # type: ignore[no-untyped-call]
        self.config_init = instantiate(self.parser, self.config)
        built = self._of_subcommand(self.config_init)
        self.network, self.datamodule = built.network, built.data
        self.stages = {key: built[key] for key in STAGES}
        self.stages["warmup"].name = "warmup"
        self.model = self.stages["tune"]

    def fit(self, **_: object) -> dict[str, Any]:
        """Run the stages that have epochs, in order.

        Returns:
            What ``result.json`` holds.
        """
        if self.is_finished:
            return {}
        config = self._of_subcommand(self.config)
        given = {key: stage for key, stage in self.stages.items() if stage.epochs}
        required = {key: self.stages[key] for key in ("find", "tune")}
        return fit_stages(
            self.network,
            self.datamodule,
            **{**given, **required},  # type: ignore[arg-type]  # each of its own class
            run_dir=str(self.folder.path),
            trainer=self.machine,
            seed=config.seed_everything,
            config=self.record,
            other_processes=config.other_processes,
            log_artifacts=config.log_artifacts,
            source=config["from"],
        )

    def validate(self, **_: object) -> None:
        """Print the accuracy on the images held out for validation."""
        self._measure("validation")

    def test(self, **_: object) -> None:
        """Print the accuracy on the test images."""
        self._measure("test")

    def predict(self, images: str, **options: Any) -> None:
        """Write the classes of a folder of images."""
        own = {key: options[key] for key in ("output", "top", "batch_size", "num_workers")}
        run = self._of_subcommand(self.config).run
        classify(load_run(run), images, trainer=self._trainer_arguments(), **own)

    def _measure(self, part: Literal["validation", "test"]) -> None:
        built = self._of_subcommand(self.config_init)
        loaded = load_run(built.run)
        built.data.seed = loaded.config.get("seed_everything", built.data.seed)
        measure(loaded, built.data, part, trainer=self._trainer_arguments())

    def _trainer_arguments(self) -> dict[str, Any]:
        built = self._of_subcommand(self.config_init).trainer.as_dict()
        return {key: value for key, value in built.items() if value is not None}

    def _of_subcommand(self, config: Namespace) -> Namespace:
        part: Namespace = config[config.subcommand] if "subcommand" in config else config
        return part


def run(arguments: Sequence[str]) -> None:
    """Run ``vpns fit``, ``validate``, ``test`` or ``predict``.

    Args:
        arguments: The subcommand and its options.

    Raises:
        UserError: The arguments or a config are wrong.
    """
    subcommand, *options = arguments
    with naming_parts():
        if subcommand == "fit":
            VPNsCLI([subcommand, *_from_run(options)])
            return
        for each in _for_each_run(subcommand, options):
            VPNsCLI([subcommand, *each])


def _from_run(options: Sequence[str]) -> list[str]:
    """Return the options of ``vpns fit`` with the config of the run that ``--from`` names.

    Raises:
        UserError: An option would have the masks found otherwise than they were.
    """
    named, others = taken(options, ["--from"])
    if not named:
        return others
    source = named[-1]
    if not source:
        raise UserError("--from needs the folder of a finished run")
    for option in others:
        if option.startswith(FOUND_WITH):
            raise UserError(
                f"{option.partition('=')[0]} cannot be given with --from: masks, network and data "
                f"are those of {source}; give keys of tune, prompt_tuning and trainer"
            )
    folder = RunFolder(source)
    folder.read_config()
    new = f"--trainer.default_root_dir={folder.path}_again"
    return [f"--config={folder.config}", new, *others, f"--from={source}"]


def _for_each_run(subcommand: str, options: Sequence[str]) -> Iterator[list[str]]:
    """Yield the options for each run that ``--run`` names, with the data set of that run."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--run", action="extend", nargs="+", default=[])
    try:
        named, others = parser.parse_known_args(import_plugins(options))
    except argparse.ArgumentError as error:
        raise UserError(f"vpns {subcommand}: {error}") from None
    others = [_present(option, subcommand) for option in others]
    if not named.run:
        yield others
    for run in named.run:
        yield [f"--run={run}", *_data_of(run, subcommand), *others]


def _present(option: str, subcommand: str) -> str:
    """Return an option of version 0.1.0 as it is spelled now."""
    name, equals, value = option.partition("=")
    aliases = ALIASES if subcommand == "predict" else {**ALIASES, **DATA_ALIASES}
    return aliases.get(name, name) + equals + value


def _data_of(run: str, subcommand: str) -> list[str]:
    if subcommand == "predict":
        return []
    folder = RunFolder(run)
    data = folder.read_config().get("data", {})
    check_class_paths({"data": data}, str(folder.config), imported=True)
    return [f"--data={json.dumps(data)}"] if data else []


def _finished(folder: RunFolder, record: Mapping[str, Any]) -> bool:
    """Return whether the folder holds the finished run of this very config, and say so.

    Raises:
        UserError: It holds a run of another config.
    """
    if folder.config.is_file():
        folder.keep_config(record)
    result = folder.read_result()
    if result is None:
        return False
    say(
        f"{folder.path} is finished: {result.method}, sparsity {result.sparsity:.4f}, "
        f"test accuracy {result.test_accuracy:.4f} ({folder.result})"
    )
    return True


def _described(name: str) -> dict[str, Any]:
    """Return what the parser of a subcommand says of itself."""
    return {
        "prog": f"vpns {name}",
        "usage": USAGES[name],
        "epilog": EPILOGS[name],
    }
