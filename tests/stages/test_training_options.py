"""Loss, clipping, accumulation, mixing, schedules and averages, each against its formula."""

import copy
import math
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR, LinearLR

from reference.toy_networks import ToyViT
from stages.toy_training import QUIET, ToyData, fit, new_network, recorded, views_of
from vpns_lightning.base.errors import UserError
from vpns_lightning.base.seeds import derive_seed
from vpns_lightning.pruners import OMP, SNIP, BiP, Hydra, RigL
from vpns_lightning.stages import (
    EMA,
    SWA,
    InSequence,
    MaskFinding,
    Stage,
    SubnetworkTuning,
    WarmupCosine,
    rehearse,
)

pytestmark = [pytest.mark.filterwarnings(text) for text in QUIET]


def plain_sgd(params: Any) -> SGD:
    return SGD(params, lr=0.1, fused=True)


def tuning(network: Any = None, **options: Any) -> SubnetworkTuning:
    given = {"epochs": 1, "optimizer": plain_sgd, **options}
    return SubnetworkTuning(network or new_network(), **given)


def values(stage: Stage) -> list[torch.Tensor]:
    return [value.detach().clone() for value in stage.network.parameters()]


def test_a_loss_given_by_its_class_is_what_is_minimised() -> None:
    stage = tuning(loss=nn.CrossEntropyLoss(label_smoothing=0.3))
    images, labels = views_of(1)["prompted"][0]
    logits = copy.deepcopy(stage.network)(images, prompted=True)
    losses = recorded(stage)
    fit(stage, ToyData(**views_of(1)))
    assert losses[0] == functional.cross_entropy(logits, labels, label_smoothing=0.3).item()


@pytest.mark.parametrize("norm", [1e-3, 1e3])
def test_clipped_gradients_have_the_norm_asked_for_and_small_ones_stay(norm: float) -> None:
    stage, free = tuning(clip_norm=norm), tuning()
    moves = []
    for each in (stage, free):
        before = values(each)
        fit(each, ToyData(**views_of(1)))
        pairs = zip(values(each), before, strict=True)
        moves.append(torch.cat([(new - old).flatten() for new, old in pairs]) / 0.1)
    clipped, whole = moves
    expected = whole * min(1.0, norm / float(whole.norm()))
    torch.testing.assert_close(clipped, expected, rtol=1e-3, atol=1e-6)


class Prunes:
    """Pruners whose steps accumulate, made anew for each stage."""

    def __init__(self, name: str) -> None:
        self.name = name

    def stage(self, **options: Any) -> Stage:
        network = new_network(backbone=ToyViT())
        if self.name == "tune":
            return tuning(network, views=("prompted", "plain"), **options)
        pruners = {
            "Hydra": Hydra,
            "BiP": BiP,
            "RigL": lambda: RigL(every=2, until=1.0),
        }
        return MaskFinding(
            network, pruners[self.name](), sparsity=0.5, epochs=1, optimizer=plain_sgd, **options
        )


class Shuffled(ToyData):
    """Gives each of a pruner's shuffles the same batches."""

    def __init__(self, stage: Stage) -> None:
        views = views_of(3, size=10)
        super().__init__(**{stream: views[stream.view] for stream in stage.streams})


