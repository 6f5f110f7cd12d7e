"""A finished run folder without any training, for tests of what reads one."""

import json
from pathlib import Path
from typing import Any

import torch

from vpns_lightning.network import FrequencyMapping, PadPrompt, PromptedClassifier
from vpns_lightning.runs.folder import RunFolder
from vpns_lightning.runs.handoff import save_masks, save_network
from vpns_lightning.runs.record import Accuracy, RunSoFar, StageRecord
from vpns_lightning.sparsity import get_masks, sparsity_report

SIDE = 32  # px


def finished_network(
    backbone: str = "squeezenet1_1", *, prompt: bool = True, sparsity: float = 0.9
) -> PromptedClassifier:
    """Return a network of 10 of 12 source classes with random masks and prompt."""
    torch.manual_seed(3)
    network = PromptedClassifier(
        backbone,
        10,
        source_classes=12,
        prompt=PadPrompt(SIDE, 4) if prompt else None,
        mapping=FrequencyMapping(),
    )
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for mask in get_masks(network.backbone).values():
            mask.copy_(torch.rand(mask.shape, generator=draw) >= sparsity)
        if network.prompt is not None:
            network.prompt.delta.normal_(generator=draw)
    network.fit_mapping(torch.randint(9, (12, 10), generator=draw))
    return network.eval()


def write_folder(path: Path, network: PromptedClassifier, **result: Any) -> Path:
    """Write what ``vpns fit`` leaves of a finished network on Digits; return the folder."""
    folder = RunFolder(path)
    sparsity = sparsity_report(network.backbone).sparsity
    prompt = {"class_path": "PadPrompt", "init_args": {"canvas_size": SIDE, "pad_size": 4}}
    described = {
        "backbone": network.backbone_name,
        "prompt": prompt if network.has_prompt else None,
        "mapping": {"class_path": "FrequencyMapping"},
    }
    folder.keep_config(
        {
            "seed_everything": 7,
            "data": {"class_path": "Digits", "init_args": {"input_size": SIDE}},
            "network": described,
            "find": {"sparsity": 0.9},
        }
    )
    reached = Accuracy(test_accuracy=0.75, test_accuracy_plain=0.5)
    run = RunSoFar(
        seed=7,
        dataset="Digits",
        input_size=SIDE,
        class_names=tuple(str(digit) for digit in range(10)),
        stages={"tune": StageRecord(accuracy=reached)},
    )
    save_network(folder.handoff, network, run, stage="tune", sparsity=sparsity)
    save_masks(folder.masks, network, run, method="VPNs", stage="tune", sparsity=sparsity)
    if result:
        placed = {"backbone": network.backbone_name, "dataset": "Digits", "seed": 7, "stages": {}}
        levels = {"sparsity_requested": 0.9, "sparsity": sparsity}
        folder.result.write_text(json.dumps(placed | levels | result))
    return path
