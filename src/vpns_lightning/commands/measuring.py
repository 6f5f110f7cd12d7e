"""What ``vpns validate|test|predict`` do with a finished run and a Trainer."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer
from rich.console import Console

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.files import whole_file
from vpns_lightning.base.processes import is_first_process, say
from vpns_lightning.base.texts import is_formula
from vpns_lightning.commands.parsing import at_least
from vpns_lightning.data import ImageData
from vpns_lightning.data.unlabelled import ImageFiles, Unlabelled, image_files
from vpns_lightning.runs.loading import LoadedRun
from vpns_lightning.stages.steps import refusing
from vpns_lightning.training.evaluating import Evaluation, Prediction
from vpns_lightning.training.machine import NOT_FITTING, check_devices, quiet_lightning


def measure(
    loaded: LoadedRun,
    data: ImageData,
    part: Literal["validation", "test"],
    *,
    trainer: Mapping[str, Any],
) -> None:
    """Print the accuracy of a run as JSON, with the prompt and without.

    Args:
        loaded: The run.
        data: Its data set.
        part: Which of its images.
        trainer: Arguments of the Trainer.

    Raises:
        UserError: The images are of other classes than the run's.
    """
    about = loaded.about
    # a run that was imported without its data set knows its classes by number only
    numbered = bool(about.imported)
    module = Evaluation(loaded.network, class_names=about.class_names, numbered=numbered)
    if part == "validation" and not data.validation:
        say("no images were held out for validation: these are the test images")
    _run(
        loaded,
        trainer,
        lambda made: (made.test if part == "test" else made.validate)(
            module, datamodule=data, verbose=False
        ),
    )
    counts = module.counts
    if not counts.images:
        raise UserError("no image was measured: trainer.limit_*_batches leaves none")
    measured = {
        f"{part}_accuracy": counts.correct / counts.images,
        f"{part}_accuracy_plain": counts.correct_plain / counts.images,
        f"{part}_images": counts.images,
        "sparsity": about.sparsity,
        "stage": about.stage,
        "run": str(loaded.folder.path),
    }
    say(json.dumps(measured, indent=2))


def classify(
    loaded: LoadedRun,
    images: str,
    *,
    output: str | None,
    top: int,
    batch_size: int,
    num_workers: int | None,
    trainer: Mapping[str, Any],
) -> None:
    """Write the most probable classes of every image below a folder into a CSV file.

    Columns: image (path below the folder), then class_1, probability_1, class_2, ... by falling
    probability. No cell is a formula to a spreadsheet: a path then begins with ``./``, which names
    the same file, a class with an apostrophe.

    Raises:
        UserError: An option is out of its range, a file is no image, or nothing can be written.
    """
    at_least("top", top, 1)
    at_least("batch_size", batch_size, 1)
    names = loaded.about.class_names
    files = image_files(Path(images))
    path = Path(output) if output else loaded.folder.path / "predictions.csv"
    turned = bool(loaded.config.get("data", {}).get("init_args", {}).get("exif_rotation"))
    dataset = ImageFiles(files, loaded.about.input_size, exif_rotation=turned)
    data = Unlabelled(dataset, batch_size=batch_size, num_workers=num_workers)
    module = Evaluation(loaded.network, top=min(top, len(names)))
    with whole_file(path) if is_first_process() else nullcontext() as temporary:
        if temporary is not None:
            # before the work, so that a folder that cannot be written to is known by then
            temporary.touch()
        _run(
            loaded,
            trainer,
            lambda made: made.predict(module, datamodule=data, return_predictions=False),
        )
        if temporary is not None:
            _write(temporary, files, Path(images), names, module.predictions)
    say(f"{len(files)} images classified: {path}")


def _write(
    path: Path,
    files: Sequence[Path],
    images: Path,
    names: Sequence[str],
    predictions: Iterable[Prediction],
) -> None:
    labels = [f"'{name}" if is_formula(str(name)) else str(name) for name in names]
    rows: dict[int, list[str]] = {}
    for prediction in predictions:
        for position, classes, values in zip(*(part.tolist() for part in prediction), strict=True):
            pairs = zip(classes, values, strict=True)
            rows[position] = [text for c, p in pairs for text in (labels[c], f"{p:.6f}")]
    count = len(next(iter(rows.values()))) // 2
    header = [f"{kind}_{k}" for k in range(1, count + 1) for kind in ("class", "probability")]
    # names that are no UTF-8 are written as they are on disk
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *header])
        for position, image in enumerate(files):
            shown = str(image.relative_to(images)) if images.is_dir() else image.name
            writer.writerow([f"./{shown}" if is_formula(shown) else shown, *rows[position]])


def _run(loaded: LoadedRun, options: Mapping[str, Any], work: Callable[[Trainer], object]) -> None:
    """Do the work with a Trainer that writes nothing."""
    check_devices(options)
    with quiet_lightning():
        with refusing("trainer", NOT_FITTING):
            trainer = Trainer(
                **{
                    "precision": loaded.config.get("trainer", {}).get("precision"),
                    "logger": False,
                    "enable_progress_bar": Console().is_terminal,
                    **options,
                    "enable_checkpointing": False,
                    "enable_model_summary": False,
                    # the data module gives each process its own images, none twice
                    "use_distributed_sampler": False,
                }
            )
        work(trainer)
