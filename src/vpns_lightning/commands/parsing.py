"""Parsing arguments and configs, and saying in one line what is wrong with them."""

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from vpns_lightning.base.errors import UserError, nearest
from vpns_lightning.base.trust import trust
from vpns_lightning.data import ImageData
from vpns_lightning.network import LabelMapping, Prompt
from vpns_lightning.pruners import Pruner
from vpns_lightning.runs.loading import check_class_paths

BASES: dict[str, type] = {
    "data": ImageData,
    "find.pruner": Pruner,
    "network.prompt": Prompt,
    "network.mapping": LabelMapping,
}


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parse, or raise one line that names the value, what is allowed and the nearest name.

    Raises:
        UserError: The arguments or a config are wrong, or a config names a class of a package that
            is not trusted.
    """
    for path in _config_files(arguments):
        read_config_file(path)
    try:
        parsed: Namespace = parser.parse_args(list(arguments))
        return parsed
    except argparse.ArgumentError as error:
        raise UserError(explain(str(error), parser)) from None


def explain(message: str, parser: ArgumentParser) -> str:
    """Return jsonargparse's message as one line, with the nearest valid name where one is close."""
    text = " ".join(message.split())
    key = found.group(1) if (found := re.search(r'[Kk]ey "([\w.]+)"', text)) else ""
    if match := re.search(r"dot import path string: (\S+)", text):
        name = match.group(1).rpartition(".")[2]
        allowed = subclass_names(BASES[key]) if key in BASES else []
        return f"{key}: {name!r} is unknown{nearest(name, allowed)}; allowed: {', '.join(allowed)}"
    if match := re.search(r"class_path '([\w.]+)': Option '([\w.]+)' is not accepted", text):
        class_name, option = match.group(1).rpartition(".")[2], match.group(2)
        known = _options(parser, key, class_name)
        hint = nearest(option, known)
        return f"{key}: {class_name} has no option {option!r}{hint}; allowed: {', '.join(known)}"
    if match := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", text):
        group, option = match.groups()
        known = [k.removeprefix(f"{group}.") for k in _keys(parser) if k.startswith(f"{group}.")]
        known = [k for k in known if not k.endswith("help")]
        return (
            f"{group} has no option {option!r}{nearest(option, known)}; allowed: {', '.join(known)}"
        )
    if match := re.search(r"unrecognized arguments: --([\w.]+)|option '([\w.]+)'", text):
        option = match.group(1) or match.group(2)
        return f"there is no option {option!r}{nearest(option, _keys(parser))}; see --help"
    return text.removeprefix("Parser key ")


def subclass_names(base: type[Any]) -> list[str]:
    """Return the names of all concrete subclasses of ``base`` that are imported."""
    names = set()
    for child in list(base.__subclasses__()):
        names |= set(subclass_names(child))
        if not getattr(child, "__abstractmethods__", None) and child.__module__.startswith(
            ("vpns_lightning", "__main__")
        ):
            names.add(child.__name__)
        elif not getattr(child, "__abstractmethods__", None):
            names.add(f"{child.__module__}.{child.__name__}")
    return sorted(names)


def _keys(parser: ArgumentParser) -> list[str]:
    return [action.dest for action in parser._actions if action.dest not in {"help", "config"}]


def _options(parser: ArgumentParser, key: str, class_name: str) -> list[str]:
    for base in BASES.values():
        for child in _all_subclasses(base):
            if child.__name__ == class_name:
                probe = ArgumentParser(exit_on_error=False)
                probe.add_class_arguments(child, fail_untyped=False)
                return [k for k in _keys(probe) if not k.startswith("print_")]
    return []


def _all_subclasses(base: type[Any]) -> Iterator[type[Any]]:
    for child in base.__subclasses__():
        yield child
        yield from _all_subclasses(child)


def _config_files(arguments: Sequence[str]) -> list[Path]:
    files = []
    for here, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if here in {"--config", "-c"}:
            files.append(Path(following))
        elif here.startswith("--config="):
            files.append(Path(here.removeprefix("--config=")))
    return files


def read_config_file(path: Path) -> Any:
    """Return the content of a config file, its class paths checked.

    Raises:
        UserError: The file is missing, is no YAML, or names a class of a package that nobody named
            on the command line.
    """
    if not path.is_file():
        raise UserError(f"config file {path} does not exist")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config file {path} is no YAML: {error}") from None
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

    rest, names = [], []
    pending = iter(arguments)
    for argument in pending:
        if argument == "--plugins":
            names += next(pending, "").split(",")
        elif argument.startswith("--plugins="):
            names += argument.removeprefix("--plugins=").split(",")
        else:
            rest.append(argument)
    for name in names:
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
    parser = ArgumentParser(prog=prog, description=" ".join(summary.split()), exit_on_error=False)
    parser.add_function_arguments(function, as_group=False, as_positional=False)
    return dict(parse(parser, import_plugins(arguments)).as_dict())


def at_least(name: str, value: int, least: int) -> int:
    """Return an option's value.

    Raises:
        UserError: It is below ``least``.
    """
    if value < least:
        raise UserError(f"{name} must be at least {least}, got {value}")
    return value
