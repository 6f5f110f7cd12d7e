"""BiP: the upper gradient by hand, what each step moves, and how its variants are related."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruners.test_learned_scores import new_network
from reference.toy_networks import toy_batches
from stages.test_stages import ScalarReads
from stages.toy_training import QUIET, ToyData, fit
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import IdentityMapping, PromptedClassifier
from vpns_lightning.pruners import BiP
from vpns_lightning.sparsity import masked_layers, sparsity_report
from vpns_lightning.stages import MaskFinding

pytestmark = [pytest.mark.filterwarnings(message) for message in QUIET]


def views(count: int = 3) -> ToyData:
    return ToyData(
        **{
            "prompted:weights": toy_batches(count, seed=1),
            "prompted:scores": toy_batches(count, seed=2),
        }
    )


def found(pruner: BiP, sparsity: float = 0.5) -> MaskFinding:
    torch.manual_seed(0)
    stage = MaskFinding(
        new_network(),
        pruner,
        sparsity=sparsity,
        epochs=2,
        optimizer=lambda groups: torch.optim.Adam(groups, lr=0.02),
    )
    fit(stage, views())
    return stage


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("full", [-2.0004, -3.0, -3.9984]),
        ("first_order", [-2.0, -3.0, -4.0]),
        ("code", [-2.0004, -3.0009, -4.0016]),
    ],
)
def test_the_upper_gradient_of_the_specification(variant: Any, expected: list[float]) -> None:
    # T-2.8: masked weight z, gradient g = [-2, -1, -4] at it, theta * g = [-2, -3, 4]
    linear = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 3.0, -1.0]]))
    network = PromptedClassifier(linear, 1, mapping=IdentityMapping())
    pruner = BiP(variant=variant)
    (layer,) = [layer for _, layer in masked_layers(network.backbone)]
    layer.scores = nn.Parameter(torch.tensor([[0.9, 0.2, -0.5]]))
    layer.mask.copy_(torch.tensor([[True, False, True]]))
    (layer.effective_weight() * torch.tensor([[-2.0, -1.0, -4.0]])).sum().backward()
    pruner._upper = True
    pruner.regularize(network)
    torch.testing.assert_close(layer.scores.grad, torch.tensor([expected]), atol=1e-6, rtol=0)


def same(one: MaskFinding, other: MaskFinding) -> bool:
    theirs = other.network.state_dict()
    return all(torch.equal(value, theirs[n]) for n, value in one.network.state_dict().items())


def test_without_the_second_term_full_is_first_order_in_the_same_order() -> None:
    full = found(BiP(inverse_gamma=0.0))
    assert same(full, found(BiP(variant="first_order", scores_first=False)))
    assert not same(full, found(BiP(variant="first_order")))
    assert not same(full, found(BiP(inverse_gamma=10.0)))


class Steps:
    """The stage, one batch at a time."""

    def __init__(self, pruner: BiP, sparsity: float = 0.5) -> None:
        self.network, self.pruner = new_network(), pruner
        pruner.attach(self.network, sparsity)
        build = lambda groups: torch.optim.Adam(list(groups), lr=0.02)  # noqa: E731
        self.both = pruner.optimizers(self.network, build)
        self.both[1].register_step_pre_hook(lambda *_: pruner.regularize(self.network))
        self.shuffle = ""

    def loss(self, view: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return self.both

    def manual_backward(self, loss: Tensor) -> None:
        loss.backward()

    def moved_by(self, shuffle: str) -> set[str]:
        """Return what parameters a step of one shuffle changes."""
        before = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        self.shuffle = shuffle
        self.pruner.step(self, "prompted", toy_batches(1)[0])
        now = self.network.named_parameters()
        return {name for name, p in now if not torch.equal(p, before[name])}


def test_the_lower_step_moves_weights_and_the_upper_one_scores_and_prompt() -> None:
    steps = Steps(BiP())
    scores = {f"backbone.{name}.scores" for name in ("conv1", "conv2", "head")}
    names = {name for name, _ in steps.network.named_parameters()}
    assert steps.moved_by("weights") == names - scores - {"prompt.delta"}
    assert steps.moved_by("scores") == {*scores, "prompt.delta"}


def test_the_released_code_moves_scores_with_weights_and_normalisation_twice() -> None:
    steps = Steps(BiP(variant="code"))
    names = {name for name, _ in steps.network.named_parameters()}
    biases = {"backbone.conv2.bias", "backbone.head.bias"}  # of convolutions and linear layers
    assert steps.moved_by("weights") == names - {"prompt.delta"}
    assert steps.moved_by("scores") == names - biases
    for _, layer in masked_layers(steps.network.backbone):
        assert torch.equal(layer.scores, layer.weight)


def test_the_released_code_s_second_term_is_on_normalisation_too() -> None:
    network, pruner = new_network(), BiP(variant="code", inverse_gamma=0.5)
    pruner.attach(network, 0.5)
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    pruner._upper = True
    pruner.regularize(network)
    # 0.5 - 0.5 * 0.5 ** 2
    changed = {n for n, p in network.named_parameters() if bool((p.grad == 0.375).all())}
    norms = {f"backbone.bn{i}.{leaf}" for i in (1, 2) for leaf in ("weight", "bias")}
    scores = {f"backbone.{name}.scores" for name in ("conv1", "conv2", "head")}
    assert changed == norms | scores
    assert bool((network.prompt.delta.grad == 0.5).all())


def test_what_the_released_code_holds_twice_decays_twice() -> None:
    pruner = BiP(variant="code", weight_decay=0.2)
    network = new_network()
    pruner.attach(network, 0.5)
    build = lambda groups: torch.optim.SGD(list(groups), lr=0.1, weight_decay=0.3)  # noqa: E731
    lower, upper = pruner.optimizers(network, build)
    names = {id(p): name for name, p in network.named_parameters()}
    decays = [
        {
            names[id(p)]: group["weight_decay"]
            for group in each.param_groups
            for p in group["params"]
        }
        for each in (lower, upper)
    ]
    shared = {f"backbone.{name}" for name in ("conv1", "conv2", "head")}
    assert {n for n, d in decays[0].items() if d == 0.4} == {f"{name}.weight" for name in shared}
    assert {n for n, d in decays[1].items() if d == 0.6} == {f"{name}.scores" for name in shared}
    assert set(decays[0].values()) == {0.2, 0.4}
    assert set(decays[1].values()) == {0.3, 0.6}


def test_the_order_of_steps_is_the_paper_s_unless_first_order_is_asked_for() -> None:
    assert BiP().shuffles == BiP(variant="code").shuffles == ("weights", "scores")
    assert BiP(variant="first_order").shuffles == ("scores", "weights")
    assert BiP(scores_first=True).shuffles == ("scores", "weights")


@pytest.mark.parametrize("sparsity", [0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
def test_every_step_keeps_exactly_the_requested_count(sparsity: float) -> None:
    steps = Steps(BiP(), sparsity)
    total = sparsity_report(steps.network.backbone).total
    expected = total - math.floor(round(sparsity * total, 6))
    for shuffle in ("weights", "scores", "weights", "scores"):
        steps.moved_by(shuffle)
        assert sparsity_report(steps.network.backbone).kept == expected
    steps.pruner.finish(steps.network, sparsity)
    assert sparsity_report(steps.network.backbone).kept == expected


def test_a_step_reads_no_scalar() -> None:
    stage = MaskFinding(new_network(), BiP(), sparsity=0.5, epochs=1)
    reads, step = ScalarReads(), stage.training_step

    def counted(batch: Any, batch_idx: int) -> None:
        with reads:
            step(batch, batch_idx)

    stage.training_step = counted  # type: ignore[method-assign]
    fit(stage, views())
    assert stage.passes == 6
    assert reads.counts == {}


def test_the_trained_weights_are_what_it_leaves() -> None:
    stage = found(BiP())
    weight = stage.network.backbone.conv2.weight.detach().clone()
    stage.pruner.finish(stage.network, 0.5)
    assert torch.equal(stage.network.backbone.conv2.weight, weight)
    assert not torch.equal(weight, new_network().backbone.conv2.weight)
    assert all(layer.scores is None for _, layer in masked_layers(stage.network.backbone))


def test_the_lower_optimiser_has_arguments_of_its_own() -> None:
    pruner = BiP(weight_lr=0.3, weight_momentum=0.1, weight_decay=0.2)
    lower, upper = Steps(pruner).both
    group = lower.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.3, 0.1, 0.2)
    assert [group["name"] for group in upper.param_groups] == ["backbone", "prompt"]


def test_float16_is_refused_where_gradients_are_combined() -> None:
    stage = MaskFinding(new_network(), BiP(), sparsity=0.5, epochs=1)
    stage._trainer = type("Half", (), {"precision": "16-mixed"})()
    with pytest.raises(UserError, match=r"combines gradients that trainer\.precision 16-mixed"):
        stage.make_optimizers()
    stage.pruner = BiP(variant="code")
    with pytest.raises(UserError, match="combines gradients"):
        stage.make_optimizers()
    stage.pruner = BiP(variant="first_order")
    stage.pruner.attach(stage.network, 0.5)
    assert len(stage.make_optimizers()) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "second_order"}, "variant must be 'full', 'first_order' or 'code'"),
        ({"inverse_gamma": -1.0}, r"inverse_gamma must be >= 0, got -1\.0"),
        ({"weight_lr": -0.1}, r"weight_lr must be >= 0, got -0\.1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        BiP(**options)
