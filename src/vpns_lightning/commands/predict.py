"""``vpns predict``: class names and probabilities for a folder of images."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.files import whole_file
from vpns_lightning.commands.parsing import at_least, parse_function
from vpns_lightning.data.images.decode import decode, resize
from vpns_lightning.data.images.transforms import EvalTransform
from vpns_lightning.runs.evaluation import autocast
from vpns_lightning.runs.loading import load_run

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"}


def classify(
    run: str,
    images: str,
    *,
    output: str = "predictions.csv",
    top: int = 5,
    batch_size: int = 64,
    accelerator: str = "auto",
) -> None:
    """Classify every image below a folder and write a CSV file.

    Columns: image (path below the folder), then class_1, probability_1, class_2, ... by
    falling probability.

    Args:
        run: The run folder.
        images: The folder of images, or one image.
        output: The CSV file.
        top: Classes to write for each image.
        batch_size: Images at a time.
        accelerator: cpu, cuda or auto.
    """
    at_least("top", top, 1)
    at_least("batch_size", batch_size, 1)
    files = _image_files(Path(images))
    loaded = load_run(run, accelerator=accelerator)
    names = loaded.about.class_names
    top = min(top, len(names))
    device = loaded.network.mean.device
    precision = loaded.config.get("trainer", {}).get("precision")
    transform = EvalTransform(loaded.about.input_size)
    upright = bool(loaded.config.get("data", {}).get("init_args", {}).get("exif_rotation"))
    header = [f"{kind}_{k}" for k in range(1, top + 1) for kind in ("class", "probability")]
    with (
        whole_file(Path(output)) as temporary,
        # names that are no UTF-8 are written as they are on disk
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["image", *header])
        for batch in track(list(_batches(files, batch_size)), "predicting"):
            read = [_read(path, transform.input_size, upright=upright) for path in batch]
            pixels = transform(torch.stack(read))
            with torch.no_grad(), autocast(precision, device):
                logits = loaded.network(pixels.to(device))
            best = logits.float().softmax(1).topk(top)
            for path, values, classes in zip(batch, best.values, best.indices, strict=True):
                shown = str(path.relative_to(images)) if Path(images).is_dir() else path.name
                pairs = zip(classes.tolist(), values.tolist(), strict=True)
                writer.writerow([shown, *(x for c, p in pairs for x in (names[c], f"{p:.6f}"))])
    print(f"{len(files)} images classified: {output}")


def _read(path: Path, size: int, *, upright: bool) -> Tensor:
    """Return one image as uint8 (3, size, size), read and resized as in evaluation."""
    image = decode(path, exif_rotation=upright)
    return torch.from_numpy(resize(image, size).copy()).permute(2, 0, 1)


def _image_files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise UserError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")
    return files


def _batches(files: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    for start in range(0, len(files), size):
        yield files[start : start + size]


def run(arguments: Sequence[str]) -> None:
    """Run ``vpns predict``."""
    classify(**parse_function("vpns predict", classify, arguments))
