"""Every command of the README, the pages and the tutorials is understood by its own parser.

What is added to a page is tested without a change here, unless it begins with a program that
`FOREIGN` below does not know: that fails. What is run, and how, is in test_documented_runs.py.
"""

import argparse
import configparser
import os
import re
import runpy
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import yaml

import documented
from documented import COMMANDS, OPTIONS, OURS, ROOT, Command
from vpns_lightning import cli
from vpns_lightning.base import trust
from vpns_lightning.base.errors import UserError
from vpns_lightning.base.shipped import config_file
from vpns_lightning.commands.keys import fit_parser
from vpns_lightning.commands.parsing import parse

# commands that wait for options
BASES = (
    "vpns fit --config quickstart",
    "vpns fit --config quickstart --data CSVImages",
    "vpns grid configs/grid/fig7_mini.yaml",
    "vpns report runs/",
    "vpns export --run runs/x --output net.onnx",
)


class Understood(BaseException):
    """Raised in place of the work once a command line is parsed."""


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(trust, "_named", set())


@pytest.fixture
def _only_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """End every program where its parser, whichever it is, has understood the command line."""
    monkeypatch.setattr(os, "execve", lambda *_: None)  # by which benchmarks start again
    depth = 0

    def end_after(cls: type[argparse.ArgumentParser]) -> None:
        parse_args = cls.parse_args

        def parse_and_end(self: Any, *given: Any, **options: Any) -> Any:
            nonlocal depth
            depth += 1  # parsers use parsers
            try:
                found = parse_args(self, *given, **options)
            finally:
                depth -= 1
            if not depth:
                raise Understood
            return found

        monkeypatch.setattr(cls, "parse_args", parse_and_end)

    end_after(argparse.ArgumentParser)
    end_after(jsonargparse.ArgumentParser)


@cache
def keys() -> jsonargparse.ArgumentParser:
    """Return the parser of `vpns fit`, which takes a second to make."""
    return fit_parser()


def understand(words: Sequence[str]) -> None:
    """Parse a `vpns` command line as `vpns` does.

    Raises:
        SystemExit: It is wrong; one line says what.
        UserError: The same.
    """
    try:
        if words[0] == "fit" and not {"--help", "--from"} & {*words}:
            parse(keys(), [word for word in words[1:] if word != "--print_config"])
        else:
            cli.main(words)
    except Understood:
        pass
    except SystemExit as left:  # of --help
        if left.code:
            raise


@pytest.mark.parametrize("command", OURS, ids=lambda command: command.text[:70])
@pytest.mark.usefixtures("_only_parsed")
def test_a_command_is_understood(command: Command) -> None:
    command.write_plugins()
    for run in re.findall(r"--(?:run|from) (.+?)(?: -|$)", command.text):
        for each in run.split():
            Path(each).mkdir(parents=True)
            shutil.copy(config_file("quickstart"), Path(each) / "config.yaml")
    understand(command.words[1:])


@pytest.mark.parametrize(
    "line",
    [
        "fit --config quickstart --find.sparsty 0.8",
        "fit --config quickstart --find.sparsity high",
        "report runs/ --onyl gain",
        "grid fig7_mini --slots two",
        "export --run runs/x --outptu net.onnx",
        "tune runs/x",
    ],
)
@pytest.mark.usefixtures("_only_parsed")
def test_what_no_parser_knows_is_not_understood(line: str) -> None:
    with pytest.raises((SystemExit, UserError)):
        understand(line.split())


@cache
def all_options() -> str:
    """Return the help of all subcommands, and what jobs are asked for."""
    said = StringIO()
    for name in cli.COMMANDS:
        with redirect_stdout(said), suppress(SystemExit):
            cli.main([name, *(["check"] if name == "data" else []), "--help"])
    scripts = (ROOT / "scripts" / "slurm").glob("*.sbatch")
    return said.getvalue() + "".join(script.read_text() for script in scripts)


def test_options_that_are_named_exist() -> None:
    named = [command.text for command in OPTIONS if " " not in command.text]
    assert len(named) > 10
    for name in [*named, "--plugins"]:
        assert re.search(rf"(?<![\w-]){name}\b", all_options()), name


