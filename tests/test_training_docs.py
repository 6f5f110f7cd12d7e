"""Every config in the documentation of training is parsed, and run on toy data."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from vpns_lightning import cli
from vpns_lightning.commands.keys import fit_parser

DOCS = Path(__file__).parents[1] / "docs"
BASE = """
seed_everything: 3
network:
  backbone: squeezenet1_1
  prompt: {class_path: PadPrompt, init_args: {canvas_size: 32, pad_size: 4}}
  mapping: IdentityMapping
find: {pruner: Hydra, sparsity: 0.5, epochs: 1}
tune: {epochs: 1}
data: {class_path: Digits, init_args: {input_size: 32, batch_size: 16}}
trainer:
  {accelerator: cpu, limit_train_batches: 1, limit_val_batches: 1, enable_progress_bar: false}
"""
BLOCKS = re.findall(r"```yaml\n(.*?)```", (DOCS / "training.md").read_text(), re.DOTALL)


def laid_over(base: Any, overlay: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(overlay, dict)):
        return overlay
    return base | {key: laid_over(base.get(key), value) for key, value in overlay.items()}


def test_the_page_shows_every_option() -> None:
    shown = " ".join(BLOCKS)
    options = ("loss", "clip_norm", "accumulate", "mixup", "cutmix", "average", "lr_scheduler")
    assert all(f"{option}:" in shown for option in options)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_config_of_the_page_is_understood(block: str) -> None:
    config = laid_over(yaml.safe_load(BASE), yaml.safe_load(block))
    parsed = fit_parser().parse_object(config)
    for option, value in yaml.safe_load(block)["tune"].items():
        given = parsed["tune"][option]
        if isinstance(value, dict):
            assert given.class_path.endswith(value["class_path"])
        else:
            assert given == value


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("block", BLOCKS)
def test_a_config_of_the_page_runs(block: str, tmp_path: Path) -> None:
    config = laid_over(yaml.safe_load(BASE), yaml.safe_load(block))
    torch.manual_seed(0)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    run = tmp_path / "run"
    given = ["fit", "--config", str(tmp_path / "config.yaml")]
    cli.main([*given, "--trainer.default_root_dir", str(run)])
    stage = json.loads((run / "result.json").read_text())["stages"]["tune"]
    for option, value in yaml.safe_load(block)["tune"].items():
        if option == "lr_scheduler":
            assert stage["lr_scheduler"]["name"] == value["class_path"]
        elif option != "epochs":
            known = stage["training"][option]
            name = value["class_path"].rpartition(".")[2] if isinstance(value, dict) else None
            assert known["name"] == name if name else known == value
