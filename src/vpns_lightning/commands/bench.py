"""``vpns bench``: what a run's pruning saves, measured against the dense network."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.files import write_text
from vpns_lightning.benchmarking import DEFAULT, Plan, chosen_runtimes, markdown, measure, show
from vpns_lightning.commands.parsing import at_least, parse_function
from vpns_lightning.runs.loading import dense_twin, load_run, pick_device


def bench(
    run: str,
    *,
    runtimes: str = ",".join(DEFAULT),
    devices: str = "auto",
    batch_sizes: str = "1,64",
    memory_batch: int = 16,
    rounds: int = 50,
    warmup: int = 10,
    seconds: float = 20.0,
    output: str | None = None,
) -> None:
    """Measure the network of a run against the dense one: speed, memory, file size.

    Both lie in one process and answer the same images in interleaved rounds. Ratios come first,
    absolute medians after; bench.json and bench.md hold both. Masks are multiplied into the
    weights before timing, and runtimes multiply zeros like any other number: where that gives no
    speed-up, a line says so. Compiling takes a minute.

    Args:
        run: The run folder.
        runtimes: Of eager, compiled, onnxruntime and 2:4 (half precision and linear layers only,
            on CUDA), with commas between them.
        devices: cpu, cuda, both with a comma between them, or auto for those at hand.
        batch_sizes: Images answered at once, with commas between them.
        memory_batch: Images in the training step whose peak memory is taken; 0 leaves it out.
        rounds: Timed calls of each network.
        warmup: Calls of each network before that.
        seconds: Bound on the timed calls of each pair; at least five rounds are taken.
        output: Folder for bench.json and bench.md, where not the run folder.
    """
    plan = Plan(
        devices=_devices(devices),
        runtimes=chosen_runtimes(runtimes),
        batch_sizes=_batch_sizes(batch_sizes),
        memory_batch=at_least("memory_batch", memory_batch, 0),
        rounds=at_least("rounds", rounds, 1),
        warmup=at_least("warmup", warmup, 0),
        seconds=seconds,
    )
    loaded = load_run(run)
    folder = Path(output).expanduser() if output else loaded.folder.path
    begin = time.monotonic()
    with Console(stderr=True).status("starting") as status:

        def say(line: str) -> None:
            status.update(line)
            if not status.console.is_terminal:
                print(f"[{time.monotonic() - begin:5.0f} s] {line}", flush=True)

        size = loaded.about.input_size
        found = measure(loaded.network, dense_twin(loaded), size, plan, say)
    # of a cut network the fraction of channels, which only the run knows
    found = {"run": str(run), **found, "sparsity": loaded.about.sparsity}
    show(found)
    write_text(folder / "bench.json", json.dumps(found, indent=2) + "\n")
    write_text(folder / "bench.md", markdown(found))
    print(f"{folder / 'bench.json'} and bench.md written")


def _devices(names: str) -> list[str]:
    if names == "auto":
        return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [pick_device(name.strip()).type for name in names.split(",")]


def _batch_sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1:
        raise UserError(f"batch_sizes are numbers of images such as 1,64, got {text!r}")
    return sizes


def run(arguments: Sequence[str]) -> None:
    """Run ``vpns bench``."""
    bench(**parse_function("vpns bench", bench, arguments))
