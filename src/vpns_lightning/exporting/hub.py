"""A folder as the Hugging Face Hub holds models, which ``vpns_lightning.load`` reads back."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import yaml

from vpns_lightning._version import __version__
from vpns_lightning.base.errors import UserError
from vpns_lightning.base.files import write_text
from vpns_lightning.exporting.card import LIMITS, card_facts, card_text
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.runs.folder import HUB_CONFIG, HUB_MODEL, without_machine
from vpns_lightning.runs.handoff import save_network
from vpns_lightning.runs.loading import LoadedRun, load_run
from vpns_lightning.runs.record import RunRecord
from vpns_lightning.sparsity import masked_layers

CARD = "README.md"
LOAD = """\
```python
import vpns_lightning as vpns

network = vpns.load("FOLDER")  # or load(huggingface_hub.snapshot_download("USER/NAME"))
logits = network(images)  # images: (N, 3, {size}, {size}) in [0, 1]
```"""
INSIDE = (
    "Prompt, normalisation, masks and label mapping are inside. `masked=True` gives layers that "
    "keep their masks."
)
ZEROS = (
    "Zeros are stored and multiplied like any other weight: the network is not faster than a dense "
    "one, unless channels were cut."
)


def export_folder(loaded: LoadedRun, folder: str | Path) -> Path:
    """Write ``model.safetensors``, ``config.json`` and ``README.md``; return the folder.

    Pruned weights are zero in the file, and their masks lie beside them. What is read back must
    answer as the run does to the bit, or nothing appears. No code is written and none is run.

    Args:
        loaded: A run read back.
        folder: The folder, made if absent; the three files are replaced.

    Raises:
        UserError: The folder is that of a run, or cannot be written.
        RuntimeError: The folder would answer otherwise than the run.
    """
    folder = Path(folder)
    if (folder / "config.yaml").exists():
        raise UserError(f"{folder} is a run folder: export into another one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as temporary:
            made = Path(temporary)
            _write(loaded, made)
            _check(loaded, made)
            # the network last: without it, the folder is none that can be loaded
            for name in (CARD, HUB_CONFIG, HUB_MODEL):
                shutil.move(made / name, folder / name)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from None
    return folder


def _write(loaded: LoadedRun, folder: Path) -> None:
    network, about = loaded.network, loaded.about
    zeroed = deepcopy(network).cpu()
    with torch.no_grad():
        for _, layer in masked_layers(zeroed.backbone):
            layer.weight.mul_(layer.mask)
    assert about.sparsity is not None  # load_run has looked
    save_network(
        folder / HUB_MODEL, zeroed, about.run_so_far(), stage=about.stage, sparsity=about.sparsity
    )
    write_text(folder / HUB_CONFIG, json.dumps(_config(loaded), indent=2) + "\n")
    write_text(folder / CARD, _card(loaded))


def _config(loaded: LoadedRun) -> dict[str, Any]:
    """Return what rebuilds the network, and what the Hub looks for; no path of this machine."""
    names = [str(name) for name in loaded.about.class_names]
    described = without_machine(
        {key: loaded.config[key] for key in ("network", "data") if key in loaded.config}
    )
    return {
        "library_name": "vpns_lightning",
        "model_type": "vpns",
        "vpns_version": __version__,
        "num_labels": loaded.about.num_classes,
        "id2label": dict(enumerate(names)),
        "label2id": {name: place for place, name in enumerate(names)},
        "input_size": loaded.about.input_size,
        "seed_everything": loaded.about.seed,
        **described,
        # they are in the file
        "network": {**described.get("network", {}), "weights": None},
    }


def _card(loaded: LoadedRun) -> str:
    network, about, result = loaded.network, loaded.about, loaded.folder.read_result()
    facts = card_facts(network, loaded.config, about, result)
    title = f"{network.backbone_name} on {about.dataset}, sparsity {about.sparsity:.4f}"
    load = [*LOAD.format(size=about.input_size).splitlines(), "", INSIDE]
    body = card_text(title, about, facts, load, [ZEROS, *LIMITS])
    return f"---\n{yaml.safe_dump(_header(loaded, facts, result), sort_keys=False)}---\n\n{body}"


def _header(
    loaded: LoadedRun, facts: Mapping[str, Any], result: RunRecord | None
) -> dict[str, Any]:
    """Return the YAML header of the card, in the Hub's terms."""
    about = loaded.about
    header: dict[str, Any] = {
        "library_name": "vpns_lightning",
        "pipeline_tag": "image-classification",
        "tags": ["pruning", "sparsity", *(["visual-prompting"] if loaded.network.prompt else [])],
    }
    last = about.stages.get(about.stage)
    accuracy = result.accuracy if result else (last.reached.test_accuracy if last else None)
    if accuracy is not None:
        dataset = {"type": about.dataset.lower(), "name": about.dataset, "split": "test"}
        measured = {
            "task": {"type": "image-classification"},
            "dataset": dataset,
            "metrics": [{"type": "accuracy", "value": accuracy}],
        }
        name = f"{loaded.network.backbone_name} {facts['method']}"
        header["model-index"] = [{"name": name, "results": [measured]}]
    return header


@torch.no_grad()
def _check(loaded: LoadedRun, folder: Path) -> None:
    """Compare what the folder answers with what the run answers."""
    side = loaded.about.input_size
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    back: PromptedClassifier = load_run(folder).network
    if not torch.equal(back(images), deepcopy(loaded.network).cpu()(images)):
        raise RuntimeError(
            f"{folder} answers otherwise than {loaded.folder.path}; nothing was written: please "
            "report it with the config"
        )
