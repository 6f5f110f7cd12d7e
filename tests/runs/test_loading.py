"""A run folder alone gives a ready network: in Python, through torch.hub, and with its card."""

import importlib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import vpns_lightning as vpns
from test_cli import refusal
from toy_folder import SIDE, finished_network, write_folder
from vpns_lightning import cli
from vpns_lightning.exporting.card import fits_constructor
from vpns_lightning.network import IdentityMapping, PromptedClassifier

ROOT = Path(__file__).parents[2]
RESULT = {
    "method": "VPNs",
    "test_accuracy": 0.8125,
    "test_accuracy_plain": 0.625,
    "test_images": 360,
    "versions": {"vpns_lightning": "0.1.0", "torch": "2.15.0"},
    "command": "vpns fit --config some.yaml",
}


@pytest.fixture(scope="module")
def network() -> PromptedClassifier:
    return finished_network()


@pytest.fixture(scope="module")
def run(network: PromptedClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("loading") / "run", network, **RESULT)


@torch.no_grad()
def test_a_loaded_network_is_ready_to_answer(run: Path, network: PromptedClassifier) -> None:
    loaded = vpns.load(run)
    assert not any(module.training for module in loaded.modules())
    batch = torch.rand(3, 3, SIDE, SIDE)
    assert torch.equal(loaded(batch), network(batch))
    assert torch.equal(loaded(batch, prompted=False), network(batch, prompted=False))


@torch.no_grad()
def test_torch_hub_gives_the_same_network(run: Path, network: PromptedClassifier) -> None:
    loaded = torch.hub.load(str(ROOT), "run", str(run), source="local")
    batch = torch.rand(2, 3, SIDE, SIDE)
    assert torch.equal(loaded(batch), network(batch))


def test_a_folder_without_a_hand_off_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    with pytest.raises(vpns.UserError, match=r"no stage of .* is finished yet"):
        vpns.load(tmp_path)


def card_of(run: Path, output: Path, *options: str) -> str:
    cli.main(["export", "--run", str(run), "--output", str(output), *options])
    return output.with_suffix(".md").read_text()


def test_a_card_tells_where_a_network_comes_from(run: Path, tmp_path: Path) -> None:
    card = card_of(run, tmp_path / "net.safetensors")
    facts = dict(re.findall(r"^\| ([^|]+) \| (.+) \|$", card, flags=re.M))
    assert facts["method"] == "VPNs"
    assert facts["data"] == f"Digits, 10 classes, {SIDE} px"
    assert facts["sparsity asked"] == "0.9000"
    assert float(facts["sparsity measured"]) == pytest.approx(0.9, abs=1e-3)
    assert (facts["accuracy with the prompt"], facts["accuracy without"]) == ("0.8125", "0.6250")
    assert facts["command"] == "`vpns fit --config some.yaml`"
    assert facts["versions"] == "vpns_lightning 0.1.0, torch 2.15.0"
    assert facts["seed"] == "7"
    size = (tmp_path / "net.safetensors").stat().st_size
    assert facts["size"] == f"{size:,} bytes"
    assert "The prompt is not in this file" in card
    assert "Zeros are stored" in card


@pytest.mark.parametrize(
    ("name", "prompted"),
    [("net.safetensors", False), pytest.param("net.pt2", True, marks=pytest.mark.slow)],
)
@torch.no_grad()
def test_the_code_on_a_card_runs(
    name: str,
    prompted: bool,
    run: Path,
    network: PromptedClassifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"images": torch.rand(2, 3, SIDE, SIDE)}
    (code,) = re.findall(r"```python\n(.*?)```", card_of(run, Path(name)), flags=re.S)
    exec(code, names)
    expected = network(names["images"], prompted=prompted)
    torch.testing.assert_close(names["logits"], expected, rtol=1e-4, atol=1e-6)


