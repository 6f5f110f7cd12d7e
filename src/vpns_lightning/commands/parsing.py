"""Parsing arguments and configs, and saying in one line what is wrong with them."""

import argparse
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.processes import note
from vpns_lightning.base.renamed import RENAMED_STAGES
from vpns_lightning.base.shipped import config_file
from vpns_lightning.base.trust import trust
from vpns_lightning.base.unique_keys import UniqueKeys
from vpns_lightning.commands.diagnosis import SECTIONS, explained
from vpns_lightning.commands.keys import Parser, ParsingError
from vpns_lightning.runs.loading import check_class_paths, check_untyped, guard

CONFIG = ("--config", "-c")


def parse(
    parser: ArgumentParser, arguments: Sequence[str], *, keys: ArgumentParser | None = None
) -> Namespace:
    """Parse, or raise one line that names the value, what is allowed and the nearest name.

    Args:
        parser: The parser.
        arguments: The command line; ``--plugins`` are imported first.
        keys: The parser whose keys the options are, where that is one of a subcommand.

    Raises:
        UserError: The arguments or a config are wrong, or a config names a class of a package that
            is not trusted.
    """
    given = with_present_names(import_plugins(arguments), keys or parser)
    guard()
    for path in taken(given, CONFIG)[0]:
        if not path.lstrip().startswith("{"):
            read_config_file(Path(path))
    try:
        parsed: Namespace = parser.parse_args(given)
        check_untyped(parsed)
        return parsed
    except (argparse.ArgumentError, ParsingError) as error:
        raise explained(str(error), keys or parser, given) from None


def with_present_names(arguments: Sequence[str], parser: ArgumentParser) -> list[str]:
    """Return a command line whose options and configs use the present names of a parser's keys."""
    present = changed(arguments, CONFIG, lambda path: [f"--config={_config_of_today(path)}"])
    for old, new in RENAMED_STAGES.items():
        for place, word in enumerate(present):
            # vpns import has an option --prompt that is no stage
            if re.match(rf"--{old}([.=]|$)", word) and has_section(parser, new):
                note(f"{old} is called {new} now: --{new}")
                present[place] = word.replace(old, new, 1)
    return present


def has_section(parser: ArgumentParser, name: str) -> bool:
    """Return whether keys of a parser lie in a section of this name."""
    known = parser.get_defaults(skip_validation=True).keys()
    return any(key.startswith(f"{name}.") for key in known)


def changed(
    arguments: Sequence[str], names: Sequence[str], change: Callable[[str], Iterable[str]]
) -> list[str]:
    """Return a command line with options of these names replaced.

    Args:
        arguments: The command line, values as words of their own or after ``=``.
        names: Of the options, dashes included.
        change: Returns what stands in place of an option, given its value.
    """
    result: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name in names:
            result += change(value if equals else next(words, ""))
        else:
            result.append(word)
    return result


def taken(arguments: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the values of the options of these names, and the command line without them."""
    values: list[str] = []

    def take(value: str) -> Iterable[str]:
        values.append(value)
        return ()

    rest = changed(arguments, names, take)
    return values, rest


def _config_of_today(path: str) -> str:
    """Return a config file's path, or its content under present names where it uses old ones."""
    if path.lstrip().startswith("{"):
        return path
    path = str(config_file(path))
    # of os, which says no of a name that is too long, where pathlib raises
    if not os.path.isfile(path):
        return path
    content = read_config_file(Path(path))
    found = [old for old in RENAMED_STAGES if isinstance(content, dict) and old in content]
    if not found:
        return path
    for old in found:
        note(f"{path}: {old} is called {RENAMED_STAGES[old]} now")
        content[RENAMED_STAGES[old]] = content.pop(old)
    return json.dumps(content)


def read_config_file(path: Path) -> Any:
    """Return the content of a config file, its class paths checked.

    Raises:
        UserError: The file is missing, is no YAML, or names a class of a package that nobody named
            on the command line.
    """
    if os.path.isdir(path):
        raise UserError(f"config file {path} is a folder: name a file in it")
    try:
        content = yaml.load(path.read_text(), UniqueKeys)
    except FileNotFoundError:
        raise UserError(f"config file {path} does not exist") from None
    except OSError as error:
        raise UserError(f"config file {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"config file {path} is no YAML: {error}") from None
    if not isinstance(content, dict):
        held = "is empty" if content is None else f"holds {type(content).__name__}, not keys"
        raise UserError(f"config file {path} {held}: configs/quickstart.yaml shows one")
    if content.get("config"):
        raise UserError(
            f"config file {path} names other config files: name them on the command line, one "
            "--config after another"
        )
    for section in SECTIONS:
        # a text names a file with the section's keys
        if not isinstance(content.get(section) or {}, dict | str):
            raise UserError(
                f"config file {path}: {section} is a section with keys of its own, got "
                f"{content[section]!r}"
            )
    check_class_paths(content, f"config file {path}")
    return content


def import_plugins(arguments: Sequence[str]) -> list[str]:
    """Import what ``--plugins`` names (files or modules) and return the other arguments.

    Only the command line can ask for this, never a config.

    Raises:
        UserError: A plugin does not exist.
    """
    import importlib
    import sys

    given, rest = taken(arguments, ["--plugins"])
    for name in ",".join(given).split(",") if given else ():
        path = Path(name)
        module = path.stem if path.suffix == ".py" else name
        if path.suffix == ".py":
            sys.path.insert(0, str(path.parent.resolve()))
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise UserError(f"plugin {name!r} cannot be imported: {error}") from None
        trust(module.partition(".")[0])
    return rest


def parse_function(
    prog: str, function: Callable[..., object], arguments: Sequence[str]
) -> dict[str, Any]:
    """Return the keyword arguments of ``function`` from a command line of ``--name value``.

    Raises:
        UserError: The command line does not fit the function's signature.
    """
    summary = (function.__doc__ or "").partition("Args:")[0]
    parser = Parser(prog=prog, description=" ".join(summary.split()))
    parser.add_function_arguments(function, as_group=False, as_positional=False)
    return dict(parse(parser, arguments).as_dict())


def at_least(name: str, value: int, least: int) -> int:
    """Return an option's value.

    Raises:
        UserError: It is below ``least``.
    """
    if value < least:
        raise UserError(f"{name} must be at least {least}, got {value}")
    return value
