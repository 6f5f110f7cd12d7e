"""What a Trainer gets of a data module: a loader for each stream, and transforms on the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader

from vpns_lightning.base.batches import Batch, Stream
from vpns_lightning.base.seeds import stream_key
from vpns_lightning.data import loaders
from vpns_lightning.data.images.dataset import ImageDataset, IndexedBatch
from vpns_lightning.data.images.sampler import EvalSampler, ViewSampler
from vpns_lightning.data.images.transforms import EvalTransform, TrainTransform

PartName: TypeAlias = Literal["train", "validation", "test"]


@runtime_checkable
class TrainsOnStreams(Protocol):
    """What a module that trains says of the images it wants.

    One that has ``accumulate`` gets that many batches at once, as one.

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


class Feeding(LightningDataModule, ABC):
    """Loaders over the parts of a data set, and what happens to their batches on the device.

    Args:
        input_size: Height and width in pixels of the images the network gets, before prompting.
        batch_size: Images in a batch of one rank.
        num_workers: Processes of each loader; None chooses.
        validation: Fraction of the training images held out for validation.
        seed: Seed of order, augmentation and the held-out part.
    """

    mirrored: ClassVar[bool] = True

    def __init__(
        self,
        *,
        input_size: int,
        batch_size: int,
        num_workers: int | None,
        validation: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.validation = validation
        self.seed = seed
        self.train_transform = TrainTransform(input_size, flip=self.mirrored)
        self.eval_transform = EvalTransform(input_size)
        self._wanted: TrainsOnStreams = _Plainly()

    @abstractmethod
    def dataset(self, part: PartName, *, augmented: bool = False) -> ImageDataset:
        """Return the uint8 images of one part.

        Args:
            part: ``train`` is without what is held out for validation.
            augmented: Whether the images are for ``train_transform``, not ``eval_transform``.
        """

    def train_dataloader(self) -> CombinedLoader:
        """Return one loader for each stream of the running stage, each in an order of its own.

        A last, smaller batch is kept, unless it is one image: batch normalisation fails on that.
        """
        module = self.trainer.lightning_module if self.trainer else None
        self._wanted = module if isinstance(module, TrainsOnStreams) else _Plainly()
        epoch, batches = loaders.resume_position(self.trainer)
        size = self.batch_size * getattr(self._wanted, "accumulate", 1)
        world, rank = self._ranks()
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
                start=batches * size,
            )
            options = self._loader_options(dataset, len(self._wanted.streams))
            options["batch_size"] = size
            by_stream[stream] = loaders.train_loader(dataset, sampler, **options)
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

    def _loader_options(self, dataset: ImageDataset, count: int = 1) -> loaders.Options:
        decodes = dataset.store.decodes
        return loaders.options(self.batch_size, self.num_workers, decodes, self.trainer, count)

    def _loader(
        self, part: PartName, ranks: tuple[int, int] | None = None, *, augmented: bool = False
    ) -> DataLoader[IndexedBatch]:
        dataset = self.dataset(part, augmented=augmented)
        world, rank = ranks or self._ranks()
        sampler = EvalSampler(dataset, num_replicas=world, rank=rank)
        return loaders.eval_loader(dataset, sampler, **self._loader_options(dataset))
