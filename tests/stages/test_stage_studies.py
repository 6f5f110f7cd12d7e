"""Studies that the views of a stage express: prompts in one stage only, and two steps without."""

from functools import partial

import pytest
import torch

from reference.toy_networks import ToyNet
from stages.toy_training import QUIET, ToyData, fit, views_of
from vpns_lightning.network import IdentityMapping, PadPrompt, PromptedClassifier
from vpns_lightning.pruners import Hydra
from vpns_lightning.stages import MaskFinding, SubnetworkTuning

pytestmark = [pytest.mark.filterwarnings(message) for message in QUIET]

SIZE = 10  # px, of images and canvas alike: a plain image and an unprompted one are the same
ADAM = partial(torch.optim.Adam, lr=0.02)


def both_stages(
    prompt: PadPrompt | None, find_views: list[str], tune_views: list[str]
) -> tuple[PromptedClassifier, dict[str, torch.Tensor]]:
    """Run both stages; return the network and a copy of its state between them."""
    network = PromptedClassifier(ToyNet(), 4, prompt=prompt, mapping=IdentityMapping())
    network.fit_mapping()
    data = ToyData(**views_of(3, size=SIZE))
    find = MaskFinding(network, Hydra(), sparsity=0.5, epochs=2, views=find_views, optimizer=ADAM)
    fit(find, data)
    find.pruner.finish(network, 0.5)
    between = {name: value.clone() for name, value in network.state_dict().items()}
    fit(SubnetworkTuning(network, epochs=2, views=tune_views), data)
    return network, between


def test_two_steps_with_a_prompt_of_no_width_are_hydra_with_two_steps() -> None:
    views = ["prompted", "plain"]
    with_prompt, _ = both_stages(PadPrompt(SIZE, 0), views, views)
    hydra, _ = both_stages(None, views, views)
    theirs = with_prompt.state_dict()
    for name, value in hydra.state_dict().items():
        assert torch.equal(theirs[name], value), name


def test_a_prompt_in_tuning_only_finds_the_masks_of_hydra() -> None:
    network, found = both_stages(PadPrompt(SIZE, 2), ["plain"], ["prompted"])
    _, hydra = both_stages(None, ["plain"], ["plain"])
    assert all(torch.equal(found[name], value) for name, value in hydra.items())
    assert not bool(found["prompt.delta"].any())
    assert bool(network.prompt.delta.any())


def test_a_prompt_in_finding_only_is_left_alone_by_tuning() -> None:
    network, found = both_stages(PadPrompt(SIZE, 2), ["prompted"], ["plain"])
    assert bool(found["prompt.delta"].any())
    assert torch.equal(network.prompt.delta, found["prompt.delta"])
