"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009, https://www.cs.toronto.edu/~kriz/cifar.html)."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torchvision import datasets
from torchvision.datasets.utils import download_and_extract_archive

from vpns_lightning.data.check import Counts
from vpns_lightning.data.layout import Layout
from vpns_lightning.data.module import ImageData, SplitName
from vpns_lightning.data.split import Split


class CIFAR10(ImageData):
    """60,000 images of 32 x 32 px in 10 classes."""

    num_classes = 10
    counts = Counts(train=50_000, test=10_000)
    layout = Layout(
        (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"),
        datasets.CIFAR10.url,
        downloadable=True,
        places=("cifar-10-batches-py", "", "cifar-10-python/cifar-10-batches-py"),
    )
    reader: ClassVar[type[datasets.CIFAR10]] = datasets.CIFAR10
    label_key: ClassVar[str] = "labels"

    def fetch(self) -> None:
        """Download and extract the archive of Python pickles."""
        reader = self.reader
        download_and_extract_archive(
            reader.url, self.root, filename=reader.filename, md5=reader.tgz_md5
        )

    def read(self, split: SplitName) -> Split:
        """Return the pixels of one split."""
        folder = self.found().folder
        files = self.reader.train_list if split == "train" else self.reader.test_list
        batches = [_load(folder / name) for name, _ in files]
        pixels = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
        names = _load(folder / self.reader.meta["filename"])[self.reader.meta["key"]]
        return Split(
            [label for batch in batches for label in batch[self.label_key]],
            names,
            pixels=np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)),
        )


class CIFAR100(CIFAR10):
    """60,000 images of 32 x 32 px in 100 classes."""

    num_classes = 100
    layout = Layout(
        ("train", "test", "meta"),
        datasets.CIFAR100.url,
        downloadable=True,
        places=("cifar-100-python", "", "cifar-100-python/cifar-100-python"),
    )
    reader = datasets.CIFAR100
    label_key = "fine_labels"


class _ArrayUnpickler(pickle.Unpickler):
    """Reads arrays, numbers, strings and containers, and runs nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what an array is made of.

        Raises:
            pickle.UnpicklingError: The file asks for anything else.
        """
        rebuild = np.empty(0).__reduce__()[0]
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): rebuild,
            ("numpy._core.multiarray", "_reconstruct"): rebuild,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _encode,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"refused to load {module}.{name}: not an image array")
        return allowed[module, name]


def _encode(text: str, encoding: str) -> bytes:
    return text.encode(encoding)


def _load(path: Path) -> dict[str, Any]:
    content = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a dictionary")
    return content
