"""The data module of every data set: splits, caches, loaders and device transforms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader

from vpns_lightning.base.batches import Batch, Stream
from vpns_lightning.base.seeds import stream_key
from vpns_lightning.data import loaders
from vpns_lightning.data.check import (
    CheckReport,
    Counts,
    check_images,
    check_labels,
    check_limits,
    check_options,
)
from vpns_lightning.data.images import keeping
from vpns_lightning.data.images.dataset import ImageDataset, IndexedBatch
from vpns_lightning.data.images.decode import OnBadImage
from vpns_lightning.data.images.sampler import EvalSampler, ViewSampler
from vpns_lightning.data.images.transforms import EvalTransform, TrainTransform
from vpns_lightning.data.layout import Layout, obtain, reading
from vpns_lightning.data.split import Split
from vpns_lightning.data.subsets import limited, stratified

SplitName: TypeAlias = Literal["train", "test"]
PartName: TypeAlias = Literal["train", "validation", "test"]


@runtime_checkable
class TrainsOnStreams(Protocol):
    """What a module that trains says of the images it wants.

    Attributes:
        name: Of the stage, in messages.
        seed_name: Of the stage in the seeds of its random streams, where that is not ``name``.
        streams: The orders of images that a batch is drawn from.
        unaugmented: Views whose images are not cropped and flipped.
    """

    name: str
    seed_name: str
    unaugmented: tuple[str, ...]

    @property
    def streams(self) -> tuple[Stream, ...]:
        """Return the orders of images that a batch is drawn from."""


class _Plainly:
    """What is assumed of a module that says nothing."""

    name = seed_name = "fit"
    unaugmented: tuple[str, ...] = ()
    streams = (Stream("prompted"),)


class ImageData(LightningDataModule, ABC):
    """Images of one data set, square, in [0, 1], augmented on the device, not normalised.

    A data set is a subclass with ``num_classes``, ``layout`` and ``read``, and ``mirrored = False``
    where a mirror image would be of another class.

    Args:
        root: Folder that holds the data set, its caches included.
        input_size: Height and width in pixels of the images the network gets, before prompting.
        batch_size: Images in a batch of one rank.
        num_workers: Processes of each loader; None takes 0 for cached images, else its share of
            the cores, at most 8.
        cache: ``source`` keeps decoded images at their own size (images of one size only) and
            resizes on the device, ``resized`` keeps them at 9/8 of the input size for training and
            at the input size for evaluation, ``none`` decodes in the workers. ``auto`` takes the
            first that fits ``cache_limit``; ``source`` only up to 64 px.
        cache_limit: Largest cache in GiB that ``auto`` makes.
        validation: Fraction of the training images, of each class alike, held out for validation.
        limit_per_class: Training images of each class, before any are held out; the same ones for
            every seed and machine, by the hash of their names. None for all.
        limit_test_per_class: Test images of each class, chosen alike. None for all.
        download: Download what is missing, where that is possible.
        on_bad_image: ``error`` stops at an image that cannot be decoded, ``skip`` logs it and goes
            on as long as at most 1 % are bad.
        seed: Seed of order, augmentation and the held-out part.

    Raises:
        UserError: A number is out of its range.
    """

    num_classes: int
    layout: ClassVar[Layout]
    counts: ClassVar[Counts | None] = None
    mirrored: ClassVar[bool] = True

    def __init__(
        self,
        root: str = "data",
        *,
        input_size: int = 224,
        batch_size: int = 256,
        num_workers: int | None = None,
        cache: keeping.CacheMode = "auto",
        cache_limit: float = 8.0,
        validation: float = 0.0,
        limit_per_class: int | None = None,
        limit_test_per_class: int | None = None,
        download: bool = True,
        on_bad_image: OnBadImage = "error",
        seed: int = 7,
    ) -> None:
        super().__init__()
        check_options(input_size, batch_size, validation, num_workers)
        check_limits(limit_per_class, limit_test_per_class)
        self.name: str = type(self).__name__
        self.root = Path(root).expanduser()
        self.input_size = input_size
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.cache = cache
        self.cache_limit = cache_limit
        self.validation = validation
        self.limit_per_class = limit_per_class
        self.limit_test_per_class = limit_test_per_class
        self.download = download
        self.on_bad_image: OnBadImage = on_bad_image
        self.seed = seed
        self.train_transform = TrainTransform(input_size, flip=self.mirrored)
        self.eval_transform = EvalTransform(input_size)
        self._splits: dict[SplitName, Split] = {}
        self._stores: keeping.Stores | None = None
        self._wanted: TrainsOnStreams = _Plainly()

    @abstractmethod
    def read(self, split: SplitName) -> Split:
        """Return files or pixels, labels and class names of one split.

        What this raises about files becomes a ``UserError`` that says which folder to fill.
        """

    def fetch(self) -> None:
        """Download and extract the data set; called only if ``layout`` says that is possible."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, in index order."""
        return tuple(self.split("train").class_names)

    def split(self, name: SplitName) -> Split:
        """Return the images in use of one split, read and verified on first use.

        Raises:
            UserError: The data set is missing, incomplete or inconsistent.
        """
        if name not in self._splits:
            limit = self.limit_per_class if name == "train" else self.limit_test_per_class
            where = f"{self.name}, {name} split"
            self._splits[name] = limited(self._whole(name), limit, where)
        return self._splits[name]

    def _whole(self, name: SplitName) -> Split:
        with reading(self.name, self.root, self.layout):
            split = self.read(name)
        check_labels(self.name, name, split, self.num_classes)
        return split

    def check(self, sample: int = 64) -> CheckReport:
        """Verify layout, counts, labels and files, and decode ``sample`` images of each split.

        Limits are left aside: the data set is checked as it is on disk.

        Raises:
            UserError: Something is wrong; the message says what, where and what to do.
        """
        splits = {"train": self._whole("train"), "test": self._whole("test")}
        return check_images(self.name, self.root, splits, self.counts, sample)

    def prepare_data(self) -> None:
        """Download what is missing and decode the cache; Lightning calls it once per machine."""
        if self.download and self.layout.downloadable and self.layout.missing(self.root):
            obtain(self.fetch, self.name, self.root, self.layout)
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Open the images, from the cache where there is one, the same for every ``stage``."""
        if self._stores is None:
            self._stores = keeping.open_stores(
                self.name,
                self.root / ".vpns_cache",
                self.split("train"),
                self.split("test"),
                keeping.Plan(self.input_size, self.cache, self.cache_limit, self.on_bad_image),
            )

    def dataset(self, part: PartName, *, augmented: bool = False) -> ImageDataset:
        """Return the uint8 images of one part.

        Args:
            part: ``train`` is without what is held out for validation.
            augmented: Whether the images are for ``train_transform``, not ``eval_transform``.
        """
        self.setup()
        assert self._stores is not None
        kind: SplitName = "test" if part == "test" else "train"
        labels = torch.tensor(self.split(kind).labels)
        rows = self._stores.good[kind]
        if kind == "train":
            held_out = stratified(labels[rows], self.validation, self.seed)
            rows = rows[held_out] if part == "validation" else rows[~held_out]
        store = self._stores.augmented if augmented else self._stores.plain[kind]
        return ImageDataset(store, labels, rows)

    def train_dataloader(self) -> CombinedLoader:
        """Return one loader for each stream of the running stage, each in an order of its own.

        A last, smaller batch is kept, unless it is one image: batch normalisation fails on that.
        """
        module = self.trainer.lightning_module if self.trainer else None
        self._wanted = module if isinstance(module, TrainsOnStreams) else _Plainly()
        epoch, batches = loaders.resume_position(self.trainer)
        world, rank = self._ranks()
        common = self._loader_options(len(self._wanted.streams))
        by_stream: dict[Stream, DataLoader[IndexedBatch]] = {}
        for stream in self._wanted.streams:
            augmented = stream.view not in self._wanted.unaugmented
            dataset = self.dataset("train", augmented=augmented)
            sampler = ViewSampler(
                dataset,
                stream,
                stage=self._seed_name,
                seed=self.seed,
                num_replicas=world,
                rank=rank,
                epoch=epoch,
                start=batches * self.batch_size,
            )
            by_stream[stream] = loaders.train_loader(dataset, sampler, **common)
        return CombinedLoader(by_stream, "min_size")

    def val_dataloader(self) -> DataLoader[IndexedBatch]:
        """Return a loader over the validation images, or the test images if none are held out."""
        return self._loader("validation" if self.validation else "test")

    def test_dataloader(self) -> DataLoader[IndexedBatch]:
        """Return a loader over the test images."""
        return self._loader("test")

    def whole_test_dataloader(self) -> DataLoader[IndexedBatch]:
        """Return a loader over all test images for this process alone, however many there are.

        Its batches hold uint8 images, to be passed through ``eval_transform`` on the device.
        """
        return self._loader("test", ranks=(1, 0))

    def mapping_dataloader(self, *, augmented: bool = False) -> DataLoader[IndexedBatch]:
        """Return a loader over the training images, in order; no two ranks see the same image.

        Its batches hold uint8 images, for ``mapping_transform`` with the same ``augmented``.
        """
        return self._loader("train", augmented=augmented)

    def mapping_transform(self, images: Tensor, rows: Tensor, *, augmented: bool = False) -> Tensor:
        """Return uint8 images as the mapping pass shows them, (N, 3, i, i) in [0, 1]."""
        if augmented:
            shown: Tensor = self.train_transform(images, rows, stream_key(self.seed, "mapping"))
        else:
            shown = self.eval_transform(images)
        return shown

    def on_after_batch_transfer(
        self, batch: IndexedBatch | dict[Stream, IndexedBatch], dataloader_idx: int
    ) -> Batch | dict[Stream, Batch]:
        """Turn uint8 images into float32 images of shape (N, 3, i, i) in [0, 1], on the device.

        Args:
            batch: Images, labels and rows; while training, for each stream.
            dataloader_idx: Unused.

        Returns:
            Images and labels; while training, for each stream.
        """
        if isinstance(batch, dict):
            return {stream: self._transformed(stream, *part) for stream, part in batch.items()}
        images, labels, _ = batch
        return self.eval_transform(images), labels

    def _transformed(self, stream: Stream, images: Tensor, labels: Tensor, rows: Tensor) -> Batch:
        if stream.view in self._wanted.unaugmented:
            return self.eval_transform(images), labels
        epoch = loaders.running_epoch(self.trainer)
        key = stream_key(self.seed, self._seed_name, stream, epoch)
        return self.train_transform(images, rows, key), labels

    @property
    def _seed_name(self) -> str:
        return self._wanted.seed_name or self._wanted.name

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _loader_options(self, count: int = 1) -> loaders.Options:
        self.setup()
        assert self._stores is not None
        decoding = self._stores.mode == "none"
        return loaders.options(self.batch_size, self.num_workers, decoding, self.trainer, count)

    def _loader(
        self, part: PartName, ranks: tuple[int, int] | None = None, *, augmented: bool = False
    ) -> DataLoader[IndexedBatch]:
        dataset = self.dataset(part, augmented=augmented)
        world, rank = ranks or self._ranks()
        sampler = EvalSampler(dataset, num_replicas=world, rank=rank)
        return loaders.eval_loader(dataset, sampler, **self._loader_options())
