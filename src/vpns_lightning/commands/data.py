"""``vpns data check``: is a data set complete and readable?"""

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from vpns_lightning.commands.parsing import import_plugins, parse
from vpns_lightning.data import ImageData
from vpns_lightning.errors import UserError, nearest
from vpns_lightning.loading import instantiate

VERBS = ("check",)


def run(arguments: Sequence[str]) -> None:
    """Run ``vpns data``.

    Raises:
        UserError: The verb is unknown, or the data set is incomplete or damaged.
    """
    parser = ArgumentParser(
        prog="vpns data check",
        description="Verify layout, counts, labels and a sample of images of a data set.",
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="a YAML file with a data section")
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
    config = parse(parser, import_plugins(arguments[1:]))
    data: ImageData = instantiate(parser, config).data
    print(data.check(config.sample))
