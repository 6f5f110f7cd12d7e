"""``vpns test``: the accuracy of a finished run, measured again."""

import json
from collections.abc import Sequence

import msgspec

from vpns_lightning.base.errors import UserError
from vpns_lightning.commands.parsing import parse_function
from vpns_lightning.data import ImageData
from vpns_lightning.runs.evaluation import evaluate
from vpns_lightning.runs.loading import LoadedRun, load_data, load_run


def measure(
    run: str,
    *,
    root: str | None = None,
    accelerator: str = "auto",
    batch_size: int | None = None,
    num_workers: int | None = None,
) -> None:
    """Measure the accuracy of a run on its test images, each once, with the prompt and without.

    Args:
        run: The run folder; nothing else is needed but the data set.
        root: Folder of the data set, where it is not where the run found it.
        accelerator: cpu, cuda or auto.
        batch_size: Images at a time; the run's own where not given.
        num_workers: Loader processes; the run's own where not given.
    """
    loaded = load_run(run, accelerator=accelerator)
    data = load_data(loaded.config, root=root, batch_size=batch_size, num_workers=num_workers)
    data.prepare_data()
    _check_classes(loaded, data)
    precision = loaded.config.get("trainer", {}).get("precision")
    measured = msgspec.structs.asdict(evaluate(loaded.network, data, precision=precision))
    measured |= {"sparsity": loaded.about.sparsity, "stage": loaded.about.stage}
    print(json.dumps(measured, indent=2))


def _check_classes(loaded: LoadedRun, data: ImageData) -> None:
    """Refuse images of other classes: their numbers would mean something else to the network.

    Raises:
        UserError: The data set's classes are not those of the run.
    """
    own, found = (list(map(str, names)) for names in (loaded.about.class_names, data.class_names))
    # a run that was imported without its data set knows its classes by number only
    numbers = [str(number) for number in range(len(found))]
    if own == found or (loaded.about.imported and own == numbers):
        return
    odd = sorted(set(own) ^ set(found))
    how = f"they differ in {', '.join(odd[:5])}" if odd else "they are in another order"
    raise UserError(
        f"the network of {loaded.folder.path} knows {len(own)} classes, the images in "
        f"{data.root.absolute()} are of {len(found)}: {how}; give --root a folder of the same ones"
    )


def run(arguments: Sequence[str]) -> None:
    """Run ``vpns test``."""
    measure(**parse_function("vpns test", measure, arguments))
