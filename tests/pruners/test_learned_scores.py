"""Hydra with and without a prompt: scores move, everything else stays."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from reference.released_vpns import Release
from reference.toy_networks import ToyNet, toy_batches
from reference.vpns_equations import first_scores
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import IdentityMapping, PadPrompt, PromptedClassifier
from vpns_lightning.pruners import Hydra
from vpns_lightning.pruners.base import Batch, Pruner, parameter_groups
from vpns_lightning.pruners.learned_scores import scaled_init
from vpns_lightning.sparsity import get_masks, masked_layers, sparsity_report


class Loop:
    """The stage a pruner needs, as a plain loop."""

    current_epoch = 0

    def __init__(self, network: PromptedClassifier, pruner: Pruner, rate: float = 0.05) -> None:
        self.network = network
        self.pruner = pruner
        build = lambda groups: torch.optim.Adam(groups, lr=rate, weight_decay=1e-4)  # noqa: E731
        (self.optimizer,) = pruner.optimizers(network, build)

    def loss(self, view: str, batch: Batch) -> Tensor:
        images, labels = batch
        return functional.cross_entropy(self.network(images, prompted=view == "prompted"), labels)

    def optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer

    def manual_backward(self, loss: Tensor) -> None:
        loss.backward()

    def reduce(self, tensor: Tensor) -> Tensor:
        return tensor

    def run(self, steps: int) -> None:
        for batch in toy_batches(steps):
            self.pruner.step(self, "prompted", batch)


def new_network(prompt: bool = True) -> PromptedClassifier:
    network = PromptedClassifier(
        ToyNet(), 4, prompt=PadPrompt(12, 2) if prompt else None, mapping=IdentityMapping()
    )
    network.fit_mapping()
    return network


def own_state(network: PromptedClassifier) -> dict[str, Tensor]:
    """Return copies of weights, biases and affine parameters of the backbone."""
    named = network.backbone.named_parameters()
    return {name: p.detach().clone() for name, p in named if not name.endswith("scores")}


def test_the_scaled_initialisation_of_the_specification() -> None:  # T-1a
    scores = scaled_init(torch.tensor([[1.0, -2.0], [0.5, 4.0]]))
    expected = torch.tensor([[0.4330, -0.8660], [0.2165, 1.7321]])
    torch.testing.assert_close(scores, expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize("layer", [nn.Conv2d(16, 24, 3), nn.Linear(512, 40)], ids=str)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_initial_scores_are_the_released_ones_to_the_last_bit(
    layer: nn.Conv2d | nn.Linear, memory: torch.memory_format
) -> None:
    weight = layer.weight.detach()
    if weight.dim() == 4:
        weight = weight.contiguous(memory_format=memory)
    scores = scaled_init(weight)
    assert torch.equal(scores, first_scores(weight))
    assert scores.stride() == weight.stride()


def test_initial_scores_of_a_network_are_those_of_the_release() -> None:
    network = PromptedClassifier(ToyNet(), 10, mapping=IdentityMapping())
    Hydra().attach(network, 0.5)
    release = Release(ToyNet(), range(10), canvas=14, pad=3, density=0.5)
    for name, layer in masked_layers(network.backbone):
        assert torch.equal(layer.scores.detach(), release.scores[name].detach()), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_scores_are_float32_scaled_by_the_fan_in_of_a_group(dtype: torch.dtype) -> None:
    weight = nn.Conv2d(8, 6, 3, groups=2).weight.to(dtype)
    scores = scaled_init(weight)
    assert scores.dtype == torch.float32
    assert scores.abs().max().item() == pytest.approx(math.sqrt(6 / (4 * 9)))


def test_scores_drawn_anew_follow_the_seed_and_keep_the_range() -> None:
    def drawn(seed: int) -> list[Tensor]:
        network, pruner = new_network(), Hydra(score_init="kaiming")
        pruner.run_seed = seed
        pruner.attach(network, 0.5)
        layers = masked_layers(network.backbone)
        return [layer.scores.detach() for _, layer in layers if layer.scores is not None]

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    for scores in first:
        bound = math.sqrt(6 / scores[0].numel())
        assert bound / 2 < scores.abs().max() <= bound
        assert scores.std() == pytest.approx(bound / math.sqrt(3), rel=0.4)


def test_an_unknown_initialisation_is_refused() -> None:
    with pytest.raises(UserError, match="'scaled' or 'kaiming', got 'xavier'"):
        Hydra(score_init="xavier")  # type: ignore[arg-type]


def test_a_layer_of_zeros_is_refused_by_name() -> None:  # T-1c
    network = new_network()
    nn.init.zeros_(network.backbone.conv2.weight)
    with pytest.raises(UserError, match="weights of layer 'conv2' are zero"):
        Hydra().attach(network, 0.5)


def test_attaching_creates_scores_and_freezes_everything_else() -> None:
    network = new_network()
    Hydra().attach(network, 0.5)
    learned = {name for name, p in network.named_parameters() if p.requires_grad}
    scores = {f"backbone.{name}.scores" for name in ("conv1", "conv2", "head")}
    assert learned == {*scores, "prompt.delta"}


def test_attaching_twice_changes_nothing() -> None:
    network, pruner = new_network(), Hydra()
    pruner.attach(network, 0.5)
    Loop(network, pruner).run(2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    scores = [layer.scores for _, layer in masked_layers(network.backbone)]
    pruner.attach(network, 0.5)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(
        layer.scores is score
        for (_, layer), score in zip(masked_layers(network.backbone), scores, strict=True)
    )


def test_finding_leaves_weights_biases_and_affine_bit_identical() -> None:
    network, pruner = new_network(), Hydra()
    before = own_state(network)
    masks = copy.deepcopy(get_masks(network.backbone))
    pruner.attach(network, 0.5)
    Loop(network, pruner).run(6)
    after = own_state(network)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert any(not torch.equal(m, masks[n]) for n, m in get_masks(network.backbone).items())


@pytest.mark.parametrize("sparsity", [0, 0.5, 0.9, 0.95, 0.999])
def test_every_step_keeps_exactly_the_requested_count(sparsity: float) -> None:
    network, pruner = new_network(), Hydra()
    pruner.attach(network, sparsity)
    loop = Loop(network, pruner)
    total = sparsity_report(network.backbone).total
    for batch in toy_batches(5):
        assert sparsity_report(network.backbone).kept == total - math.floor(sparsity * total)
        pruner.step(loop, "prompted", batch)
    assert sparsity_report(network.backbone).kept == total - math.floor(sparsity * total)


def test_layer_scope_keeps_the_requested_share_of_every_layer() -> None:
    network, pruner = new_network(), Hydra(scope="layer")
    pruner.attach(network, 0.75)
    Loop(network, pruner).run(3)
    assert set(sparsity_report(network.backbone).per_layer.values()) == {0.75}


def test_the_masks_are_those_above_the_threshold() -> None:
    network, pruner = new_network(), Hydra()
    pruner.attach(network, 0.5)
    Loop(network, pruner).run(3)
    for _, layer in masked_layers(network.backbone):
        assert torch.equal(layer.mask, layer.scores.abs() > pruner.threshold)


def test_pruned_weights_can_return() -> None:
    network, pruner = new_network(), Hydra()
    pruner.attach(network, 0.5)
    pruned = {name: ~mask for name, mask in get_masks(network.backbone).items()}
    Loop(network, pruner).run(6)
    assert any(bool((get_masks(network.backbone)[n] & was).any()) for n, was in pruned.items())


def test_finishing_keeps_the_masks_drops_the_scores_and_thaws() -> None:
    network, pruner = new_network(), Hydra()
    pruner.attach(network, 0.8)
    Loop(network, pruner).run(3)
    masks = copy.deepcopy(get_masks(network.backbone))
    pruner.finish(network, 0.8)
    assert all(torch.equal(mask, masks[n]) for n, mask in get_masks(network.backbone).items())
    assert not any(key.endswith("scores") for key in network.state_dict())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_finishing_refuses_scores_that_are_not_numbers() -> None:
    network, pruner = new_network(), Hydra()
    pruner.attach(network, 0.8)
    with torch.no_grad():
        network.backbone.conv2.scores[0, 0, 0, 0] = math.nan
    with pytest.raises(UserError, match="layer 'conv2' has scores that are NaN"):
        pruner.finish(network, 0.8)


def test_a_second_finding_starts_from_the_weights_again() -> None:
    network, pruner = new_network(), Hydra()
    pruner.attach(network, 0.8)
    Loop(network, pruner).run(2)
    pruner.finish(network, 0.8)
    Hydra().attach(network, 0.5)
    report = sparsity_report(network.backbone)
    assert report.kept == report.total / 2


def test_the_prompt_has_an_optimiser_group_of_its_own() -> None:
    network = new_network()
    Hydra().attach(network, 0.5)
    groups = {group["name"]: group["params"] for group in parameter_groups(network)}
    assert [parameter is network.prompt.delta for parameter in groups["prompt"]] == [True]
    assert len(groups["backbone"]) == 3


def test_without_a_prompt_there_is_one_optimiser_group() -> None:
    network = new_network(prompt=False)
    Hydra().attach(network, 0.5)
    assert [group["name"] for group in parameter_groups(network)] == ["backbone"]


def test_the_plain_view_leaves_the_prompt_alone() -> None:
    network, pruner = new_network(), Hydra()
    pruner.attach(network, 0.5)
    loop = Loop(network, pruner)
    loop.run(2)
    delta = network.prompt.delta.detach().clone()
    pruner.step(loop, "plain", toy_batches(1)[0])
    assert bool(delta.any())
    assert torch.equal(network.prompt.delta, delta)


def test_a_network_with_nothing_to_prune_is_refused() -> None:
    network = PromptedClassifier(ToyNet(), 4, prompt=PadPrompt(12, 2), exclude=[".*"])
    with pytest.raises(UserError):
        Hydra().attach(network, 0.5)
