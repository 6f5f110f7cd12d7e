"""Whole runs on the device: each ends bit for bit as on the CPU, whatever the pruner and precision.

Where float16's gradients are scaled, optimisers take other steps there: those runs have to end.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import SGD, AdamW

import vpns_lightning as vpns
from contract_pruners import Build, found, sparsity_of
from emulated_cuda import counting, emulated_cuda
from reference.toy_networks import ToyNet
from toy_folder import SIDE, finished_network, write_folder
from toy_run import KillAt, Killed, Parts
from vpns_lightning import cli
from vpns_lightning.benchmarking import Plan, fold, measure
from vpns_lightning.exporting import export
from vpns_lightning.runs.loading import dense_twin, load_run

PRUNERS = found()
VARIANTS: dict[str, Build] = {
    "Hydra threshold": lambda _: vpns.Hydra(tie_rule="threshold"),
    "Hydra layer": lambda _: vpns.Hydra(scope="layer"),
    "Hydra kaiming": lambda _: vpns.Hydra(score_init="kaiming"),
    "BiP first order": lambda _: vpns.BiP(variant="first_order"),
    "BiP code": lambda _: vpns.BiP(variant="code"),
    "DepGraph one shot": lambda _: vpns.DepGraph(sparse_learning=False),
    "GraSP reinit": lambda _: vpns.GraSP(reinit_linear=True),
    "LTH nearest": lambda _: vpns.LTH(),
    "Random plus": lambda _: vpns.Random(layout="uniform"),
    "SNIP ratio": lambda _: vpns.SNIP(positions="ratio", bn_mode="train"),
    "StructuredVPNs global": lambda _: vpns.StructuredVPNs(gates="inputs", scope="global"),
    "SynFlow linear": lambda _: vpns.SynFlow(rounds=3, bn="linear", dtype="float32"),
    "Wanda 2:4": lambda _: vpns.Wanda(pattern="2:4"),
}
# combine gradients of which float16 would hand them scaled ones
UNSCALED = ("BiP", "BiP code", "DepGraph", "Slim")
FAST = {("Hydra", "bf16-mixed"), ("StructuredVPNs", "32-true"), ("Wanda", "32-true")}
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
CASES = [
    pytest.param(name, precision, marks=[] if (name, precision) in FAST else [pytest.mark.slow])
    for name, precision in product([*PRUNERS, *VARIANTS], PRECISIONS)
]


def run(
    parts: Parts, folder: Path, accelerator: str, *callbacks: pl.Callback, **trainer: Any
) -> dict[str, Tensor]:
    """Run all stages on a device; return what is handed on."""
    with emulated_cuda() if accelerator == "gpu" else nullcontext():
        options = {"accelerator": accelerator, "devices": 1, "enable_progress_bar": False}
        parts.fit(folder, *callbacks, **options, **trainer)
    return load_file(folder / "handoff.safetensors")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Return whether two networks are equal to the bit; say where they are not."""
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    return True


def on_both(new: Callable[[], Parts], folder: Path, **trainer: Any) -> None:
    """Compare a run on the device with one on the CPU."""
    there = run(new(), folder / "there", "gpu", **trainer)
    assert same(there, run(new(), folder / "here", "cpu", **trainer))


def pruned(name: str) -> Parts:
    sparsity = sparsity_of(name, 0.5)
    return Parts(pruner=(PRUNERS | VARIANTS)[name](sparsity), sparsity=sparsity, epochs=1)


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_every_pruner_in_every_precision(name: str, precision: str, tmp_path: Path) -> None:
    new = partial(pruned, name)
    if precision != "16-mixed":
        on_both(new, tmp_path, precision=precision)
    elif name in UNSCALED:
        with pytest.raises(vpns.UserError, match="use bf16-mixed or 32-true"):
            run(new(), tmp_path, "gpu", precision=precision)
    else:
        handed_on = run(new(), tmp_path, "gpu", precision=precision)
        floats = [value for value in handed_on.values() if value.is_floating_point()]
        assert all(bool(torch.isfinite(value).all()) for value in floats)


def prompted(prompt: vpns.Prompt | None, **options: Any) -> Parts:
    parts = Parts(epochs=1)
    torch.manual_seed(0)
    parts.network = vpns.PromptedClassifier(ToyNet(classes=6), 4, prompt=prompt, **options)
    for stage in (parts.warmup, parts.find, parts.tune):
        assert stage is not None
        stage.network = parts.network
    return parts


