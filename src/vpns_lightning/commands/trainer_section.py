"""The trainer section of a config: what it builds is built anew for every stage."""

from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.processes import is_first_process
from vpns_lightning.commands.keys import Parser, add_trainer_keys
from vpns_lightning.runs.folder import RunFolder
from vpns_lightning.runs.loading import instantiate
from vpns_lightning.training.loggers import logger_arguments, wandb_offline
from vpns_lightning.training.machine import Machine, as_list

# loggers that keep files
KEEPERS = ("WandbLogger", "MLFlowLogger")


def machine_of(section: Namespace, folder: RunFolder, *, keeps_files: bool = False) -> Machine:
    """Return the machine of a parsed trainer section; loggers bear the names of run and stage.

    Args:
        section: The section.
        folder: The run folder.
        keeps_files: A logger is to keep files of the run.

    Raises:
        UserError: There is no logger that could.
    """
    loggers = [logger for logger in as_list(section.logger) if isinstance(logger, Namespace)]
    if keeps_files and not any(str(each.class_path).endswith(KEEPERS) for each in loggers):
        raise UserError(
            "log_artifacts lets a logger keep masks and export, and trainer.logger names none that "
            f"can: {' or '.join(KEEPERS)}"
        )
    for logger in loggers:
        if is_first_process():
            folder.make()
        if _is_wandb(logger):
            logger.init_args.offline = wandb_offline(logger.init_args.offline, folder.path)
    plain = {
        key: value
        for key, value in section.as_dict().items()
        if key != "default_root_dir" and value is not None and not _describes_objects(value)
    }
    parser = Parser(exit_on_error=False)
    add_trainer_keys(parser)

    def built(own: Namespace) -> Mapping[str, Any]:
        whole = Namespace(trainer=own)  # type: ignore[no-untyped-call]  # of jsonargparse
        objects = instantiate(parser, whole).trainer.as_dict()
        return {key: objects[key] for key in objects if key not in plain and objects[key]}

    def of_stage(stage: str) -> Mapping[str, Any]:
        own = section.clone()
        for logger in as_list(own.logger):
            if isinstance(logger, Namespace):
                _name_logger(logger, folder, stage)
        return built(own)

    def connecting() -> Mapping[str, Any]:
        own = section.clone()
        # loggers open connections and folders when they are built, and callbacks count as used
        own.logger = own.callbacks = own.profiler = None
        return built(own)

    return Machine(plain, of_stage, connecting, loggers_of_stage=True)


def _describes_objects(value: object) -> bool:
    """Return whether a value names classes, alone or in a list."""
    return any(isinstance(item, dict) and "class_path" in item for item in as_list(value))


def _is_wandb(logger: Namespace) -> bool:
    return str(logger.class_path).endswith(".WandbLogger")


def _name_logger(logger: Namespace, folder: RunFolder, stage: str) -> None:
    """Name a logger after run and stage, where the config does not."""
    given = logger.init_args
    untyped = dict(logger.get("dict_kwargs") or {})
    named = {**given.as_dict(), **untyped}
    for key, value in logger_arguments(logger.class_path, named, folder.path, stage).items():
        (given if key in given else untyped)[key] = value
    logger.dict_kwargs = untyped
