"""Everything that only a GPU can tell, in one table, in less than nine minutes.

    python benchmarks/gpu.py            on a machine with a CUDA device
    python benchmarks/gpu.py --tiny     anywhere, in seconds: does it run, not how fast

Selection against torch's own ways, masks against the CPU's, steps by phase and over a dense step,
eager and compiled, epochs from files, waits for the device, the input path, checkpoints, and
deterministic algorithms. A part that fails, or that the time is over for, is a row which says so.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from typing import NamedTuple

# cuBLAS reads it when it is loaded, and is deterministic only so
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from _gpu_parts import (
    Row,
    Size,
    checkpoints,
    determinism,
    end_to_end,
    equality,
    phases,
    selections,
    steps,
)

from vpns_lightning.benchmarking.runtimes import machine_name

SECONDS = 520.0  # of nine minutes, less what starting takes


class Part(NamedTuple):
    """One part of the table.

    Attributes:
        name: Its name.
        rows: Measures; yields rows.
        seconds: It begins only if so much time is left.
    """

    name: str
    rows: Callable[[Size], Iterator[Row]]
    seconds: float


PARTS = (
    Part("masks", equality, 30),
    Part("selection", selections, 40),
    Part("steps, eager", partial(steps, compiled=False), 40),
    Part("phases", phases, 20),
    Part("end to end", end_to_end, 60),
    Part("checkpoint", checkpoints, 20),
    Part("deterministic", determinism, 15),
    Part("steps, compiled", partial(steps, compiled=True), 120),
)


def measured(size: Size, clock: Callable[[], float] = time.perf_counter) -> list[Row]:
    """Return the rows of all parts, printed as they come."""
    begin = clock()
    table = []
    for part in PARTS:
        print(f"[{clock() - begin:4.0f} s] {part.name}", flush=True)
        for row in guarded(part, size, SECONDS - (clock() - begin), clock):
            print(f"         {row.what}: {row.value}  {row.beside}", flush=True)
            table.append(row)
    return table


def guarded(
    part: Part, size: Size, left: float, clock: Callable[[], float] = time.perf_counter
) -> Iterator[Row]:
    """Yield the rows of a part until time is over or it fails; then one that says so."""
    if left < part.seconds:
        yield Row(part.name, "not measured", f"{left:.0f} s were left of {SECONDS:.0f}")
        return
    begin = clock()
    try:
        for row in part.rows(size):
            yield row
            if clock() - begin > left:
                yield Row(f"{part.name}, the rest", "not measured", f"{SECONDS:.0f} s were over")
                return
    # the rows of the other parts are not lost by whatever fails in this one
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        yield Row(part.name, "FAILED", f"{type(error).__name__}: {reason}")
    finally:
        if size.device.type == "cuda":
            torch.cuda.empty_cache()


def markdown(table: list[Row], device: torch.device) -> str:
    """Return the table with the name of the card, the date and the versions."""
    triton = f"CUDA {torch.version.cuda}" if device.type == "cuda" else "no CUDA"
    lines = [
        f"{machine_name(device)}, {date.today()}; torch {torch.__version__}, {triton}, "
        f"Python {platform.python_version()}",
        "",
        "| | | |",
        "| --- | ---: | --- |",
        *(f"| {row.what} | {row.value} | {row.beside} |" for row in table),
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; return 1 if something failed, 2 without a device."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--tiny", action="store_true", help="smallest sizes, on the CPU where there is no GPU"
    )
    args = parser.parse_args(arguments)
    if not (torch.cuda.is_available() or args.tiny):
        print("benchmarks/gpu.py needs a CUDA device, and torch sees none", file=sys.stderr)
        return 2
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    size = Size(device)
    if args.tiny:
        size = Size(device, ("squeezenet1_1",), px=32, batch=2, images=8, epochs=2, seconds=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # tiny runs take the same way, without minutes of compilation
        with torch.compiler.set_stance("force_eager" if args.tiny else "default"):
            table = measured(size)
    print(f"\n{markdown(table, device)}")
    return int(any(row.value in ("FAILED", "NO") for row in table))


if __name__ == "__main__":
    sys.exit(main())
