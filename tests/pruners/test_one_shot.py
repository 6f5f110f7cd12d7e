"""What all one-shot pruners have in common: exact counts, no trace, no training."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pruners.scoring_loop import SPARSITIES, Loop, found, new_network
from reference.toy_networks import ToyNet, toy_batches
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import IdentityMapping, PromptedClassifier
from vpns_lightning.pruners import OMP, SNIP, GraSP, Pruner, Random, SynFlow, Wanda
from vpns_lightning.pruners.scoring import scoring
from vpns_lightning.sparsity import get_masks, sparsity_report

WITHOUT_DATA: dict[str, Callable[[], Pruner]] = {
    "erk": Random,
    "er": lambda: Random(layout="er"),
    "uniform": lambda: Random(layout="uniform"),
    "global": lambda: Random(layout="global"),
    "omp": OMP,
    "synflow": lambda: SynFlow(rounds=5),
}
WITH_DATA: dict[str, Callable[[], Pruner]] = {
    "snip": lambda: SNIP(samples_per_class=2),
    "snip ratio": lambda: SNIP(samples_per_class=2, positions="ratio"),
    "snip train": lambda: SNIP(samples_per_class=2, bn_mode="train"),
    "grasp": lambda: GraSP(samples_per_class=2, chunk=3),
    "grasp eval": lambda: GraSP(samples_per_class=2, bn_mode="eval"),
    "wanda": lambda: Wanda(samples_per_class=2),
    "wanda sequential": lambda: Wanda(samples_per_class=2, sequential=True),
}
ALL = WITHOUT_DATA | WITH_DATA


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("name", ALL)
def test_exactly_the_requested_count_is_removed(name: str, sparsity: float) -> None:
    network, pruner = new_network(), ALL[name]()
    found(pruner, network, toy_batches(4))
    pruner.finish(network, sparsity)
    report = sparsity_report(network.backbone)
    assert report.total - report.kept == math.floor(round(sparsity * report.total, 6))


def trace(network: PromptedClassifier) -> list[object]:
    """Return everything that scoring must leave alone, tensors as copies."""
    return [
        copy.deepcopy(network.state_dict()),
        [
            (module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
            for module in network.modules()
        ],
        [p.requires_grad for p in network.parameters()],
        [None if p.grad is None else p.grad.clone() for p in network.parameters()],
        torch.get_rng_state(),
    ]


def same(one: object, other: object) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("name", ALL)
def test_scoring_leaves_no_trace(name: str) -> None:
    network, pruner = new_network(), ALL[name]()
    network.train()
    network.backbone.bn2.eval()
    network.backbone.conv1.weight.requires_grad_(False)
    network.backbone.head.weight.grad = torch.ones_like(network.backbone.head.weight)
    pruner.attach(network, 0.5)
    before = trace(network)
    if pruner.epochs(30):
        Loop(network).run(pruner, toy_batches(4))
    pruner.masks(network, 0.5)
    assert same(trace(network), before)


def test_an_error_while_scoring_leaves_no_trace_either() -> None:
    network = new_network()
    before = trace(network)

    def interrupted() -> None:
        with scoring(network, "train"):
            network(torch.rand(2, 3, 8, 8))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert same(trace(network), before)


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_trained(name: str) -> None:
    network, pruner = new_network(), ALL[name]()
    pruner.attach(network, 0.5)
    assert pruner.optimizers(network, lambda groups: pytest.fail("built an optimiser")) == []
    assert pruner.epochs(30) == (1 if name in WITH_DATA else 0)


@pytest.mark.parametrize("name", ALL)
def test_finishing_leaves_a_network_that_can_be_tuned(name: str) -> None:
    network, pruner = new_network(), ALL[name]()
    found(pruner, network, toy_batches(4))
    network.backbone.requires_grad_(False)
    pruner.finish(network, 0.5)
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("name", ALL)
def test_the_same_is_found_again(name: str) -> None:
    def masks() -> dict[str, Tensor]:
        network, pruner = new_network(), ALL[name]()
        found(pruner, network, toy_batches(4))
        pruner.finish(network, 0.7)
        return get_masks(network.backbone)

    first, second = masks(), masks()
    assert all(torch.equal(first[layer], second[layer]) for layer in first)


@pytest.mark.parametrize("name", WITH_DATA)
def test_half_precision_of_the_trainer_changes_no_mask(name: str) -> None:
    def masks(half: bool) -> dict[str, Tensor]:
        network, pruner = new_network(), WITH_DATA[name]()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            found(pruner, network, toy_batches(4))
            pruner.finish(network, 0.7)
        return get_masks(network.backbone)

    whole, half = masks(False), masks(True)
    assert all(torch.equal(whole[layer], half[layer]) for layer in whole)


@pytest.mark.parametrize("name", ["omp", "synflow", "snip", "grasp", "wanda"])
def test_weights_that_are_no_numbers_are_refused_with_their_layer(name: str) -> None:
    network, pruner = new_network(), ALL[name]()
    with torch.no_grad():
        network.backbone.head.weight[0, 0] = math.nan
    found(pruner, network, toy_batches(4))
    with pytest.raises(UserError, match=r"layer '(head|conv.)'|of layer 'conv1'"):
        pruner.finish(network, 0.5)


@pytest.mark.parametrize("name", ALL)
def test_a_network_with_nothing_to_prune_is_refused(name: str) -> None:
    network = PromptedClassifier(ToyNet(), 10, exclude=[".*"], mapping=IdentityMapping())
    with pytest.raises(UserError, match="no layer is left to prune"):
        ALL[name]().attach(network, 0.5)


@pytest.mark.parametrize(
    ("pruner", "name"),
    [
        (Random, "Random"),
        (OMP, "OMP"),
        (SNIP, "SNIP"),
        (GraSP, "GraSP"),
        (SynFlow, "SynFlow"),
        (Wanda, "Wanda"),
    ],
)
def test_methods_are_called_as_in_the_paper(pruner: Callable[[], Pruner], name: str) -> None:
    assert pruner().method(prompted=False) == name
    assert pruner().method(prompted=True) == f"VPNs w. {name}"


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda: Random(layout="erks"), r"layout 'erks' is not one of erk, .* mean 'erk'"),
        (lambda: SNIP(samples_per_class=0), "samples_per_class must be at least 1 image, got 0"),
        (lambda: SNIP(chunk=0), "chunk must be at least 1"),
        (lambda: SNIP(chunk=1, bn_mode="train"), "one image alone has no statistics: .*chunk"),
        (lambda: GraSP(chunk=1), "one image alone has no statistics: .*chunk"),
        (lambda: SNIP(bn_mode="both"), "bn_mode must be 'eval' or 'train', got 'both'"),
        (lambda: SNIP(positions="row"), "positions must be 'score' or 'ratio', got 'row'"),
        (lambda: GraSP(temperature=0), "temperature must be above 0, got 0"),
        (lambda: SynFlow(rounds=0), "rounds must be at least 1, got 0"),
        (lambda: SynFlow(input_size=0), "input_size must be at least 1, got 0"),
        (lambda: SynFlow(bn="off"), "bn must be 'abs_all' or 'linear', got 'off'"),
        (lambda: SynFlow(dtype="float16"), "dtype must be one of float64, float32, got 'float16'"),
        (lambda: Wanda(pattern="1:2"), "pattern must be '2:4' or null, got '1:2'"),
    ],
)
def test_options_that_cannot_work_are_refused(build: Callable[[], Pruner], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        build()
