"""``vpns export``: a finished run's network for use elsewhere."""

from collections.abc import Sequence
from pathlib import Path

from vpns_lightning.commands.parsing import parse_function
from vpns_lightning.exporting import export
from vpns_lightning.exporting.card import write_card
from vpns_lightning.runs.loading import load_run
from vpns_lightning.sparsity import sparsity_report


def write(run: str, output: str, *, compact: bool = False) -> None:
    """Write the network of a run, after checking that what is written answers equally.

    A model card lies beside it, under the same name with .md. Zeros are stored like any weight, so
    a sparse network is as large as a dense one, unless --compact leaves them out.

    Args:
        run: The run folder.
        output: net.safetensors (torchvision keys, masks folded in), net.pt2 or net.onnx (prompt,
            normalisation and label mapping included).
        compact: Store only the weights kept and where they are; net.safetensors only, read as
            docs/formats.md shows.
    """
    loaded = load_run(run)
    path = export(loaded.network, output, input_size=loaded.about.input_size, compact=compact)
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