def unfused() -> Parts:
    parts = Parts(epochs=1)
    parts.find.build_optimizer = lambda params: AdamW(params, lr=0.01, foreach=False)
    parts.tune.build_optimizer = lambda params: SGD(params, lr=0.01, momentum=0.9, foreach=False)
    return parts


RUNS: dict[str, Callable[[], Parts]] = {
    "both views": lambda: Parts(epochs=1, views=("prompted", "plain")),
    "no prompt": lambda: prompted(None),
    "fix": lambda: prompted(vpns.FixPrompt(16, 6, squash="sigmoid")),
    "random": lambda: prompted(vpns.RandomPrompt(16, 6)),
    "expansive": lambda: prompted(vpns.ExpansivePrompt(16, 12)),
    "low rank": lambda: prompted(vpns.LowRankPrompt(16, 2)),
    "native clamp": lambda: prompted(vpns.PadPrompt(16, 2, clamp="native")),
    "channels first": lambda: prompted(vpns.PadPrompt(16, 2), channels_last=False),
    "iterative": lambda: Parts(mapping=vpns.IterativeMapping()),
    "random mapping": lambda: Parts(epochs=1, mapping=vpns.RandomMapping()),
    "identity": lambda: Parts(epochs=1, mapping=vpns.IdentityMapping()),
    "linear": lambda: Parts(epochs=1, mapping=vpns.LinearHead()),
    "prompt stage": lambda: Parts(
        epochs=1,
        mapping=vpns.FrequencyMapping(slice_head=False),
        prompt_stage={"epochs": 1, "recalibrate": True, "refit_mapping": True},
    ),
    "one tensor at a time": unfused,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_every_prompt_mapping_and_stage(name: str, tmp_path: Path) -> None:
    on_both(RUNS[name], tmp_path)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("Hydra", ("find", 0, 1)),
        *(
            pytest.param(name, (stage, 0, 1), marks=pytest.mark.slow)
            for name, stage in product(["SNIP", "LTH", "StructuredVPNs", "BiP"], ["find", "tune"])
        ),
    ],
)
def test_a_run_killed_there_is_resumed_there_and_here(
    name: str, place: tuple[str, int, int], tmp_path: Path
) -> None:
    whole = run(pruned(name), tmp_path / "whole", "cpu")
    for accelerator in ("gpu", "cpu"):
        KillAt.fired = False
        with pytest.raises(Killed):
            run(pruned(name), tmp_path / accelerator, "gpu", KillAt(*place))
        assert same(run(pruned(name), tmp_path / accelerator, accelerator), whole)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("run") / "run", finished_network())


@pytest.mark.usefixtures("cuda")
def test_a_finished_network_answers_there_and_is_exported_from_there(
    folder: Path, tmp_path: Path
) -> None:
    network = load_run(folder, accelerator="auto").network
    images = torch.rand(2, 3, SIDE, SIDE)
    assert network.mean.is_cuda
    with torch.no_grad():
        there = network(images.to("cuda")).cpu()
    assert torch.equal(there, load_run(folder).network(images))
    written = load_file(export(network, tmp_path / "net.safetensors", input_size=SIDE))
    assert same(written, fold(load_run(folder).network).backbone.state_dict())


@pytest.mark.usefixtures("cuda")
@pytest.mark.filterwarnings("ignore:GPU available but not used")  # Lightning's, to those who ask so
@pytest.mark.parametrize("command", ["test", "predict"])
def test_commands_use_the_device(
    command: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    vpns.Digits("data", input_size=SIDE).prepare_data()
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    from PIL import Image

    Image.new("RGB", (40, 40), "red").save(pictures / "a.png")
    options = {"test": [], "predict": ["--images", str(pictures)]}[command]
    layers = sum(isinstance(m, nn.Conv2d) for m in finished_network().modules())
    for accelerator in ("auto", "cpu"):
        with counting() as counts:
            cli.main([command, "--run", str(folder), *options, "--accelerator", accelerator])
        if accelerator == "cpu":
            assert counts.work() == (0, 0)
        else:
            assert counts.operators["convolution"] >= layers
            assert counts.batches


@pytest.mark.usefixtures("cuda")
def test_what_bench_measures_is_measured_there(folder: Path) -> None:
    loaded = load_run(folder)
    plan = Plan(["cuda"], ["eager"], [1], memory_batch=2, warmup=1, rounds=5, seconds=5)
    found = measure(loaded.network, dense_twin(loaded), SIDE, plan)
    assert not found["not_measured"]
    assert [each["device"] for each in found["timings"]] == ["cuda"]
    assert found["training_memory_bytes"][0]["device"] == "cuda"
