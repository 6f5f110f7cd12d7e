"""Start-up: how long `vpns --version`, `vpns --help` and `vpns fit --help` take.

    python benchmarks/startup.py

The last is held against a bare LightningCLI with the same stage and data classes, because what it
imports is what Lightning and torch cost.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from _harness import Figure, interleave, parser, ratio, report, settle, show

BARE = """
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringDataModule, DemoModel
LightningCLI(DemoModel, BoringDataModule)
"""


def run(*arguments: str) -> Callable[[], object]:
    """Return a function that runs Python with these arguments and waits."""
    command = [sys.executable, *arguments]

    def wait() -> None:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert done.stdout, "the command said nothing"

    return wait


def main() -> None:
    """Time them in turn."""
    settle(heap=False)
    args = parser(__doc__, rounds=5).parse_args()
    vpns = ("-c", "from vpns_lightning.cli import main; main()")
    timings = interleave(
        {
            "python, nothing else": run("-c", "print(0)"),
            "vpns --version": run(*vpns, "--version"),
            "vpns --help": run(*vpns, "--help"),
            "bare LightningCLI fit --help": run("-c", BARE, "fit", "--help"),
            "vpns fit --help": run(*vpns, "fit", "--help"),
        },
        1 if args.quick else args.rounds,
    )
    show(timings)
    figures = [
        Figure(name, 0.3, timings[name].min, timings[name].median, "s")
        for name in ("vpns --version", "vpns --help")
    ]
    bare = timings["bare LightningCLI fit --help"]
    name = "vpns fit --help over a bare LightningCLI's"
    figures.append(ratio(name, 1.05, timings["vpns fit --help"], bare))
    report(figures, args.json)


if __name__ == "__main__":
    main()
