"""Execute the notebooks and keep their outputs, without what only this machine has.

python scripts/site/execute_notebooks.py [NAME ...]     minutes; all where no name is given
"""

import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def main(names: list[str]) -> None:
    """Execute notebooks in a folder of their own, each written back when it ran to its end."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        notebook = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TMPDIR"] = folder  # where notebooks put their runs
            client = NotebookClient(
                notebook,
                timeout=3600,
                record_timing=False,
                resources={"metadata": {"path": str(NOTEBOOKS)}},
            )
            client.execute()
        nbformat.write(without_machine(notebook), path)
        print(f"{path.name}: {path.stat().st_size // 1000} kB")


def without_machine(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a notebook whose outputs name no folder of the machine that executed it."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        cell["outputs"] = [_clean(output) for output in cell.get("outputs", [])]
        if cell.cell_type != "code":
            cell.pop("outputs")
    return notebook


def _clean(value: object) -> object:
    if isinstance(value, str):
        text = value.replace(f"{NOTEBOOKS}/", "")
        return re.sub(r"/(?:[\w.-]+/)*tmp\w{8}(?:/tmp\w{8})?\b", "/tmp/notebook", text)
    if isinstance(value, dict):
        # a picture is no text
        texts = {k: v if k.startswith("image/") else _clean(v) for k, v in value.items()}
        return type(value)(texts)
    return [_clean(inner) for inner in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main(sys.argv[1:])
