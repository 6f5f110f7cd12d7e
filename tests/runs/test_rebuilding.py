"""Runs of networks of timm, of a plug-in and with arguments are rebuilt from their folder."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import vpns_lightning as vpns
from network.test_specification import NETS
from vpns_lightning.base import trust
from vpns_lightning.benchmarking.measuring import compare_counts
from vpns_lightning.commands import export, lightning_cli
from vpns_lightning.runs.loading import dense_twin, load_run
from vpns_lightning.sparsity import sparsity_report

ROOT = Path(__file__).parents[2]
SMALL = {"patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2}
BACKBONES: dict[str, Any] = {
    "timm": {"class_path": "timm/vit_tiny_patch16_224", "init_args": {"img_size": 32, **SMALL}},
    "plug-in": {"class_path": "resnet20", "init_args": {"width": 6}},
    "torchvision": {"class_path": "squeezenet1_1", "init_args": {"dropout": 0.1}},
}


def started(kind: str, folder: Path, *options: str) -> Path:
    """Run ``vpns fit`` in this process on two batches of digits and return the run folder."""
    (folder / "toy_nets.py").write_text(NETS)
    plugins = ["--plugins", str(folder / "toy_nets.py")] if kind == "plug-in" else []
    configs = [f"--config={ROOT}/configs/{name}.yaml" for name in ("quickstart", "debug")]
    backbone = f"--network.backbone={json.dumps(BACKBONES[kind])}"
    run = folder / "run"
    arguments = [*plugins, *configs, backbone, f"--trainer.default_root_dir={run}", *options]
    lightning_cli.run(["fit", *arguments, "--data.init_args.batch_size=16", "--warmup.epochs=0"])
    return run


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "_named", set())
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "toy_nets", raising=False)


@pytest.mark.filterwarnings("ignore")  # of Lightning, about two batches
@pytest.mark.parametrize(
    "kind", ["timm", "plug-in", pytest.param("torchvision", marks=pytest.mark.slow)]
)
def test_a_run_is_recorded_tested_exported_and_rebuilt(kind: str, tmp_path: Path) -> None:
    run = started(kind, tmp_path)
    result = json.loads((run / "result.json").read_text())
    given = BACKBONES[kind]
    arguments = ", ".join(f"{k}={v!r}" for k, v in sorted(given["init_args"].items()))
    assert result["backbone"] == f"{given['class_path']}({arguments})"
    assert yaml.safe_load((run / "config.yaml").read_text())["network"]["backbone"] == given
    network = vpns.load(run)
    report = sparsity_report(network.backbone)
    assert report.sparsity == result["sparsity"]
    assert report.kept == result["weights_kept"]
    lightning_cli.run(["test", "--run", str(run)])
    file = tmp_path / "net.safetensors"
    export.run(["--run", str(run), "--output", str(file)])
    card = file.with_suffix(".md").read_text()
    if kind == "plug-in":
        assert "rebuild it" in card
        return
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)  # type: ignore[union-attr]
    images = torch.rand(2, 3, 32, 32)
    names: dict[str, Any] = {"images": images}
    exec(code.replace("net.safetensors", str(file)), names)
    torch.testing.assert_close(names["logits"], network(images, prompted=False))


@pytest.mark.filterwarnings("ignore")
def test_other_arguments_are_another_run(tmp_path: Path) -> None:
    started("plug-in", tmp_path)
    with pytest.raises(vpns.UserError, match=r"network\.backbone\.init_args\.width: 6 there, 8"):
        started("plug-in", tmp_path, "--network.backbone.init_args.width=8")


@pytest.mark.filterwarnings("ignore")
def test_a_run_of_a_plug_in_says_what_it_needs(tmp_path: Path) -> None:
    run = started("plug-in", tmp_path)
    trust._named.clear()
    with pytest.raises(vpns.UserError, match=r"resnet20.*of --plugins"):
        load_run(run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["network"]["backbone"]["class_path"] = "toy_nets.resnet20"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(vpns.UserError, match="--plugins toy_nets"):
        load_run(run)


def test_a_config_cannot_have_functions_called(tmp_path: Path) -> None:
    flag = tmp_path / "made"
    configs = [f"--config={ROOT}/configs/quickstart.yaml", f"--config={tmp_path}/c.yaml"]
    for name in ("os.mkdir", "posixpath.join", "torch.hub.load", "torch.load"):
        backbone = {"class_path": name, "init_args": {"path": str(flag)}}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({"network": {"backbone": backbone}}))
        with pytest.raises(vpns.UserError, match=r"only name classes|not of code that you named"):
            lightning_cli.run(["fit", *configs, f"--trainer.default_root_dir={tmp_path}/run"])
    assert not flag.exists()


@pytest.mark.filterwarnings("ignore")
def test_the_dense_twin_of_a_transformer_counts_as_much(tmp_path: Path) -> None:
    loaded = load_run(started("timm", tmp_path))
    counts = compare_counts(loaded.network, dense_twin(loaded), 24)
    assert counts["macs"]["dense"] > counts["macs"]["pruned"] > 0
    assert not counts["cut"]
