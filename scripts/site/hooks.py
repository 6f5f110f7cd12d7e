"""What mkdocs adds while it builds the site: notebooks, project pages, the configuration's keys."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

from vpns_lightning.commands.schema import config_schema, grid_schema

ROOT = Path(__file__).parents[2]
PROJECT = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
# beside the report's own index.html mkdocs takes no README.md
EXAMPLE = "example_report/README.md"
# links of the repository to pages of the site
MOVED = {**{f"../{name}": page for name, page in PROJECT.items()}, EXAMPLE: "example.md"}
SECTIONS = ("network", "warmup", "find", "tune", "prompt_tuning", "trainer")
CLASSES = {
    "data": "Data sets: `data`",
    "pruner": "Methods: `find.pruner`",
    "prompt": "Prompts: `network.prompt`",
    "mapping": "Label mappings: `network.mapping`",
    "optimizer": "Optimisers: `<stage>.optimizer`",
    "lr_scheduler": "Schedules: `<stage>.lr_scheduler`",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add pages that are made of other files and of the parser."""
    for name, page in PROJECT.items():
        text = (ROOT / name).read_text().replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    example = re.sub(r"\]\((?=\w+\.)", "](example_report/", (ROOT / "docs" / EXAMPLE).read_text())
    files.append(File.generated(config, "example.md", content=example))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text, resources = MarkdownExporter().from_filename(str(notebook))
        for name, content in resources["outputs"].items():
            output = f"notebooks/{notebook.stem}/{name}"
            files.append(File.generated(config, output, content=content))
            text = text.replace(f"]({name})", f"]({notebook.stem}/{name})")
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=text))
    files.append(File.generated(config, "configuration.md", content=_configuration()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links that leave docs/ in the repository at their pages of the site."""
    up = "../" * (len(PurePosixPath(page.file.src_uri).parts) - 1)
    for link, target in MOVED.items():
        markdown = markdown.replace(f"]({link}", f"]({up}{target}")
    return re.sub(r"\]\(\.\./notebooks/(\w+)\.ipynb\)", rf"]({up}notebooks/\1.md)", markdown)


def _configuration() -> str:
    schema = config_schema()
    lines = [
        "# Configuration",
        "",
        "Made of the parser when this site was built. A config file has these sections; every",
        "key is an option of `vpns fit` too: `--find.sparsity 0.8`. `vpns fit --print_config`",
        "shows all keys and values of a config, `vpns fit --find.pruner.help LTH` the arguments",
        "of one class, `vpns schema` what editors read.",
        "",
    ]
    for name in SECTIONS:
        section = schema["properties"][name]
        lines += [f"## {name}", "", f"{section['description'].capitalize()}.", ""]
        lines += [*_table(section["properties"]), ""]
    for name, title in CLASSES.items():
        lines += [f"## {title}", ""]
        for option in schema["$defs"][name]["anyOf"]:
            if "title" in option:
                arguments = option["properties"]["init_args"]["properties"]
                lines += [f"### {option['title']}", "", *_table(arguments), ""]
    lines += ["## Grid files", "", "What `vpns grid` reads; see [grids](grids.md).", ""]
    keys = ", ".join(f"`{key}`" for key in grid_schema()["properties"])
    needed = ", ".join(f"`{key}`" for key in grid_schema()["required"])
    return "\n".join([*lines, f"Keys: {keys}. Needed: {needed}.", ""])


def _table(properties: dict[str, Any]) -> list[str]:
    rows = [
        f"| `{key}` | {_kind(given)} | {_default(given)} | {_cell(given.get('description', ''))} |"
        for key, given in properties.items()
        if key != "$schema"
    ]
    head = ["| key | value | default | |", "| --- | --- | --- | --- |"]
    return [*head, *rows] if rows else ["No arguments."]


def _kind(given: dict[str, Any]) -> str:
    if "$ref" in given:
        return f"a class: {given['$ref'].rpartition('/')[2]}"
    if "enum" in given:
        return ", ".join(f"`{value}`" for value in given["enum"])
    if "anyOf" in given:
        return _cell(" or ".join(filter(None, map(_kind, given["anyOf"]))))
    kind = given.get("type", "")
    return " or ".join(kind) if isinstance(kind, list) else kind


def _default(given: dict[str, Any]) -> str:
    if "default" not in given:
        return ""
    value = given["default"]
    plain = {None: "null", True: "true", False: "false"}
    return f"`{plain[value]}`" if value is None or isinstance(value, bool) else f"`{value}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
