"""``vpns configs``: what configs come with the package, and copies of them to change."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from vpns_lightning.base.errors import UserError, nearest
from vpns_lightning.base.shipped import SUFFIX, shipped_folder, shipped_names
from vpns_lightning.commands.one_line import OneLineParser

SCHEMA = "schema"
# what ends the first sentence of a header; "Fig. 7" does not
SENTENCES = re.compile(r"(?<!Fig)\. ")


def run(arguments: Sequence[str]) -> None:
    """Run ``vpns configs``.

    Raises:
        UserError: No config has a name that was given, or a copy would replace a file.
    """
    parser = OneLineParser(
        prog="vpns configs",
        description=(
            "List the configs that come with vpns. Each is found by its name: "
            "`vpns fit --config quickstart`, `vpns grid grid/fig7_mini`. A file of that name in "
            "the working directory wins."
        ),
    )
    parser.add_argument(
        "names", nargs="*", help="these alone: names, or folders such as pruner and grid"
    )
    parser.add_argument(
        "--copy", type=Path, metavar="FOLDER", help="copy them into a folder, to change them there"
    )
    given = parser.parse_args(list(arguments))
    names = _chosen(given.names)
    if given.copy is None:
        _list(names)
    else:
        _copy(names, given.copy)


def _chosen(given: Sequence[str]) -> list[str]:
    names = shipped_names()
    if not given:
        return names
    chosen = []
    for word in given:
        wanted = word.removeprefix("configs/").removesuffix(SUFFIX).rstrip("/")
        matching = [name for name in names if name == wanted or name.startswith(f"{wanted}/")]
        if not matching:
            raise UserError(
                f"no config is called {word!r}{nearest(wanted, names)}; vpns configs lists all"
            )
        chosen += [name for name in matching if name not in chosen]
    return chosen


def _list(names: Sequence[str]) -> None:
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {_summary(shipped_folder() / f'{name}{SUFFIX}')}")


def _summary(file: Path) -> str:
    """Return the first sentence of a config's header."""
    words: list[str] = []
    for line in file.read_text().splitlines():
        text = line.removeprefix("#").strip()
        if text.startswith("yaml-language-server"):
            continue
        if not line.startswith("#") or text.startswith(("vpns ", "wandb ")):
            break
        words.append(text)
    return SENTENCES.split(" ".join(words))[0].rstrip(" .:")


def _copy(names: Sequence[str], folder: Path) -> None:
    targets = {name: folder / f"{name}{SUFFIX}" for name in names}
    there = [target for target in targets.values() if target.exists()]
    if there:
        raise UserError(f"{there[0]} exists: nothing was copied; name another folder")
    try:
        for name, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(shipped_folder() / f"{name}{SUFFIX}", target)
            print(target)
        # what the first line of a config names, for editors
        schema = shipped_folder() / SCHEMA
        if schema.is_dir():
            shutil.copytree(schema, folder / SCHEMA, dirs_exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from None
