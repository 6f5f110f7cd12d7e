"""One-shot pruners inside the whole pipeline: results, costs, early stop, killed and resumed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

import vpns_lightning as vpns
from toy_run import KillAt, Killed, Parts
from vpns_lightning.sparsity import get_masks

BUILD: dict[str, Callable[[], vpns.Pruner]] = {
    "Random": vpns.Random,
    "OMP": vpns.OMP,
    "SNIP": lambda: vpns.SNIP(samples_per_class=6),
    "GraSP": lambda: vpns.GraSP(samples_per_class=6, chunk=5),
    "SynFlow": lambda: vpns.SynFlow(rounds=6),
    "Wanda": lambda: vpns.Wanda(samples_per_class=6),
}
# forward-backward passes of finding. 24 of the 48 images, found in two batches of 16; GraSP takes
# one pass a chunk of up to 5 images and three more for each chunk of its second look
PASSES = {"Random": 0, "OMP": 0, "SNIP": 2, "SynFlow": 6, "Wanda": 2}


def parts_of(name: str, **options: Any) -> Parts:
    return Parts(pruner=BUILD[name](), epochs=1, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Parts, dict[str, Any]]]:
    runs = {}
    for name in BUILD:
        parts = parts_of(name)
        runs[name] = (parts, parts.fit(tmp_path_factory.mktemp(name)))
    return runs


@pytest.mark.parametrize("name", BUILD)
def test_a_whole_run_states_method_sparsity_and_cost(
    finished: dict[str, tuple[Parts, dict[str, Any]]], name: str
) -> None:
    _, result = finished[name]
    find = result["stages"]["find"]
    total = result["weights_prunable"]
    assert result["method"] == f"VPNs w. {name}"
    assert result["weights_kept"] == total - int(0.8 * total + 1e-6)
    assert (find["epochs"], find["gradient_steps"]) == (0, 0)
    assert find["seconds"] is not None
    if name in PASSES:
        assert find["forward_backward_passes"] == PASSES[name]
    else:
        assert find["forward_backward_passes"] % 4 == 0
    assert result["gradient_steps"] == 6  # of warm-up and tuning


@pytest.mark.parametrize("name", BUILD)
def test_finding_changes_neither_weights_nor_prompt(tmp_path: Path, name: str) -> None:
    parts = parts_of(name)
    parts.tune.epochs = 0
    before = {n: p.detach().clone() for n, p in parts.network.named_parameters()}
    parts.warmup.epochs = 0
    parts.fit(tmp_path)
    head = "backbone.head"  # sliced to the mapped rows
    for parameter_name, parameter in parts.network.named_parameters():
        if not parameter_name.startswith(head):
            # tuning zeroes what is pruned
            kept = parameter != 0
            assert torch.equal(parameter[kept], before[parameter_name][kept])


def assert_same(one: Parts, other: Parts) -> None:
    expected = other.network.state_dict()
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, expected[name]), name


class SavedAt(pl.Callback):
    """Save after a batch of finding, as a signal does, then die."""

    def __init__(self, folder: Path, batch: int) -> None:
        self.folder, self.batch = folder, batch

    def __deepcopy__(self, memo: object) -> "SavedAt":
        return self

    def on_train_batch_end(
        self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (stage.name, batch_idx) == ("find", self.batch):
            trainer.save_checkpoint(self.folder / "find" / "last.ckpt")
            trainer.strategy.checkpoint_io.teardown()
            raise Killed


class KilledBeforeRanking(pl.Callback):
    """Die between the last checkpoint of finding and its masks."""

    def on_train_end(self, trainer: pl.Trainer, stage: Any) -> None:
        if stage.name == "find":
            trainer.strategy.checkpoint_io.teardown()
            raise Killed


@pytest.mark.parametrize("name", ["SNIP", "GraSP", "Wanda"])
@pytest.mark.parametrize("moment", ["first batch", "last batch", "ranking", "no checkpoint"])
def test_killed_and_resumed_finds_the_same(
    finished: dict[str, tuple[Parts, dict[str, Any]]], tmp_path: Path, name: str, moment: str
) -> None:
    KillAt.fired = False
    callback = {
        "first batch": SavedAt(tmp_path, 0),
        "last batch": SavedAt(tmp_path, 1),
        "ranking": KilledBeforeRanking(),
        "no checkpoint": KillAt("find", 0, 0),
    }[moment]
    with pytest.raises(Killed):
        parts_of(name).fit(tmp_path, callback)
    assert (tmp_path / "find" / "last.ckpt").is_file() == (moment != "no checkpoint")
    resumed = parts_of(name)
    result = resumed.fit(tmp_path)
    whole, expected = finished[name]
    assert_same(resumed, whole)
    assert result["forward_backward_passes"] == expected["forward_backward_passes"]


@pytest.mark.parametrize("name", ["Random", "SynFlow"])
def test_killed_in_tuning_and_resumed_ends_the_same(
    finished: dict[str, tuple[Parts, dict[str, Any]]], tmp_path: Path, name: str
) -> None:
    KillAt.fired = False
    with pytest.raises(Killed):
        parts_of(name).fit(tmp_path, KillAt("tune", 0, 1))
    resumed = parts_of(name)
    resumed.fit(tmp_path)
    assert_same(resumed, finished[name][0])


class Batches(pl.Callback):
    """Counts the batches of finding."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __deepcopy__(self, memo: object) -> "Batches":
        return self

    def on_train_batch_end(
        self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if stage.name == "find":
            self.seen.append(batch_idx)


@pytest.mark.parametrize(("quota", "batches"), [(2, 1), (12, 3), (50, 3)])
def test_the_epoch_ends_once_every_class_has_its_images(
    tmp_path: Path, quota: int, batches: int
) -> None:
    counter = Batches()
    parts = Parts(pruner=vpns.SNIP(samples_per_class=quota), epochs=1)
    parts.fit(tmp_path, counter)
    assert counter.seen == list(range(batches))
    assert parts.find.pruner.taken[0].tolist() == [min(quota, 12)] * 4


@pytest.mark.filterwarnings("ignore:.*many times slower than 32-true.*")
@pytest.mark.parametrize("name", ["SNIP", "GraSP", "SynFlow", "Wanda"])
def test_mixed_precision_changes_no_mask(tmp_path: Path, name: str) -> None:
    masks = []
    for precision in ("32-true", "bf16-mixed"):
        parts = parts_of(name, mapping=vpns.IdentityMapping())
        parts.warmup.epochs = 0
        parts.tune.epochs = 0
        parts.fit(tmp_path / precision, precision=precision)
        masks.append({n: b for n, b in parts.network.named_buffers() if n.endswith("mask")})
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])


