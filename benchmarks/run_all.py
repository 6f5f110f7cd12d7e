"""Run every benchmark in turn and print one table of figures, goals and verdicts.

    python benchmarks/run_all.py            about ten minutes on two cores; what `make bench` runs
    python benchmarks/run_all.py --quick    does it run, not how fast

Each benchmark is a program of its own, so that none inherits the memory of another.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torchvision
from _harness import Figure, header

PROGRAMS = (
    *("counts", "mapping", "threshold", "startup", "checkpoint", "memory", "input_path", "steps"),
    "one_shot",
)


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def run(program: str, folder: Path, *, quick: bool) -> list[Figure]:
    """Run one benchmark, its output shown; return its figures."""
    print(f"\n== {program}.py", flush=True)
    path = folder / f"{program}.json"
    script = Path(__file__).with_name(f"{program}.py")
    flags = ["--quick"] if quick else []
    subprocess.run([sys.executable, str(script), "--json", str(path), *flags], check=True)
    return [Figure(**figure) for figure in json.loads(path.read_text())]


def main() -> None:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round each")
    parser.add_argument("--only", nargs="+", choices=PROGRAMS, default=PROGRAMS, metavar="NAME")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = [f for p in args.only for f in run(p, Path(folder), quick=args.quick)]
    print(
        f"\n{processor()}, {torch.get_num_threads()} threads; Python {platform.python_version()}, "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}\n{header()}"
    )
    for figure in figures:
        print(figure.line())


if __name__ == "__main__":
    main()
