"""``vpns data``: is a data set complete and readable, and is all ready that a run will read?"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from vpns_lightning.base.errors import UserError, nearest
from vpns_lightning.base.shipped import config_file
from vpns_lightning.commands.help import SECTIONS
from vpns_lightning.commands.parsing import (
    changed,
    import_plugins,
    parse,
    read_config_file,
)
from vpns_lightning.data import ImageData
from vpns_lightning.data.images.cache import verify_caches
from vpns_lightning.runs.loading import instantiate

VERBS = ("check", "prepare")
# sections and keys of a run's config that say nothing of its data
OTHER_SECTIONS = (*SECTIONS, "seed_everything", "other_processes", "from")
USAGE = """\
vpns data check [options]     layout, counts, labels and a sample of images
vpns data prepare [options]   download what is missing, decode images into the cache: before a run
                              of several processes, which would wait for one; takes the options of
                              vpns fit as well
"""


def run(arguments: Sequence[str]) -> None:
    """Run ``vpns data``.

    Raises:
        UserError: The verb is unknown, or the data set is incomplete or damaged.
    """
    verb = arguments[0] if arguments else "--help"
    parser = _parser(verb)
    if verb in {"-h", "--help"}:
        parser.print_help()
        return
    if verb not in VERBS:
        raise UserError(
            f"vpns data {verb!r} is unknown{nearest(verb, VERBS)}; allowed: {', '.join(VERBS)}"
        )
    given = import_plugins(arguments[1:])
    if verb == "prepare":
        given = list(_about_data(given))
    config = parse(parser, _without_configs(given))
    data: ImageData = instantiate(parser, config).data
    if verb == "prepare":
        _prepare(data)
        return
    print(data.check(config.sample))
    if config.caches:
        lines = verify_caches(data.cache_folder)
        print("\n".join(lines) or f"there is no cache in {data.cache_folder}")


def _parser(verb: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog=f"vpns data {verb}" if verb in VERBS else "vpns data",
        usage=USAGE,
        description=(
            "The data set is given by --data or by the data section of a --config file; several "
            "files may follow each other, later ones win. --plugins FILE.py makes a class of yours "
            "known."
        ),
        exit_on_error=False,
    )
    parser.add_subclass_arguments(ImageData, "data", skip={"seed"}, required=True)
    if verb != "prepare":
        parser.add_argument("--sample", type=int, default=64, help="images to decode in each split")
        parser.add_argument("--caches", action="store_true", help="also every byte of the caches")
    return parser


def _prepare(data: ImageData) -> None:
    data.prepare_data()
    counts = ", ".join(f"{len(data.split(name)):,} {name}" for name in ("train", "test"))
    print(f"{data.name} in {data.root} is ready: {counts} images, {data.num_classes} classes")
    for file in data.cache_files:
        print(f"{file}: {file.stat().st_size / (1 << 20):,.1f} MiB")
    if not data.cache_files:
        print("no cache on disk is needed")


def _about_data(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the arguments of ``vpns fit`` that say which data, so that a script can pass all."""
    keep = True
    for argument in arguments:
        if argument.startswith("--"):
            name = argument[2:].partition("=")[0]
            section = name.partition(".")[0]
            keep = section not in OTHER_SECTIONS
        if keep:
            yield argument


def _without_configs(arguments: Sequence[str]) -> list[str]:
    """Replace every ``--config FILE`` by the ``--data`` that the file has.

    Raises:
        UserError: A file is missing or is no YAML, or none has a data section.
    """
    without: list[str] = []

    def section_of(file: str) -> list[str]:
        content: Any = read_config_file(config_file(file))
        section = content.get("data") if isinstance(content, dict) else None
        if section is None:
            without.append(file)
            return []
        return [f"--data={json.dumps(section)}"]

    given = changed(arguments, ["--config"], section_of)
    if without and not any(argument.startswith("--data") for argument in given):
        raise UserError(
            f"config file {without[0]} has no data section: give --data CIFAR100 --data.root data, "
            "or --config FILE"
        )
    return given