def test_a_layer_left_empty_is_named(tmp_path: Path) -> None:
    parts = parts_of("OMP")
    parts.warmup.epochs = 0
    with torch.no_grad():
        parts.network.backbone.conv2.weight.mul_(1e-6)
    with pytest.warns(UserWarning, match="layer collapse: nothing is kept of layer 'conv2'"):
        result = parts.fit(tmp_path)
    assert result["collapsed_layers"] == ["conv2"]


def test_images_that_are_no_numbers_stop_the_run(tmp_path: Path) -> None:
    parts = parts_of("SNIP")
    parts.warmup.epochs = 0
    loss = parts.find.loss
    parts.find.loss = lambda view, batch: loss(view, (batch[0] * float("nan"), batch[1]))
    with pytest.raises(vpns.UserError, match="loss became NaN"):
        parts.fit(tmp_path)


def test_without_a_prompt_the_method_is_the_baseline(tmp_path: Path) -> None:
    result = parts_of("SNIP", prompt=False).fit(tmp_path)
    assert result["method"] == "SNIP"


def test_both_views_can_be_scored(tmp_path: Path) -> None:
    parts = parts_of("GraSP", views=("prompted", "plain"))
    result = parts.fit(tmp_path)
    assert result["sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert parts.find.pruner.taken.tolist() == [[6] * 4] * 2


def test_random_masks_follow_the_seed_of_the_run(tmp_path: Path) -> None:
    def masks(seed: int, pruner: vpns.Pruner) -> dict[str, torch.Tensor]:
        parts = Parts(pruner=pruner, sparsity=0.5, epochs=1)
        parts.warmup = None
        parts.fit(tmp_path / f"{seed}{pruner.seed}", seed=seed)
        return {name: mask.clone() for name, mask in get_masks(parts.network.backbone).items()}

    def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(mask, other[name]) for name, mask in one.items())

    first = masks(9, vpns.Random())
    assert not same(first, masks(17, vpns.Random()))
    assert same(first, masks(17, vpns.Random(seed=9)))
