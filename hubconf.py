"""Entry points of ``torch.hub``: ready networks of finished runs.

torch.hub.load("path/to/this/repository", "run", "runs/quickstart", source="local")
"""

import sys
from importlib.util import find_spec
from pathlib import Path

from torch import nn

dependencies = ["torch", "torchvision", "lightning", "safetensors", "jsonargparse"]

if find_spec("vpns_lightning") is None:  # a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).parent / "src"))


def run(path: str, accelerator: str = "cpu") -> nn.Module:
    """Return the network of a finished run in eval mode.

    It maps images (N, 3, i, i) in [0, 1] to logits (N, classes); prompt, normalisation, masks and
    label mapping are inside. ``network(images, prompted=False)`` leaves the prompt out.

    Args:
        path: The run folder.
        accelerator: cpu, cuda or auto.
    """
    from vpns_lightning.runs.loading import load

    return load(path, accelerator=accelerator)
