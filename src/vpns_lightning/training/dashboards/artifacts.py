"""The files of a finished run that a dashboard keeps: masks, export, model card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpns_lightning.exporting import export
from vpns_lightning.exporting.card import write_card
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.runs.folder import RunFolder
from vpns_lightning.runs.handoff import read_about
from vpns_lightning.runs.record import RunRecord


def subnetwork_files(
    run: RunFolder, network: PromptedClassifier, config: Mapping[str, Any], result: RunRecord
) -> list[Path]:
    """Return masks, the exported network, its card and the config; write what is not there yet.

    The export stays in the run folder: a run that is sent later reads it there.

    Raises:
        UserError: The network cannot be exported.
    """
    about = read_about(run.handoff)
    path = export(network, run.path / "export" / "network.safetensors", input_size=about.input_size)
    card = write_card(path, network, config=config, about=about, result=result)
    return [run.masks, path, card, run.config]