def test_a_compact_export_says_so(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = card_of(run, tmp_path / "net.safetensors", "--compact", "true")
    assert "Zeros are left out" in card
    assert "zeros are stored" not in capsys.readouterr().out
    card_of(run, tmp_path / "plain.safetensors")
    assert "as large as that of a dense network" in capsys.readouterr().out
    small, plain = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("net", "plain"))
    assert small < 0.16 * plain
    assert len(load_file(tmp_path / "net.safetensors")) > len(
        load_file(tmp_path / "plain.safetensors")
    )
    assert "can be compact" in refusal(
        capsys, "export", f"--run={run}", f"--output={tmp_path / 'net.onnx'}", "--compact=true"
    )


def test_a_run_that_is_not_finished_says_so_on_its_card(
    network: PromptedClassifier, tmp_path: Path
) -> None:
    run = write_folder(tmp_path / "run", network)
    card = card_of(run, tmp_path / "net.safetensors")
    assert "| method | not finished: after stage tune |" in card
    assert "| accuracy with the prompt | 0.7500 |" in card
    assert "The run was not finished" in card
    assert not (run / "result.json").exists()


def test_a_backbone_with_fewer_channels_is_not_torchvision_s() -> None:
    network = PromptedClassifier("squeezenet1_1", 10, mapping=IdentityMapping())
    assert fits_constructor(network)
    first = network.backbone.features[0]
    first.weight = torch.nn.Parameter(first.weight[:60])
    assert not fits_constructor(network)
    network.backbone_name = "Sequential"
    assert not fits_constructor(network)


def test_the_first_stages_facts_are_checked_before_the_network_is_built(
    run: Path, tmp_path: Path, network: PromptedClassifier
) -> None:
    from vpns_lightning.runs.handoff import save_network
    from vpns_lightning.runs.record import RunSoFar

    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    nothing = RunSoFar(seed=7, dataset="", input_size=0)
    file = tmp_path / "handoff.safetensors"
    save_network(file, network, nothing, stage="tune", sparsity=0.9)
    with pytest.raises(vpns.UserError, match="does not say stage, sparsity, size of images"):
        vpns.load(tmp_path)


def copied(run: Path, target: Path, **config: Any) -> Path:
    """Return a copy of a run folder, keys of its config's network replaced."""
    shutil.copytree(run, target)
    stored = yaml.safe_load((run / "config.yaml").read_text())
    stored["network"] |= config
    (target / "config.yaml").write_text(yaml.safe_dump(stored))
    return target


def test_a_run_folder_cannot_import_a_foreign_module(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_prompts.py").write_text(
        f"import os; os.mkdir({str(tmp_path / 'ran')!r})\n"
        "from vpns_lightning import PadPrompt\nclass Thing(PadPrompt): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    prompt = {"class_path": "evil_prompts.Thing", "init_args": {"canvas_size": SIDE, "pad_size": 4}}
    given = copied(run, tmp_path / "run", prompt=prompt)
    assert "--plugins evil_prompts" in refusal(capsys, "test", "--run", str(given))
    with pytest.raises(vpns.UserError, match="--plugins evil_prompts"):
        vpns.load(given)
    assert not (tmp_path / "ran").exists()
    # a program that has imported its own classes needs no more
    importlib.import_module("evil_prompts")
    assert type(vpns.load(given).prompt).__name__ == "Thing"


def test_a_config_that_describes_no_network_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = copied(run, tmp_path / "run", prompt={"class_path": "os.system", "init_args": {}})
    assert "config.yaml does not describe a run" in refusal(capsys, "test", "--run", str(given))


def test_a_card_of_a_run_without_a_prompt_claims_no_accuracy_with_one(tmp_path: Path) -> None:
    run = write_folder(tmp_path / "run", finished_network(prompt=False), **RESULT)
    card = card_of(run, tmp_path / "net.safetensors")
    assert "| accuracy | 0.8125 |" in card
    assert "accuracy with" not in card


@pytest.mark.parametrize("name", ["config.yaml", "result.json"])
@pytest.mark.parametrize("content", [b"", b"[", b"\xff\xfe"])
def test_a_damaged_file_of_a_run_is_named(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes,
) -> None:
    given = copied(run, tmp_path / "run")
    (given / name).write_bytes(content)
    output = str(tmp_path / "net.safetensors")
    said = refusal(capsys, "export", "--run", str(given), "--output", output)
    assert f"{given / name} is damaged" in said
