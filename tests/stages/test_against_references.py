"""Both stages, run by a real Trainer, against slow restatements of the paper and of the release."""

from functools import partial

import pytest
import torch
from torch import Tensor

from reference.released_vpns import Release
from reference.toy_networks import ToyNet
from reference.vpns_equations import Equations
from stages.toy_training import QUIET, ROWS, ToyData, fit, new_network, recorded, views_of
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners import Hydra
from vpns_lightning.sparsity import get_masks, masked_layers
from vpns_lightning.stages import MaskFinding, SubnetworkTuning

pytestmark = [pytest.mark.filterwarnings(message) for message in QUIET]

EPOCHS, BATCHES = 2, 3
ADAM = {"lr": 0.05, "weight_decay": 1e-2}
STAGE_1 = {"rate": ADAM["lr"], "decay": ADAM["weight_decay"]}
SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-2}
STAGE_2 = {"rate": SGD["lr"], "decay": SGD["weight_decay"]}
# six Adam steps move a value by up to 0.3; where a gradient is almost zero, its division by its own
# size makes rounding, which differs between machines and memory formats, a few millionths of that
equal = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


def assert_same_masks(network: PromptedClassifier, expected: dict[str, Tensor]) -> None:
    masks = get_masks(network.backbone)
    assert masks.keys() == expected.keys()
    for name, mask in masks.items():
        assert torch.equal(mask, expected[name]), name


def assert_same_network(
    network: PromptedClassifier, net: torch.nn.Module, masks: dict[str, Tensor], delta: Tensor
) -> None:
    """Compare effective weights, everything else of the state, and the prompt."""
    theirs = net.state_dict()
    for name, value in network.backbone.state_dict().items():
        layer, _, leaf = name.rpartition(".")
        if leaf == "weight" and layer in masks:
            equal(value * masks[layer], theirs[name] * masks[layer])
        elif leaf != "mask":
            equal(value, theirs[name])
    equal(network.prompt.delta, delta)


@pytest.mark.parametrize("fused", [True, False])
# at 0.9 whole channels die, and batch normalisation magnifies rounding in a constant one
@pytest.mark.parametrize("sparsity", [0.5, 0.75])
def test_both_stages_follow_the_papers_equations(sparsity: float, fused: bool) -> None:
    network, data = new_network(channels_last=fused), ToyData(**views_of(BATCHES))
    total = sum(mask.numel() for mask in get_masks(network.backbone).values())
    paper = Equations(ToyNet(), ROWS, canvas=14, pad=3, n_prune=int(sparsity * total))

    first = paper.masks()
    find = MaskFinding(
        network,
        Hydra(),
        sparsity=sparsity,
        epochs=EPOCHS,
        optimizer=partial(torch.optim.Adam, fused=fused, **ADAM),
    )
    losses = recorded(find)
    fit(find, data)
    expected = paper.find(data.views["prompted"], epochs=EPOCHS, **STAGE_1)
    assert losses == pytest.approx(expected, abs=1e-6, rel=1e-5)
    assert_same_masks(network, paper.masks())
    assert sum(int((mask != first[name]).sum()) for name, mask in paper.masks().items()) > 50
    for name, layer in masked_layers(network.backbone):
        equal(layer.scores.detach(), paper.scores[name].detach())

    find.pruner.finish(network, sparsity)
    assert_same_network(network, paper.net, paper.masks(), paper.delta.detach())

    tune = SubnetworkTuning(
        network, epochs=EPOCHS, optimizer=partial(torch.optim.SGD, fused=fused, **SGD)
    )
    losses = recorded(tune)
    fit(tune, data)
    expected = paper.tune(data.views["prompted"], epochs=EPOCHS, **STAGE_2)
    assert losses == pytest.approx(expected, abs=1e-6, rel=1e-5)
    assert_same_masks(network, paper.masks())
    assert_same_network(network, paper.net, paper.masks(), paper.delta.detach())


def test_both_stages_follow_the_released_protocol() -> None:
    network = new_network(slice_head=False, pad_plain=False)
    views = views_of(BATCHES)
    data, pairs = ToyData(**views), list(zip(views["prompted"], views["plain"], strict=True))
    release = Release(ToyNet(), ROWS, canvas=14, pad=3, density=0.5)

    find = MaskFinding(
        network,
        Hydra(tie_rule="threshold"),
        sparsity=0.5,
        epochs=EPOCHS,
        views=["prompted", "plain"],
        optimizer=partial(torch.optim.Adam, **ADAM),
    )
    losses = recorded(find)
    trainer = fit(find, data)
    expected = release.find(pairs, epochs=EPOCHS, **STAGE_1)
    assert trainer.global_step == find.passes == len(losses) == 2 * BATCHES * EPOCHS
    assert losses == pytest.approx(expected, abs=1e-6, rel=1e-5)
    assert find.pruner.threshold.item() == pytest.approx(release.threshold, abs=1e-6)
    assert_same_masks(network, release.masks())

    find.pruner.finish(network, 0.5)
    assert_same_masks(network, release.masks())
    tune = SubnetworkTuning(
        network,
        epochs=EPOCHS,
        views=["prompted", "plain"],
        optimizer=partial(torch.optim.SGD, **SGD),
    )
    losses = recorded(tune)
    fit(tune, data)
    expected = release.tune(pairs, epochs=EPOCHS, **STAGE_2)
    assert losses == pytest.approx(expected, abs=1e-6, rel=1e-5)
    assert_same_masks(network, release.masks())
    assert_same_network(network, release.net, release.masks(), release.program.detach())

    images = views["plain"][0][0]
    equal(network.eval()(images, prompted=False).detach(), release.predict(images))
