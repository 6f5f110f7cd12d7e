"""``vpns --print_completion bash|zsh``: the script that completes subcommands, keys and names.

The parser's own script follows every argument of every class that Lightning and torch have, which
comes to 254 MB; this one completes what ``--help`` shows, and the names that a key may have.
"""

import argparse
import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout, suppress
from typing import Any

import shtab
from torchvision import models

from vpns_lightning.base.errors import UserError
from vpns_lightning.commands.data import VERBS
from vpns_lightning.commands.named_classes import CLASSES, offered

SHELLS = ("bash", "zsh")
# an option as a help lists it: short name, name, and what stands in place of its value
OPTION = re.compile(
    r"^  (?:-\w(?: \w+)?, )?(?P<name>--[\w.-]+)(?: (?P<value>\S+))?(?:  |,|$)", re.M
)
CHOICES = re.compile(r"\{([\w,.-]+)\}$")
FOLDERS = ("run", "runs", "from", "images", "root", "cache_dir", "default_root_dir")
FILES = ("config", "plugins", "output", "weights")


def script(shell: str, commands: Mapping[str, tuple[str, Callable[[list[str]], object]]]) -> str:
    """Return a completion script.

    Args:
        shell: bash or zsh.
        commands: What each subcommand does, and the function that runs it with its arguments.

    Raises:
        UserError: There is no script for this shell.
    """
    if shell not in SHELLS:
        raise UserError(f"there is no completion for {shell!r}; allowed: {', '.join(SHELLS)}")
    parser = argparse.ArgumentParser(prog="vpns", allow_abbrev=False)
    subparsers = parser.add_subparsers()
    for name, (purpose, run) in commands.items():
        _fill(subparsers.add_parser(name, help=purpose), name, _help_of(run))
    text: str = shtab.complete(parser, shell)
    return text


def _fill(parser: argparse.ArgumentParser, command: str, text: str) -> None:
    if command == "data":
        parser.add_argument("verb", choices=VERBS)
    else:
        # shtab reads what completes an argument from this attribute, its documented way
        parser.add_argument("path", nargs="*").complete = shtab.FILE  # type: ignore[attr-defined]
    for option, value in dict(_options(text)).items():
        if value is None:
            parser.add_argument(option, action="store_true")
            continue
        action = parser.add_argument(option, choices=_choices(option, value))
        complete = _complete(option)
        if complete:
            action.complete = complete  # type: ignore[attr-defined]


def _options(text: str) -> Iterator[tuple[str, str | None]]:
    for found in OPTION.finditer(text):
        if found["name"] != "--help":
            yield found["name"], found["value"]


def _choices(option: str, value: str) -> list[str] | None:
    last = option.lstrip("-").rpartition(".")[2]
    given = CHOICES.match(value)
    if given:
        return given[1].split(",")
    if last == "backbone":
        return list(models.list_models(module=models))
    return sorted(offered(CLASSES[last])) if last in CLASSES else None


def _complete(option: str) -> Any:
    last = option.lstrip("-").rpartition(".")[2]
    if last in FOLDERS:
        return shtab.DIRECTORY
    return shtab.FILE if last in FILES else None


def _help_of(run: Callable[[list[str]], object]) -> str:
    """Return the help that a subcommand prints."""
    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        run(["--help"])
    return printed.getvalue()
