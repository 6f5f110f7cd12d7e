"""``vpns export``: a finished run's network for use elsewhere."""

from collections.abc import Sequence
from pathlib import Path

from vpns_lightning.commands.parsing import parse_function
from vpns_lightning.exporting import export
from vpns_lightning.loading import load_run


def write(run: str, output: str) -> None:
    """Write the network of a run, after checking that what is written answers equally.

    Args:
        run: The run folder.
        output: net.safetensors (torchvision keys, masks folded in), net.pt2 or net.onnx (prompt,
            normalisation and label mapping included).
    """
    loaded = load_run(run)
    path = export(loaded.network, output, input_size=loaded.about["input_size"])
    print(f"{path} written, {Path(path).stat().st_size / 1e6:.1f} MB; outputs equal those of {run}")


def run(arguments: Sequence[str]) -> None:
    """Run ``vpns export``."""
    write(**parse_function("vpns export", write, arguments))
