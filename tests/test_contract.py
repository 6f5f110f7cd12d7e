"""What every pruner promises, checked for every pruner that the package has."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vpns_lightning as vpns
from contract_pruners import BACKBONES, Build, found, masks_hash, sparsity_of, stored
from stages.toy_training import QUIET, ToyData, fit, new_network, views_of
from toy_run import KillAt, Killed, Parts
from vpns_lightning.pruners import Saliency
from vpns_lightning.sparsity import get_masks, prune_count
from vpns_lightning.stages import MaskFinding, SubnetworkTuning

pytestmark = [pytest.mark.filterwarnings(message) for message in QUIET]
PRUNERS = found()
LEVELS = (0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
WITHOUT_IMAGES = ("Dense", "OMP", "Random", "Stored", "SynFlow")
ONE_SHOT = [name for name, build in PRUNERS.items() if isinstance(build(0.5), Saliency)]
every_pruner = pytest.mark.parametrize(("name", "build"), PRUNERS.items(), ids=list(PRUNERS))
one_shot = pytest.mark.parametrize("name", ONE_SHOT)


def find(
    build: Build, sparsity: float, backbone: nn.Module | None = None, **trainer: str
) -> MaskFinding:
    """Find masks on a toy network under a real Trainer; return the finished stage."""
    network = new_network(backbone=backbone)
    stage = MaskFinding(network, build(sparsity), sparsity=sparsity, epochs=1)
    if stage.epochs:
        views = {stream: views_of(4)["prompted"] for stream in stage.streams}
        fit(stage, ToyData(**views), **trainer)
    else:
        stage.pruner.attach(stage.network, sparsity)
    stage.pruner.finish(stage.network, sparsity)
    return stage


def test_the_contract_covers_the_methods_of_the_paper() -> None:
    paper = {"Random", "OMP", "LTH", "SNIP", "GraSP", "SynFlow", "Hydra", "BiP", "Dense", "Stored"}
    assert paper <= PRUNERS.keys()


@every_pruner
def test_the_kept_count_is_exact_at_every_sparsity(name: str, build: Build) -> None:
    for asked in LEVELS:
        sparsity = sparsity_of(name, asked)
        network = find(build, sparsity).network
        groups = network.cuts.groups()
        for kept_channels in groups.values():
            count = len(kept_channels)
            left = max(1, count - prune_count(count, sparsity))
            assert int(kept_channels.sum()) == left, sparsity
        if groups:
            continue
        masks = get_masks(network.backbone).values()
        total = sum(mask.numel() for mask in masks)
        kept = sum(int(mask.sum()) for mask in masks)
        assert kept == total - prune_count(total, sparsity), sparsity


@every_pruner
def test_tuning_keeps_the_mask_and_pruned_weights_never_reach_the_output(
    name: str, build: Build
) -> None:
    network = find(build, sparsity_of(name, 0.5)).network
    before = {layer: mask.clone() for layer, mask in get_masks(network.backbone).items()}
    learned = network.backbone.get_submodule("conv2").weight.detach().clone()
    tune = SubnetworkTuning(network, epochs=2)
    fit(tune, ToyData(**views_of(3)))
    masks = get_masks(network.backbone)
    assert all(torch.equal(masks[layer], mask) for layer, mask in before.items())
    assert not torch.equal(network.backbone.get_submodule("conv2").weight, learned)
    unchanged_by_pruned_weights(network)


def unchanged_by_pruned_weights(network: vpns.PromptedClassifier) -> None:
    """Check that the answers stay the same bits, whatever the pruned weights are."""
    images = views_of(1)["prompted"][0][0]
    network.eval()
    with torch.no_grad():
        expected = network(images)
        for layer, mask in get_masks(network.backbone).items():
            weight = network.backbone.get_submodule(layer).weight
            weight[~mask] = torch.nan_to_num(weight[~mask]) + 7.0
        assert torch.equal(network(images), expected)


UNSTRUCTURED = [n for n, build in PRUNERS.items() if not isinstance(build(0.5), vpns.Structured)]


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize("name", UNSTRUCTURED)
def test_transformers_and_networks_of_timm_are_pruned_exactly_and_tuned(
    name: str, kind: str
) -> None:
    sparsity = sparsity_of(name, 0.6)
    backbone = BACKBONES[kind]
    build = partial(stored, backbone=backbone) if name == "Stored" else PRUNERS[name]
    network = find(build, sparsity, backbone()).network
    masks = get_masks(network.backbone)
    total = sum(mask.numel() for mask in masks.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert kept == total - prune_count(total, sparsity)
    before = {layer: mask.clone() for layer, mask in masks.items()}
    start = {layer: weight.detach().clone() for layer, weight in network.prunable().items()}
    fit(SubnetworkTuning(network, epochs=1), ToyData(**views_of(2)))
    for layer, weight in network.prunable().items():
        assert torch.equal(masks[layer], before[layer]), layer
        moved = (weight != start[layer])[masks[layer]]
        assert bool(moved.any()) or not len(moved), layer
    unchanged_by_pruned_weights(network)


@pytest.mark.parametrize("place", [("find", 0, 1), ("tune", 0, 0)], ids=str)
@every_pruner
def test_killed_and_resumed_equals_uninterrupted(
    name: str, build: Build, place: tuple[str, int, int], tmp_path: Path
) -> None:
    sparsity = sparsity_of(name, 0.4)
    new_parts = partial(Parts, pruner=None, sparsity=sparsity, epochs=1)
    if (
        place[0] == "find"
        and not MaskFinding(new_network(), build(sparsity), sparsity=sparsity, epochs=1).epochs
    ):
        pytest.skip(f"{name} finds its masks without a step that could be interrupted")
    whole = new_parts(pruner=build(sparsity))
    whole.fit(tmp_path / "whole")
    KillAt.fired = False
    with pytest.raises(Killed):
        new_parts(pruner=build(sparsity)).fit(tmp_path / "cut", KillAt(*place))
    resumed = new_parts(pruner=build(sparsity))
    resumed.fit(tmp_path / "cut")
    expected = whole.network.state_dict()
    for key, value in resumed.network.state_dict().items():
        assert torch.equal(value, expected[key]), key


def snapshot(network: vpns.PromptedClassifier) -> dict[str, object]:
    """Return all that scoring may not change: values, flags, gradients, modes; no masks."""
    values = {name: value.clone() for name, value in network.state_dict().items()}
    found = {name: value for name, value in values.items() if not name.endswith("mask")}
    flags = {f"{n} learns": p.requires_grad for n, p in network.named_parameters()}
    grads = {f"{n} gradient": p.grad is None for n, p in network.named_parameters()}
    modes = {f"{n} trains": module.training for n, module in network.named_modules()}
    return {**found, **flags, **grads, **modes}


@one_shot
def test_scorers_leave_the_network_as_they_found_it(name: str) -> None:
    network, pruner = new_network(), PRUNERS[name](0.5)
    stage = MaskFinding(network, pruner, sparsity=0.5, epochs=1)
    before = snapshot(network)
    if stage.epochs:
        fit(stage, ToyData(**{stream: views_of(4)["prompted"] for stream in stage.streams}))
    torch.manual_seed(3)
    rng = torch.get_rng_state()
    pruner.attach(network, 0.5)
    pruner.finish(network, 0.5)
    assert torch.equal(torch.get_rng_state(), rng)
    for key, value in snapshot(network).items():
        same = value == before[key]
        assert bool(same.all()) if isinstance(same, Tensor) else same, key


@one_shot
def test_mixed_precision_does_not_change_a_one_shot_mask(name: str) -> None:
    full = get_masks(find(PRUNERS[name], 0.5).network.backbone)
    mixed = get_masks(find(PRUNERS[name], 0.5, precision="bf16-mixed").network.backbone)
    assert all(torch.equal(mixed[layer], mask) for layer, mask in full.items())


@pytest.mark.slow
def test_two_processes_agree_with_each_other_and_without_images_with_one(tmp_path: Path) -> None:
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(tests / "contract_processes.py"), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first.keys() == PRUNERS.keys()
    assert first == second
    for name in WITHOUT_IMAGES:
        sparsity = sparsity_of(name, 0.5)
        alone = Parts(pruner=PRUNERS[name](sparsity), sparsity=sparsity, epochs=1)
        alone.warmup = None  # trains differently on half the images
        alone.fit(tmp_path / f"{name} alone")
        assert masks_hash(alone.network) == first[name]["masks"], name


def test_a_pruner_of_a_user_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Backwards(vpns.OMP):
        """Keep the smallest."""

        def scores(self, network: vpns.PromptedClassifier) -> dict[str, Tensor]:
            return {name: -score for name, score in super().scores(network).items()}

    monkeypatch.setattr(Backwards, "__module__", "vpns_lightning.pruners.backwards")
    assert "Backwards" in found()
    monkeypatch.setattr(Backwards, "__module__", "elsewhere")
    assert "Backwards" not in found()