@pytest.mark.parametrize("name", ["tune", "Hydra", "BiP"])
def test_accumulated_parts_make_the_step_of_the_whole_batch(name: str) -> None:
    whole, parted = Prunes(name).stage(), Prunes(name).stage(accumulate=3)
    sizes: list[int] = []
    loss_of = parted.loss
    parted.loss = lambda view, batch: (sizes.append(len(batch[1])), loss_of(view, batch))[1]  # type: ignore[method-assign,func-returns-value]
    steps = [fit(stage, Shuffled(stage)).global_step for stage in (whole, parted)]
    assert set(sizes) == {2}
    assert steps[0] == steps[1]
    assert whole.passes == parted.passes
    for one, other in zip(values(parted), values(whole), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_rigl_grows_by_gradients_of_all_parts() -> None:
    stage = Prunes("RigL").stage(accumulate=3)
    fit(stage, Shuffled(stage))
    whole = Prunes("RigL").stage()
    fit(whole, Shuffled(whole))
    for one, other in zip(values(stage), values(whole), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pruner", [OMP, SNIP])
def test_a_pruner_without_steps_refuses_to_accumulate(pruner: type[Any]) -> None:
    with pytest.raises(UserError, match=rf"find\.accumulate .* {pruner.__name__} takes none"):
        MaskFinding(new_network(), pruner(), sparsity=0.5, accumulate=2)


def test_mixup_learns_from_shares_of_two_images_drawn_for_that_batch() -> None:
    stage = tuning(mixup=0.4)
    images, labels = views_of(1)["prompted"][0]
    network = copy.deepcopy(stage.network)
    losses = recorded(stage)
    fit(stage, ToyData(**views_of(1)))
    torch.manual_seed(derive_seed(stage.seed, "tune", 0, 0, 0))
    torch.multinomial(torch.ones(1), 1)  # which of the ways of mixing
    share = float(torch.distributions.Beta(torch.tensor([0.4]), torch.tensor([0.4])).sample(()))
    logits = network(share * images + (1 - share) * images.roll(1, 0), prompted=True)
    both = (functional.cross_entropy(logits, each) for each in (labels, labels.roll(1, 0)))
    expected = share * next(both) + (1 - share) * next(both)
    assert losses[0] == pytest.approx(expected.item(), rel=1e-5)


def test_both_ways_of_mixing_take_turns_and_parts_are_mixed_once() -> None:
    stage = tuning(mixup=1.0, cutmix=1.0, accumulate=2, epochs=3)
    shown: list[torch.Tensor] = []
    loss_of = stage.loss

    def look(view: str, batch: Any) -> torch.Tensor:
        shown.append(batch[1])
        return loss_of(view, batch)

    stage.loss = look  # type: ignore[method-assign]
    fit(stage, ToyData(**views_of(2)))
    assert all(targets.shape == (3, 4) for targets in shown)
    torch.testing.assert_close(torch.cat(shown).sum(1), torch.ones(36))


def rates(build: Any, epochs: int) -> list[float]:
    stage = tuning(lr_scheduler=build, epochs=epochs)
    optimizer = stage.make_optimizers()[0]
    scheduler, found = stage.make_scheduler(optimizer), []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"] / 0.1)
        optimizer.step()
        scheduler.step()
    return found


def test_a_rise_and_a_cosine_over_the_epochs_of_the_stage() -> None:
    found = rates(lambda o: WarmupCosine(o, 2, start_factor=0.5), 6)
    cosine = [(1 + math.cos(math.pi * e / 4)) / 2 for e in range(4)]
    assert found == pytest.approx([0.5, 0.75, *cosine])


def test_schedules_follow_each_other() -> None:
    parts = [lambda o: LinearLR(o, 0.5, 1.0, 2), lambda o: ConstantLR(o, 0.25, 9)]
    assert rates(lambda o: InSequence(o, parts, [2]), 4) == pytest.approx([0.5, 0.75, 0.25, 0.25])


class States(pl.Callback):
    """Copies of all parameters after each iteration."""

    def __init__(self) -> None:
        self.seen: list[list[torch.Tensor]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, stage: Any, *args: Any) -> None:
        self.seen.append(values(stage))


def test_an_exponential_average_is_handed_on() -> None:
    stage, states = tuning(average=EMA(0.8), epochs=2), States()
    fit(stage, ToyData(**views_of(3)), callbacks=[states])
    expected = states.seen[0]
    for now in states.seen[1:]:
        expected = [0.8 * old + 0.2 * new for old, new in zip(expected, now, strict=True)]
    for one, other in zip(values(stage), expected, strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.equal(values(stage)[0], states.seen[-1][0])


def test_a_mean_of_epochs_is_handed_on_and_validated_but_not_trained() -> None:
    stage, states = tuning(average=SWA(from_epoch=1), epochs=4), States()
    fit(stage, ToyData(**views_of(3)), callbacks=[states])
    ends = [states.seen[3 * epoch + 2] for epoch in (1, 2, 3)]
    for one, *others in zip(values(stage), *ends, strict=True):
        torch.testing.assert_close(one, torch.stack(others).mean(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": nn.CrossEntropyLoss(reduction="sum")}, r"reduction is 'sum'"),
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, r"reduction is 'none'"),
        ({"loss": nn.BCELoss()}, r"tune\.loss"),
        ({"loss": nn.MultiMarginLoss(), "mixup": 0.2}, r"tune\.loss"),
        ({"loss": nn.Linear(4, 4)}, r"Linear has parameters"),
        ({"lr_scheduler": lambda o: WarmupCosine(o, 3)}, r"rises for 3 epochs, .* spans 3"),
        ({"average": SWA(from_epoch=3)}, r"tune\.average: SWA starts from epoch 3"),
    ],
)
def test_what_cannot_work_is_refused_before_any_step(options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rehearse(tuning(epochs=3, **options))


@pytest.mark.parametrize(
    ("name", "value"), [("clip_norm", 0.0), ("accumulate", 0), ("mixup", 0.0), ("cutmix", -1.0)]
)
def test_numbers_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=name):
        tuning(**{name: value})
    for build, bad in ((EMA, 1.0), (SWA, -1)):
        with pytest.raises(UserError, match=build.__name__):
            build(bad)
