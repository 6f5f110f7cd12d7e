"""``vpns export``: a finished run's network for use elsewhere."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from vpns_lightning.base.errors import UserError
from vpns_lightning.commands.parsing import parse_function
from vpns_lightning.exporting import export
from vpns_lightning.exporting.card import write_card
from vpns_lightning.exporting.hub import export_folder
from vpns_lightning.runs.loading import load_run
from vpns_lightning.sparsity import sparsity_report


def write(run: str, output: str, *, compact: bool = False, opset: int | None = None) -> None:
    """Write the network of a run, after checking that what is written answers equally.

    A model card lies beside it, under the same name with .md. Zeros are stored like any weight, so
    a sparse network is as large as a dense one, unless --compact leaves them out.

    Args:
        run: The run folder.
        output: net.safetensors (torchvision keys, masks folded in), net.pt2 or net.onnx (prompt,
            normalisation and label mapping included), or a folder, ended with /, as the Hugging
            Face Hub holds models.
        compact: Store only the weights kept and where they are; net.safetensors only, read as
            docs/formats.md shows.
        opset: Version of ONNX's operators; net.onnx only.
    """
    loaded = load_run(run)
    if output.endswith("/") or Path(output).is_dir():
        if compact or opset is not None:
            raise UserError(f"{output} is a folder: --compact and --opset are of single files")
        folder = export_folder(loaded, output)
        print(f"{folder} written; outputs equal those of {run}")
        print(f"send it to the Hub: hf upload USER/NAME {shlex.quote(str(folder))}")
        return
    path = export(
        loaded.network, output, input_size=loaded.about.input_size, compact=compact, opset=opset
    )
    written = write_card(
        path,
        loaded.network,
        config=loaded.config,
        about=loaded.about,
        result=loaded.folder.read_result(),
        compact=compact,
    )
    size = Path(path).stat().st_size / 1e6
    print(f"{path} written, {size:.1f} MB; outputs equal those of {run}; card: {written}")
    if sparsity_report(loaded.network.backbone).sparsity and not compact:
        print("zeros are stored like any weight: the file is as large as that of a dense network")


def run(arguments: Sequence[str]) -> None:
    """Run ``vpns export``."""
    write(**parse_function("vpns export", write, arguments))
