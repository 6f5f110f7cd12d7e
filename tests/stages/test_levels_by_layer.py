"""Sparsity that differs by layer: exact in each, exact in the rest, for every pruner that ranks."""

from functools import partial
from pathlib import Path

import pytest
import torch

import vpns_lightning as vpns
from contract_pruners import PRUNERS_THAT_RANK, Build, found
from reference.toy_networks import ToyNet, ToyViT
from stages.toy_training import QUIET, ToyData, fit, new_network, views_of
from toy_run import KillAt, Killed, Parts
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.sparsity import get_masks, layer_levels, prune_count, ranked_together
from vpns_lightning.stages import MaskFinding

pytestmark = [pytest.mark.filterwarnings(message) for message in QUIET]
PRUNERS = found()
LEVELS = {"conv1": 0.3, "head": 0.95}


def removed(network: PromptedClassifier) -> dict[str, tuple[int, int]]:
    masks = get_masks(network.backbone)
    return {n: (int((~mask).sum()), mask.numel()) for n, mask in masks.items()}


def find(build: Build, sparsity: float, levels: dict[str, float]) -> PromptedClassifier:
    stage = MaskFinding(
        new_network(), build(sparsity), sparsity=sparsity, sparsity_by_layer=levels, epochs=1
    )
    if stage.epochs:
        fit(stage, ToyData(**{stream: views_of(4)["prompted"] for stream in stage.streams}))
    else:
        stage.pruner.attach(stage.network, sparsity)
    stage.pruner.finish(stage.network, sparsity)
    return stage.network


@pytest.mark.parametrize("rest", [0, 0.8])
@pytest.mark.parametrize("name", PRUNERS_THAT_RANK)
def test_the_count_is_exact_in_each_layer_and_in_the_rest(name: str, rest: float) -> None:
    counts = removed(find(PRUNERS[name], rest, LEVELS))
    for layer, level in LEVELS.items():
        assert counts[layer][0] == prune_count(counts[layer][1], level), layer
    assert counts["conv2"][0] == prune_count(counts["conv2"][1], rest)


@pytest.mark.parametrize("name", PRUNERS_THAT_RANK)
def test_every_layer_may_have_its_own(name: str) -> None:
    levels = {"conv?": 0.5, "head": 0.25}
    counts = removed(find(PRUNERS[name], 0.9, levels))
    own = {"conv1": 0.5, "conv2": 0.5, "head": 0.25}
    assert {n: gone for n, (gone, _) in counts.items()} == {
        n: prune_count(size, own[n]) for n, (_, size) in counts.items()
    }


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_rest_is_ranked_by_its_scope(scope: str) -> None:
    network = PromptedClassifier(ToyViT(), 4)
    pruner = vpns.OMP(scope=scope)
    stage = MaskFinding(
        network, pruner, sparsity=0.5, sparsity_by_layer={"blocks.1.*": 0.75}, epochs=1
    )
    pruner.finish(network, stage.sparsity)
    counts = removed(network)
    rest = {n: c for n, c in counts.items() if not n.startswith("blocks.1.")}
    assert len(counts) == len(rest) + 4
    for layer, (gone, size) in counts.items():
        if layer not in rest:
            assert gone == prune_count(size, 0.75), layer
    exact = [gone == prune_count(size, 0.5) for gone, size in rest.values()]
    assert all(exact) == (scope == "layer")
    gone, size = (sum(part) for part in zip(*rest.values(), strict=True))
    assert gone == prune_count(size, 0.5)


def test_the_weights_kept_are_those_of_the_two_rankings() -> None:
    network = new_network()
    weights = {n: w.detach().abs() for n, w in network.prunable().items()}
    counts = removed(find(lambda _: vpns.OMP(), 0.8, {"conv1": 0.3}))
    rest = torch.cat([weights["conv2"].flatten(), weights["head"].flatten()])
    threshold = rest.sort().values[prune_count(len(rest), 0.8) - 1]
    assert counts["conv2"][0] == int((weights["conv2"] <= threshold).sum())
    assert counts["head"][0] == int((weights["head"] <= threshold).sum())


