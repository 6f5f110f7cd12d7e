"""What a Trainer gets from a data module."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

import toy_data
from vpns_lightning.base.batches import Stream
from vpns_lightning.base.errors import UserError
from vpns_lightning.data import Digits, EvalTransform, ImageFolder

View = tuple[Tensor, Tensor]


class Recorder(LightningModule):
    """Keeps the batches it is given."""

    def __init__(self, views: tuple[str, ...], unaugmented: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.streams = tuple(Stream(view) for view in views)
        self.unaugmented = unaugmented
        self.name, self.seed_name = "find", ""
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.trained: list[dict[str, View]] = []
        self.validated: list[View] = []

    def training_step(self, batch: dict[str, View]) -> Tensor:
        self.trained.append(batch)
        return self.weight * 0

    def validation_step(self, batch: View) -> None:
        self.validated.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(recorder: Recorder, data: Digits | ImageFolder, epochs: int = 1) -> Recorder:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(recorder, datamodule=data)
    return recorder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return toy_data.make_layout("ImageFolder", tmp_path, images_per_class=11, size=(20, 20))


def test_each_view_gets_float_images_and_labels() -> None:
    recorder = fit(Recorder(("prompted", "plain")), Digits(input_size=16, batch_size=400))
    assert len(recorder.trained) == 4
    for batch in recorder.trained:
        assert list(batch) == ["prompted", "plain"]
        for images, labels in batch.values():
            assert images.shape[1:] == (3, 16, 16)
            assert images.dtype == torch.float32
            assert images.is_contiguous(memory_format=torch.channels_last)
            assert labels.dtype == torch.int64
            assert 0 <= images.min() <= images.max() <= 1


def test_the_last_partial_batch_is_kept() -> None:
    recorder = fit(Recorder(("prompted",)), Digits(input_size=8, batch_size=400))
    assert sum(len(batch["prompted"][1]) for batch in recorder.trained) == 1437


def test_a_last_batch_of_one_image_is_dropped() -> None:
    recorder = fit(Recorder(("prompted",)), Digits(input_size=8, batch_size=359))
    assert [len(batch["prompted"][1]) for batch in recorder.trained] == [359] * 4


def test_views_see_different_images_in_a_step() -> None:
    loader = Digits(batch_size=64).train_dataloader()
    assert len(loader.iterables) == 1
    data = Digits(batch_size=64)
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    data.trainer.strategy.connect(Recorder(("prompted", "plain")))
    loaders = data.train_dataloader().iterables
    rows = [next(iter(loaders[view]))[2].tolist() for view in ("prompted", "plain")]
    assert len(set(rows[0]) & set(rows[1])) < 16


@pytest.mark.parametrize("cache", ["source", "resized", "none"])
def test_an_unaugmented_view_gets_the_evaluation_transform(root: Path, cache: str) -> None:
    data = ImageFolder(str(root), input_size=16, batch_size=33, cache=cache, num_workers=0)
    recorder = fit(Recorder(("prompted", "plain"), unaugmented=("prompted",)), data)
    images, labels = recorder.trained[0]["prompted"]
    plain = EvalTransform(16)(data.dataset("train").__getitems__(list(range(33)))[0])
    found = (images.flatten(1)[:, None] - plain.flatten(1)[None]).abs().amax(-1).argmin(1)
    assert sorted(found.tolist()) == list(range(33))
    assert torch.equal(data.dataset("train").labels[found], labels)
    assert torch.allclose(images, plain[found], atol=1e-6)
    assert not torch.allclose(recorder.trained[0]["plain"][0].sum(), plain.sum(), atol=1e-3)


def test_augmentation_changes_with_the_epoch(root: Path) -> None:
    data = ImageFolder(str(root), input_size=16, batch_size=33)
    first, second = fit(Recorder(("prompted",)), data, epochs=2).trained
    order = [batch["prompted"][0].mean((1, 2, 3)).sort().values for batch in (first, second)]
    assert not torch.allclose(order[0], order[1], atol=1e-5)


def test_validation_uses_the_test_images_by_default() -> None:
    recorder = fit(Recorder(("prompted",)), Digits(input_size=8, batch_size=400))
    assert sum(len(labels) for _, labels in recorder.validated) == 360


def test_a_held_out_part_is_stratified_seeded_and_disjoint() -> None:
    data = Digits(validation=0.1)
    rest, held_out = data.dataset("train"), data.dataset("validation")
    assert set(rest.rows.tolist()).isdisjoint(held_out.rows.tolist())
    assert len(rest) + len(held_out) == 1437
    counts = torch.bincount(held_out.labels[held_out.rows])
    assert counts.min() >= 13
    assert counts.max() <= 15
    assert torch.equal(held_out.rows, Digits(validation=0.1).dataset("validation").rows)
    assert not torch.equal(held_out.rows, Digits(validation=0.1, seed=8).dataset("validation").rows)
    assert sum(len(rows) for _, _, rows in data.test_dataloader()) == 360


@pytest.mark.parametrize("validation", [-0.1, 1.0])
def test_a_validation_fraction_outside_its_range_is_refused(validation: float) -> None:
    with pytest.raises(UserError, match=r"validation must be in \[0, 1\)"):
        Digits(validation=validation)


def test_a_validation_fraction_that_holds_out_nothing_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match="holds out 0 of 33"):
        ImageFolder(str(root), validation=0.01).dataset("validation")


@pytest.mark.parametrize("option", ["input_size", "batch_size"])
def test_a_size_below_one_is_refused(option: str) -> None:
    options: dict[str, Any] = {option: 0}
    with pytest.raises(UserError, match="must be >= 1, got"):
        Digits(**options)


def test_mapping_loader_gives_training_images_in_order() -> None:
    data = Digits(input_size=16, validation=0.2, batch_size=100)
    batches = list(data.mapping_dataloader())
    rows = torch.cat([rows for _, _, rows in batches])
    assert torch.equal(rows, data.dataset("train").rows)
    assert data.eval_transform(batches[0][0]).shape == (100, 3, 16, 16)


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_leave_the_global_generator_alone(workers: int) -> None:
    data = Digits(batch_size=500, num_workers=workers)
    before = torch.get_rng_state()
    for loader in (data.train_dataloader().iterables["prompted"], data.val_dataloader()):
        list(loader)
    assert torch.equal(before, torch.get_rng_state())


def test_cached_images_need_no_workers() -> None:
    assert Digits().train_dataloader().iterables["prompted"].num_workers == 0


def test_real_images_learn_nothing_from_a_cache_but_speed() -> None:
    folder = Path(os.environ.get("VPNS_TEST_DATA", "")) / "cifar10"
    if not folder.is_dir():
        pytest.skip("needs a CIFAR-10 image folder, cifar10/{train,test}, in $VPNS_TEST_DATA")
    data = ImageFolder(str(folder), input_size=64, cache="none", num_workers=0)
    decoded = data.dataset("test").__getitems__([0, 700, 1999])[0]
    cached = ImageFolder(str(folder), input_size=64, cache="source")
    pixels = cached.eval_transform(cached.dataset("test").__getitems__([0, 700, 1999])[0])
    assert (pixels - decoded / 255).abs().max() <= 1 / 255 + 1e-5
