"""The README and the pages: short, linked, in the site; their commands are understood and run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from functools import cache
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from torchvision.transforms.functional import to_pil_image

import vpns_lightning
from vpns_lightning import cli
from vpns_lightning.base.shipped import config_file

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
EXECUTED = "<!-- executed by the tests -->\n"
BLOCK = re.compile(rf"({EXECUTED})?^```(sh|python)\n(.*?)^```$", re.M | re.S)
# of mkdocs, made while the site is built
MADE = ("configuration.md", "contributing.md", "changelog.md", "example.md")


class Command(NamedTuple):
    """A `vpns` command of a page.

    Attributes:
        page: The page.
        words: The command line, without ``vpns``.
        plugins: Python files that the page shows before, by their names.
        executed: Whether a test runs it.
    """

    page: Path
    words: list[str]
    plugins: dict[str, str]
    executed: bool


def commands(page: Path) -> Iterator[Command]:
    plugins: dict[str, str] = {}
    for mark, language, text in BLOCK.findall(page.read_text()):
        if language == "python":
            name = re.match(r"# (\w+\.py)\n", text)
            plugins |= {name[1]: text} if name else {}
            continue
        for line in text.replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                words = shlex.split(part, comments=True)
                if words[:1] == ["vpns"]:
                    yield Command(page, words[1:], dict(plugins), bool(mark))


COMMANDS = [command for page in PAGES for command in commands(page)]


def command_id(command: Command) -> str:
    return f"{command.page.stem}: {' '.join(command.words)[:60]}"


def test_the_readme_is_short_and_begins_with_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 900
    first = re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)[0]
    assert [line.partition("#")[0].strip() for line in first.splitlines()] == [
        "make quickstart",
        "make test",
    ]


def slugs(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", prose, re.M)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in slugs(target), link


def test_every_page_is_in_the_site_and_the_readme_leads_to_it() -> None:
    # the tags of mkdocs are none here
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = set(re.findall(r"[\w/]+\.md", str(nav)))
    tutorials = {f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}
    pages = {page.name for page in DOCS.glob("*.md")}
    assert listed == pages | tutorials | set(MADE)
    readme = (ROOT / "README.md").read_text()
    assert [page for page in pages - {"index.md", "api.md"} if f"(docs/{page}" not in readme] == []


def test_the_api_page_has_every_public_name_and_no_other() -> None:
    paths = re.findall(r"^::: ([\w.]+)$", (DOCS / "api.md").read_text(), re.M)
    named = {path.rpartition(".")[2] for path in paths}
    assert named == set(vpns_lightning.__all__) - {"__version__"}


@pytest.mark.parametrize("command", COMMANDS, ids=command_id)
def test_a_command_of_the_pages_exists(command: Command) -> None:
    subcommand, *options = command.words
    if subcommand.startswith("--"):
        return
    assert subcommand in cli.COMMANDS
    for before, word in zip(["", *options], options, strict=False):
        is_config = before == "--config" or word.startswith("configs/")
        if is_config and not word.startswith("my"):
            assert config_file(word).is_file()


@cache
def help_of(subcommand: str) -> str:
    said = StringIO()
    with redirect_stdout(said), suppress(SystemExit):
        cli.main([subcommand, *(["check"] if subcommand == "data" else []), "--help"])
    return said.getvalue()


OTHERS = [c for c in COMMANDS if c.words[0] in cli.COMMANDS and c.words[0] != "fit"]


@pytest.mark.parametrize("command", OTHERS, ids=command_id)
def test_options_of_the_pages_exist(command: Command) -> None:
    said = help_of(command.words[0])
    for word in command.words[1:]:
        # arguments of a data set, which the help leaves to --data.help; and what all commands take
        if word.startswith("--") and not word.startswith(("--data.", "--plugins")):
            assert re.search(rf"{re.escape(word.partition('=')[0])}\b", said), word


FITS = [c for c in COMMANDS if c.words[0] == "fit" and "--config" in c.words]


@pytest.mark.parametrize("command", FITS, ids=command_id)
def test_a_config_that_the_pages_run_is_understood(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in command.plugins.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    words = [word for word in command.words if word != "--print_config"]
    with pytest.raises(SystemExit) as left:
        cli.main([*words, "--print_config"])
    assert left.value.code == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_marked_commands_run_on_toy_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["--warmup.epochs=0", "--find.epochs=1", "--tune.epochs=1"]
    limits = ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"]
    cli.main(["fit", "--config", "quickstart", *short, *limits])
    images = tmp_path / "my_images"
    images.mkdir()
    to_pil_image(torch.rand(3, 20, 20)).save(images / "0.png")
    marked = [command for command in COMMANDS if command.executed]
    assert {command.words[0] for command in marked} >= {"configs", "test", "predict", "export"}
    for command in marked:
        cli.main(command.words)
    for left in ("net.safetensors", "net.md", "small.safetensors", "mine/pruner/omp.yaml"):
        assert (tmp_path / left).is_file()
    assert (tmp_path / "runs" / "quickstart" / "predictions.csv").is_file()
    shutil.rmtree(tmp_path / "runs")


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the site needs the extra [docs]")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "JSONARGPARSE_DEPRECATION_WARNINGS": "off"}
    site = str(tmp_path / "site")
    subprocess.run([*build, "--site-dir", site], cwd=ROOT, env=quiet, check=True)
    keys = (tmp_path / "site" / "configuration.html").read_text()
    for key in ("sparsity", "canvas_size", "batch_size", "limit_train_batches", "fraction"):
        assert f"<code>{key}</code>" in keys
    # a page of the site needs nothing from elsewhere
    front = (tmp_path / "site" / "index.html").read_text()
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://', front)
