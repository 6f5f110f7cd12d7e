"""Images of no data set, to be classified."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vpns_lightning.base.errors import UserError
from vpns_lightning.data import loaders
from vpns_lightning.data.folders import IMAGE_SUFFIXES, scan
from vpns_lightning.data.images.decode import decode, resize
from vpns_lightning.data.images.sampler import EvalSampler
from vpns_lightning.data.images.transforms import EvalTransform
from vpns_lightning.data.workers import handing_back


def image_files(folder: Path) -> list[Path]:
    """Return the image files below a folder in the order of their names, or one file itself.

    Raises:
        UserError: There is none.
    """
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: name a folder of images, or one image")
    files = sorted(map(Path, scan(folder).images))
    if not files:
        raise UserError(f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return files


class ImageFiles(Dataset["tuple[Tensor, Tensor]"]):
    """Batches of image files, read and resized as in evaluation.

    Args:
        files: The files.
        size: Height and width of the images in px.
        exif_rotation: Whether images are turned as their EXIF data say.
    """

    def __init__(self, files: Sequence[Path], size: int, *, exif_rotation: bool = False) -> None:
        self.files = files
        self.size = size
        self.exif_rotation = exif_rotation

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.files)

    @handing_back
    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return uint8 images of shape (N, 3, size, size) and their positions.

        Raises:
            BadImageError: A file cannot be decoded.
        """
        images = torch.empty(len(indices), self.size, self.size, 3, dtype=torch.uint8)
        for place, index in enumerate(indices):
            image = decode(self.files[index], exif_rotation=self.exif_rotation)
            images[place] = torch.from_numpy(resize(image, self.size).copy())
        return images.permute(0, 3, 1, 2), torch.tensor(indices)


class Unlabelled(LightningDataModule):
    """Image files for ``Trainer.predict``: each once, whatever the number of devices.

    Args:
        dataset: The files.
        batch_size: Images at a time, on each device.
        num_workers: Processes that decode; None takes a share of the cores.
    """

    def __init__(
        self, dataset: ImageFiles, *, batch_size: int = 64, num_workers: int | None = None
    ) -> None:
        super().__init__()
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.transform = EvalTransform(dataset.size)

    def predict_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return a loader over this process's files."""
        trainer = self.trainer
        world, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        options = loaders.options(self.batch_size, self.num_workers, True, trainer)
        sampler = EvalSampler(self.dataset, num_replicas=world, rank=rank)
        return loaders.eval_loader(self.dataset, sampler, **options)

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, Tensor], dataloader_idx: int
    ) -> tuple[Tensor, Tensor]:
        """Turn uint8 images into float32 images of shape (N, 3, size, size) in [0, 1]."""
        images, positions = batch
        return self.transform(images), positions
