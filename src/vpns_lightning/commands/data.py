"""``vpns data check``: is a data set complete and readable?"""

import json
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from vpns_lightning.base.errors import UserError, nearest
from vpns_lightning.commands.parsing import import_plugins, parse, read_config_file
from vpns_lightning.data import ImageData
from vpns_lightning.runs.loading import instantiate

VERBS = ("check",)


def run(arguments: Sequence[str]) -> None:
    """Run ``vpns data``.

    Raises:
        UserError: The verb is unknown, or the data set is incomplete or damaged.
    """
    parser = ArgumentParser(
        prog="vpns data check",
        description=(
            "Verify layout, counts, labels and a sample of images of a data set, given by --data "
            "or by the data section of a --config file."
        ),
        exit_on_error=False,
    )
    parser.add_subclass_arguments(ImageData, "data", skip={"seed"}, required=True)
    parser.add_argument("--sample", type=int, default=64, help="images to decode in each split")
    if not arguments or arguments[0] in {"-h", "--help"}:
        parser.print_help()
        return
    if arguments[0] not in VERBS:
        raise UserError(
            f"vpns data {arguments[0]!r} is unknown{nearest(arguments[0], VERBS)}; "
            f"allowed: {', '.join(VERBS)}"
        )
    config = parse(parser, _without_configs(import_plugins(arguments[1:])))
    data: ImageData = instantiate(parser, config).data
    print(data.check(config.sample))


def _without_configs(arguments: Sequence[str]) -> list[str]:
    """Replace every ``--config FILE`` by the ``--data`` that the file has.

    Raises:
        UserError: A file is missing, is no YAML, or has no data section.
    """
    given, pending = [], iter(arguments)
    for argument in pending:
        option, equals, value = argument.partition("=")
        if option != "--config":
            given.append(argument)
            continue
        path = Path(value if equals else next(pending, ""))
        section = (read_config_file(path) or {}).get("data")
        if section is None:
            raise UserError(f"config file {path} has no data section")
        given.append(f"--data={json.dumps(section)}")
    return given