@pytest.mark.parametrize(
    "command", [c for c in OPTIONS if " " in c.text], ids=lambda command: command.text
)
@pytest.mark.usefixtures("_only_parsed")
def test_options_with_values_are_understood(command: Command) -> None:
    Path("nets.py").touch()  # which no page shows
    if "nets.py" not in command.text:
        command.write_plugins()
    reasons = []
    for base in BASES:
        try:
            understand([*base.split()[1:], *command.words])
        except (Exception, SystemExit) as reason:
            reasons.append(reason)
        else:
            return
    raise AssertionError(reasons)


def target(words: Sequence[str]) -> None:
    """A target of make is there."""
    assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.M)


def extras(words: Sequence[str]) -> None:
    """Extras of the project that pip is asked for are there."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for extra in re.findall(r"(?:\.|vpns-lightning)\[(\w+)\]", " ".join(words)):
        assert setup.has_option("options.extras_require", extra)


def job(words: Sequence[str]) -> None:
    """What a job's script hands on is understood."""
    script, *others = words
    assert (ROOT / script).is_file()
    understand(["fit", "--config", *others] if "fit" in script else ["grid", *others])


def script(words: Sequence[str]) -> None:
    """A script of the repository understands its options."""
    if words[0] == "-c":
        compile(words[1], "the page", "exec")
        return
    if "wandb" in words[0]:
        pytest.importorskip("wandb_workspaces")
    path = ROOT / words[0]
    sys.path.insert(0, str(path.parent))
    sys.argv, before = list(words), sys.argv
    try:
        with pytest.raises(Understood):
            runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv = before


def to_wandb(words: Sequence[str]) -> None:
    """W&B's own parser understands."""
    from wandb.cli.cli import cli as wandb

    subcommand, *others = words
    if subcommand == "sync" and others:
        Path(others[0]).mkdir(parents=True)
    wandb.commands[subcommand].make_context(subcommand, others)
    for file in [word for word in others if word.endswith(".yaml")]:
        assert "parameters" in yaml.safe_load((ROOT / file).read_text())


def rooms(words: Sequence[str]) -> None:
    """The rooms of tests that are named are there."""
    assert [word for word in words if word.startswith("tests") and not (ROOT / word).exists()] == []


def nothing(_: Sequence[str]) -> None:
    """A command of others that is named and not explained."""


# programs that are not ours: how what they are asked is checked here, and why it is not run
FOREIGN: dict[str, tuple[Callable[[Sequence[str]], None], str]] = {
    "make": (target, "installs first; continuous integration runs check, docs, test, test-slow"),
    "pip": (extras, "needs the internet; test_wheel.py builds the wheel"),
    "pytest": (rooms, "it is the tests"),
    "pre-commit": (nothing, "changes the clone"),
    "python": (script, "minutes, or a server; benchmarks and the view have tests of their own"),
    "sbatch": (job, "needs SLURM; tests/cluster runs the scripts under stand-ins for it"),
    "wandb": (to_wandb, "needs W&B's server"),
    "hf": (nothing, "needs an account"),
    "ray": (nothing, "starts servers; tests/grid runs Ray"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("command", documented.FOREIGN, ids=lambda command: command.text)
@pytest.mark.usefixtures("_only_parsed")
def test_a_command_of_another_program_is_understood(command: Command) -> None:
    program, *others = command.words
    if others[:2] == ["-m", "pip"]:
        program, others = "pip", others[2:]
    assert program in FOREIGN, f"{command.page}: say in FOREIGN how {program} is checked"
    FOREIGN[program][0](others)


def test_no_program_and_no_language_is_left_over() -> None:
    used = {command.words[0] for command in documented.FOREIGN}
    assert set(FOREIGN) - {"pip"} <= used
    for page in documented.PAGES:
        indented = re.findall(r"^ {4,}(\w+) ", documented.prose(page), re.M)
        assert not documented.PROGRAMS & {*indented}, f"{page.name}: put commands between fences"
    known = documented.SHELL | documented.PYTHON | documented.SHOWN
    assert [block for block in documented.blocks() if block.language not in known] == []
    assert {text for text in COMMANDS if text in documented.MENTIONS}
