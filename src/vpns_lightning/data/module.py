"""The data module of every data set: what is on disk, and which of it is used."""

from __future__ import annotations

import socket
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import torch

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.processes import is_first_process, say
from vpns_lightning.data.access import located, obtain, reading
from vpns_lightning.data.check import (
    CheckReport,
    Counts,
    all_remarks,
    check_images,
    check_labels,
    check_limits,
    check_options,
    check_present,
)
from vpns_lightning.data.feeding import Feeding, PartName
from vpns_lightning.data.images import keeping
from vpns_lightning.data.images.dataset import ImageDataset
from vpns_lightning.data.images.decode import OnBadImage
from vpns_lightning.data.images.looking import SAMPLE
from vpns_lightning.data.layout import Found, Layout
from vpns_lightning.data.split import Split
from vpns_lightning.data.subsets import limited, stratified

SplitName: TypeAlias = Literal["train", "test"]

SPLITS: tuple[SplitName, ...] = ("train", "test")


class ImageData(Feeding):
    """Images of one data set, square, in [0, 1], augmented on the device, not normalised.

    A data set is a subclass with ``num_classes``, ``layout`` and ``read``, and ``mirrored = False``
    where a mirror image would be of another class.

    Args:
        root: Folder that holds the data set.
        input_size: Height and width in pixels of the images the network gets, before prompting.
        batch_size: Images in a batch of one rank.
        num_workers: Processes of each loader; None takes 0 for cached images, else its share of
            the cores, at most 8.
        cache: ``source`` keeps decoded images at their own size (images of one size only) and
            resizes on the device, ``resized`` keeps them at 9/8 of the input size for training and
            at the input size for evaluation, ``none`` decodes in the workers. ``auto`` takes the
            first that fits ``cache_limit``; ``source`` only up to 64 px. Where only a part of
            ``resized`` fits, it keeps the images that every epoch needs.
        cache_limit: Largest cache in GiB that ``auto`` makes.
        cache_dir: Where the folder ``.vpns_cache`` is made; None is the root.
        validation: Fraction of the training images, of each class alike, held out for validation.
        limit_per_class: Training images of each class, before any are held out; the same ones for
            every seed and machine, by the hash of their names. None for all.
        limit_test_per_class: Test images of each class, chosen alike. None for all.
        exif_rotation: Whether images are turned and mirrored as their EXIF data say.
        decode_on_device: Whether JPEG files that no cache keeps are decoded by torchvision on the
            device of the network: on a GPU by its own decoder, while workers only read files.
            Pixels differ a little from those decoded otherwise.
        download: Download what is missing, where that is possible.
        on_bad_image: ``error`` stops at an image that cannot be decoded, ``skip`` logs it and goes
            on as long as at most 1 % are bad.
        seed: Seed of order, augmentation and the held-out part.

    Raises:
        UserError: A number is out of its range.
    """

    num_classes: int
    layout: Layout
    counts: ClassVar[Counts | None] = None

    def __init__(
        self,
        root: str = "data",
        *,
        input_size: int = 224,
        batch_size: int = 256,
        num_workers: int | None = None,
        cache: keeping.CacheMode = "auto",
        cache_limit: float = 8.0,
        cache_dir: str | None = None,
        validation: float = 0.0,
        limit_per_class: int | None = None,
        limit_test_per_class: int | None = None,
        exif_rotation: bool = False,
        decode_on_device: bool = False,
        download: bool = True,
        on_bad_image: OnBadImage = "error",
        seed: int = 7,
    ) -> None:
        check_options(input_size, batch_size, validation, num_workers)
        check_limits(limit_per_class, limit_test_per_class)
        super().__init__(
            input_size=input_size,
            batch_size=batch_size,
            num_workers=num_workers,
            validation=validation,
            seed=seed,
        )
        self.name: str = type(self).__name__
        self.root = Path(root).expanduser()
        self.cache = cache
        self.cache_limit = cache_limit
        self.cache_folder = Path(cache_dir or root).expanduser() / ".vpns_cache"
        self.limit_per_class = limit_per_class
        self.limit_test_per_class = limit_test_per_class
        if decode_on_device and exif_rotation:
            raise UserError("decode_on_device turns no images: leave out exif_rotation, or it")
        self.exif_rotation = exif_rotation
        self.decode_on_device = decode_on_device
        self.download = download
        self.on_bad_image: OnBadImage = on_bad_image
        self._splits: dict[SplitName, Split] = {}
        self._stores: keeping.Stores | None = None

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
        if is_first_process():
            check_present(self.name, name, split)
        return replace(
            split,
            exif_rotation=self.exif_rotation,
            remarks=[*self._where(name), *split.remarks],
        )

    def found(self) -> Found:
        """Return where the data set lies.

        Raises:
            UserError: It does not.
        """
        return located(self.name, self.root, self.layout)

    def _where(self, name: SplitName) -> list[str]:
        """Return a line where the data set lies otherwise than its makers distribute it."""
        found = self.found()
        if found.official or name != "train":
            return []
        paths = ", ".join(path.relative_to(found.folder).as_posix() for path in found.paths)
        return [f"taken from {paths} in {found.folder}"]

    def check(self, sample: int = 64) -> CheckReport:
        """Verify layout, counts, labels and files, and decode ``sample`` images of each split.

        Limits are left aside: the data set is checked as it is on disk.

        Raises:
            UserError: Something is wrong; the message says what, where and what to do.
        """
        splits = {str(name): self._whole(name) for name in SPLITS}
        return check_images(self.name, self.root, splits, self.counts, sample)

    def prepare_data(self) -> None:
        """Download what is missing and decode the cache; Lightning calls it once per machine."""
        if self.download and self.layout.downloadable:
            obtain(self.fetch, self.name, self.root, self.layout, self.num_classes)
        if self._stores is None:
            for name in SPLITS:
                for line in all_remarks(self.name, name, self.split(name), SAMPLE):
                    say(line)
        self._open()

    @property
    def cache_files(self) -> list[Path]:
        """The files that hold decoded images, once they are open."""
        return [cache.path for cache in self._open().caches]

    def setup(self, stage: str | None = None) -> None:
        """Open the images, from the cache where there is one, the same for every ``stage``."""
        if stage is not None:
            self._share_fingerprints()
        self._open()

    def _open(self) -> keeping.Stores:
        if self._stores is None:
            self._stores = keeping.open_stores(
                self.name,
                self.cache_folder,
                self.split("train"),
                self.split("test"),
                keeping.Plan(
                    self.input_size,
                    self.cache,
                    self.cache_limit,
                    self.on_bad_image,
                    self.decode_on_device,
                ),
            )
        return self._stores

    def _share_fingerprints(self) -> None:
        """Spare all ranks but one of each machine to ask about every file at every start.

        That one has asked in ``prepare_data``.
        """
        if self.trainer is None or self.trainer.world_size == 1:
            return
        host = socket.gethostname()
        known = {name: self.split(name).known_fingerprint for name in SPLITS}
        told: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(told, (host, known))
        for place, fingerprints in told:
            for name, fingerprint in fingerprints.items():
                if place == host and fingerprint and not self.split(name).known_fingerprint:
                    self.split(name).tell_fingerprint(fingerprint)

    def dataset(self, part: PartName, *, augmented: bool = False) -> ImageDataset:
        """Return the uint8 images of one part.

        Args:
            part: ``train`` is without what is held out for validation.
            augmented: Whether the images are for ``train_transform``, not ``eval_transform``.
        """
        opened = self._open()
        kind: SplitName = "test" if part == "test" else "train"
        labels = torch.tensor(self.split(kind).labels, device="cpu")
        rows = opened.good[kind]
        if kind == "train":
            held_out = stratified(labels[rows], self.validation, self.seed)
            rows = rows[held_out] if part == "validation" else rows[~held_out]
        store = opened.augmented if augmented else opened.plain[kind]
        return ImageDataset(store, labels, rows)
