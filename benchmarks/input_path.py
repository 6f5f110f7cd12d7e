"""Input path: 32 px images on disk -> augmented 224 px float batches, ours and image by image.

    python benchmarks/input_path.py

The other path is what the stock torchvision recipe does: PIL images, Resize, RandomCrop,
RandomHorizontalFlip and ToTensor in two loader workers. Ours keeps decoded uint8 images
(`cache=source`, `cache=resized`) and augments whole batches in the main process. Before anything is
timed, the pixels are compared at equal offsets.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from _harness import Figure, Timing, interleave, parser, ratio, report, settle
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder as StockFolder
from torchvision.transforms import v2

from vpns_lightning.base.seeds import stream_key
from vpns_lightning.data import ImageFolder, TrainTransform

SIDE = 32
KEY = stream_key(7, "fit", "prompted", 0)


def write_images(root: Path, count: int) -> None:
    """Write `count` smooth random images of 32 x 32 px in two classes."""
    generator = np.random.default_rng(0)
    for part, number in (("train", count), ("test", 2)):
        for index in range(number):
            coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3)).astype(np.uint8))
            path = root / part / f"class{index % 2}" / f"{index:06}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)


def stock_loader(root: Path, size: int, batch_size: int, workers: int) -> DataLoader[Tensor]:
    """Return the image-by-image path, with warm workers."""
    steps = v2.Compose(
        [
            v2.Resize((round(size * 9 / 8),) * 2),
            v2.RandomCrop(size),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    dataset = StockFolder(str(root / "train"), steps)
    return DataLoader(
        dataset, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )


def assert_equal_pixels(ours: ImageFolder, size: int) -> None:
    """Compare the first images with torchvision's pipeline at the same offsets."""
    images, _, rows = ours.dataset("train", augmented=True).__getitems__(list(range(16)))
    transform = TrainTransform(size)
    batch = transform(images, rows, KEY)
    places = torch.stack(transform.offsets(rows, KEY), 1).tolist()
    for row, (top, left, flip) in enumerate(places):
        large = v2.functional.resize(ours.split("train").image(row), [transform.resized] * 2)
        crop = v2.functional.crop(large, top, left, size, size)
        crop = v2.functional.horizontal_flip(crop) if flip else crop
        expected = torch.from_numpy(np.array(crop)).permute(2, 0, 1) / 255
        assert torch.equal(batch[row], expected), f"image {row} differs"


def run_ours(data: ImageFolder) -> int:
    """Deliver one epoch of augmented float batches."""
    delivered = 0
    for batch, _, _ in iter(data.train_dataloader()):
        views = data.on_after_batch_transfer(batch, 0)
        assert isinstance(views, dict)
        delivered += len(views["prompted"][0])
    return delivered


def run_stock(loader: DataLoader[Tensor]) -> int:
    """Deliver one epoch of augmented float batches."""
    return sum(len(images) for images, _ in loader)


def figure(mode: str, timings: dict[str, Timing], size: int) -> Figure:
    """Return how many times faster one cache mode is than the image-by-image path."""
    name = f"input path, cache={mode}, {SIDE} to {size} px, over PIL workers"
    return ratio(name, 1.6, timings[mode], timings["stock"], at_least=True)


def main() -> None:
    """Time one epoch of each path in turn and print the ratios."""
    settle(heap=False)
    options = parser(__doc__, rounds=5)
    options.add_argument("--images", type=int, default=2048, help="images in an epoch")
    options.add_argument("--batch-size", type=int, default=256)
    options.add_argument("--size", type=int, default=224, help="px delivered")
    options.add_argument("--workers", type=int, default=2, help="workers of the stock path")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_images(root, args.images)
        common = {"input_size": args.size, "batch_size": args.batch_size, "num_workers": 0}
        source = ImageFolder(folder, cache="source", **common)
        resized = ImageFolder(folder, cache="resized", **common)
        stock = stock_loader(root, args.size, args.batch_size, args.workers)
        assert_equal_pixels(resized, args.size)
        print(f"resized pixels are equal; {SIDE} -> {args.size} px, batches of {args.batch_size}")
        timings = interleave(
            {
                "stock": lambda: run_stock(stock),
                "source": lambda: run_ours(source),
                "resized": lambda: run_ours(resized),
            },
            1 if args.quick else args.rounds,
        )
    for name, timing in timings.items():
        print(f"  {name:8} {args.images / timing.median:9.0f} images/s")
    report([figure(mode, timings, args.size) for mode in ("source", "resized")], args.json)


if __name__ == "__main__":
    main()