REFUSED = {
    "no layer": ({"conv9": 0.5}, r"'conv9' matches no layer .*did you mean 'conv\d'"),
    "no part": ({"blok.*": 0.5}, r"'blok\.\*' matches no layer"),
    "two patterns": ({"conv*": 0.5, "conv1": 0.2}, "'conv1' matches both 'conv\\*' and 'conv1'"),
    "one": ({"conv1": 1.0}, r"the level of 'conv1' must be a number in \[0, 1\), got 1\.0"),
    "truth": ({"conv1": True}, "got True"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_patterns_that_cannot_hold_are_refused(case: str) -> None:
    levels, words = REFUSED[case]
    with pytest.raises(UserError, match=words):
        MaskFinding(new_network(), vpns.Hydra(), sparsity=0.5, sparsity_by_layer=levels)


def test_the_nearest_part_of_a_network_is_named() -> None:
    with pytest.raises(UserError, match=r"did you mean 'layer4\.\*'"):
        layer_levels({"layr4.*": 0.5}, ["conv1", "layer4.0.conv1", "layer3.0.conv1", "fc"])


@pytest.mark.parametrize("name", sorted(set(PRUNERS) - set(PRUNERS_THAT_RANK)))
def test_pruners_that_rank_no_weights_refuse_levels(name: str) -> None:
    sparsity = 0.0 if name == "Dense" else 0.5
    with pytest.raises(UserError, match=f"{name} ranks none"):
        MaskFinding(
            new_network(), PRUNERS[name](sparsity), sparsity=sparsity, sparsity_by_layer=LEVELS
        )


def test_two_of_four_and_levels_exclude_each_other() -> None:
    network, pruner = new_network(), vpns.Wanda(pattern="2:4")
    MaskFinding(network, pruner, sparsity=0.5, sparsity_by_layer=LEVELS)
    with pytest.raises(UserError, match="sparsity_by_layer cannot hold"):
        pruner.attach(network, 0.5)


def test_groups_without_levels_are_those_of_the_scope() -> None:
    assert ranked_together("abc", 0.5) == [(["a", "b", "c"], 0.5)]
    assert ranked_together("ab", 0.5, scope="layer") == [(["a"], 0.5), (["b"], 0.5)]
    assert ranked_together("abc", 0.5, levels={"b": 0.1}) == [(["a", "c"], 0.5), (["b"], 0.1)]
    assert ranked_together("a", 0.5, levels={"a": 0.1}) == [(["a"], 0.1)]


@pytest.mark.parametrize("pruner", [vpns.Hydra, partial(vpns.LTH, snap="clip")], ids=str)
def test_a_run_records_its_levels_and_resumes_with_them(pruner: Build, tmp_path: Path) -> None:
    def parts() -> Parts:
        made = Parts(pruner=pruner(), sparsity=0.8, epochs=1)
        made.find = MaskFinding(
            made.network, made.find.pruner, sparsity=0.8, sparsity_by_layer=LEVELS, epochs=1
        )
        return made

    whole = parts()
    result = whole.fit(tmp_path / "whole")
    assert result["sparsity_by_layer"] == LEVELS
    assert result["sparsity_per_layer"]["conv1"] == pytest.approx(64 / 216)
    KillAt.fired = False
    with pytest.raises(Killed):
        parts().fit(tmp_path / "cut", KillAt("find", 0, 1))
    resumed = parts()
    resumed.fit(tmp_path / "cut")
    expected = whole.network.state_dict()
    for key, value in resumed.network.state_dict().items():
        assert torch.equal(value, expected[key]), key
    other = Parts(pruner=pruner(), sparsity=0.8, epochs=1)
    with pytest.raises(UserError, match=r"another config: .*find\.sparsity_by_layer"):
        other.fit(tmp_path / "whole")


def test_levels_take_nothing_from_a_network_without_them() -> None:
    network = PromptedClassifier(ToyNet(), 10)
    stage = MaskFinding(network, vpns.OMP(), sparsity=0.5)
    assert not stage.pruner.levels
    assert stage.sparsity_by_layer == {}
