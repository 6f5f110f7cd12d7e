"""What the README, the pages and the tutorials tell people to type, taken out of them."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vpns_lightning import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")])
SHELL = {"sh", "bash", "shell", "console"}
PYTHON = {"python", "py", "pycon"}
SHOWN = {"yaml", "csv", "bibtex", "text"}
# what begins a command that is named in a sentence or a table
PROGRAMS = {"vpns", "make", "python", "pip", "pytest", "sbatch", "wandb", "hf", "ray"}
PROGRAMS |= {"docker", "apptainer", "torchrun", "git", "conda"}
# names in sentences, without what they would work on
MENTIONS = {f"vpns {name}" for name in cli.COMMANDS} - {"vpns configs", "vpns schema"}
MENTIONS |= {"vpns data check", "vpns data prepare"}
FENCE = re.compile(r"^([ >]*)```(\w*)[^\n]*\n(.*?)^\1```[ ]*$", re.M | re.S)
SPAN = re.compile(r"`([^`]+)`")
# what stands in the pages for a reader's own
PLACEHOLDERS = {
    "vpns export ...": "vpns export --run runs/x --output net.safetensors",
    "vpns grid ...": "vpns grid configs/grid/fig7_mini.yaml",
    "'configs/grid/<id>.yaml'": "configs/grid/fig7.yaml",
    "--slots N": "--slots 2",
    "/scratch/data": "scratch/data",
}


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        page: Name of the file.
        language: What stands behind the fence, or nothing.
        text: Its lines.
    """

    page: str
    language: str
    text: str

    @property
    def plugin(self) -> str | None:
        """Name of the file that the block is, if its first line says one."""
        name = re.match(r"# (\w+\.py)\n", self.text)
        return name[1] if name else None


class Command(NamedTuple):
    """A command line, or options that a sentence or a table says to add to one.

    Attributes:
        page: Name of the file.
        text: The line, without comment and continuation.
    """

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        """What is typed: placeholders filled in, without variables and the environment's folder."""
        text = self.text
        for shown, meant in PLACEHOLDERS.items():
            text = text.replace(shown, meant)
        return shlex.split(re.sub(r"^([A-Z_]+=\S+ |\.venv/bin/)+", "", text))

    def write_plugins(self) -> None:
        """Write the files that its ``--plugins`` names, as its page shows them."""
        for name in re.findall(r"--plugins (\S+)", self.text):
            Path(name).write_text(_plugins(self.page)[name])


def _text(page: Path) -> str:
    return page.read_text() if page.suffix == ".md" else "\n\n".join(_cells(page, "markdown"))


def prose(page: Path) -> str:
    """Return a page without its blocks."""
    return FENCE.sub("", _text(page))


def _cells(notebook: Path, kind: str) -> list[str]:
    cells = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def blocks() -> Iterator[Block]:
    """Yield the blocks of all pages; cells of code are run as notebooks and are none."""
    for page in PAGES:
        for indent, language, text in FENCE.findall(_text(page)):
            yield Block(page.name, language, re.sub(rf"^{indent}", "", text, flags=re.M))


def _plugins(name: str) -> dict[str, str]:
    found = {b.plugin: b.text for b in blocks() if b.page == name and b.plugin}
    if name.endswith(".ipynb"):  # "save a class in a file of its own"
        first, *cells = _cells(ROOT / "notebooks" / name, "code")
        imports = "".join(re.findall(r"^(?:from|import) .+\n", first, re.M))
        for cell in cells:
            for title in re.findall(r"^class (\w+)", cell, re.M):
                file = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", title).lower()
                found[f"{file}.py"] = imports + cell
    return found


def _lines(text: str) -> Iterator[str]:
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r" (?:&&|\|\||;|\|) ", line.removeprefix("$ ")):
            words = shlex.split(part, comments=True)
            if words:
                yield shlex.join(words)


def commands() -> Iterator[Command]:
    """Yield every command of the pages: lines of blocks, and those in sentences and tables."""
    for block in blocks():
        if block.language in SHELL:
            yield from (Command(block.page, line) for line in _lines(block.text))
    for page in PAGES:
        for span in SPAN.findall(prose(page)):
            first, _, rest = span.partition(" ")
            if span.startswith("--") or (first in PROGRAMS and rest):
                yield from (Command(page.name, line) for line in _lines(" ".join(span.split())))


# each once, on the first page that has it
COMMANDS = {command.text: command for command in reversed(list(commands()))}
OPTIONS = [command for text, command in COMMANDS.items() if text.startswith("--")]
OURS = [c for text, c in COMMANDS.items() if c.words[0] == "vpns" and text not in MENTIONS][::-1]
FOREIGN = [c for c in COMMANDS.values() if c.words[0] != "vpns" and c not in OPTIONS]
