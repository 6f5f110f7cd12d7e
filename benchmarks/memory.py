"""Peak memory: mask finding and tuning over dense fine-tuning, each in a process of its own.

    python benchmarks/memory.py

What counts is the highest resident size during a few real steps of a ResNet-18 at 224 px, less what
the process held before it built anything. The steps are those of `steps.py`.
"""

from __future__ import annotations

import resource
import subprocess
import sys

import torch
from _harness import Figure, parser, report, settle
from steps import dense_step, finding_step, new_batch, tuning_step

STEPS = 4
GOALS = {"find": 1.12, "tune": 1.02}


def peak() -> float:
    """Return the highest resident size so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def grown(kind: str, px: int, batch_size: int) -> float:
    """Take a few steps and return by how many MB this process grew at most."""
    # imports and thread pools, which all three share
    torch.nn.Conv2d(3, 8, 3)(torch.rand(1, 3, 32, 32)).sum().backward()
    before = peak()
    batch = new_batch(px, batch_size)
    if kind == "dense":
        step = dense_step(px, batch)
    else:
        step, _ = (finding_step if kind == "find" else tuning_step)(px, batch)
    for _ in range(STEPS):
        step()
    return peak() - before


def measure(kind: str, px: int, batch_size: int) -> float:
    """Return the growth of a fresh process."""
    command = [sys.executable, __file__, "--px", str(px), "--batch-size", str(batch_size)]
    done = subprocess.run([*command, "--only", kind], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure in turn and print the ratios."""
    settle(heap=False)
    options = parser(__doc__, rounds=3)
    options.add_argument("--px", type=int, default=224)
    options.add_argument("--batch-size", type=int, default=32)
    options.add_argument("--only", choices=["dense", "find", "tune"], help="one, in this process")
    args = options.parse_args()
    if args.only:
        print(grown(args.only, args.px, args.batch_size))
        return
    megabytes: dict[str, list[float]] = {"dense": [], "find": [], "tune": []}
    for _ in range(1 if args.quick else args.rounds):
        for kind, values in megabytes.items():
            values.append(measure(kind, args.px, args.batch_size))
    for kind, values in megabytes.items():
        print(f"  {kind:6} " + "  ".join(f"{value:8.1f} MB" for value in sorted(values)))
    middle = {kind: sorted(values)[len(values) // 2] for kind, values in megabytes.items()}
    figures = [
        Figure(
            f"peak memory, {kind} over dense, {args.px} px, batch {args.batch_size}",
            goal,
            min(megabytes[kind]) / min(megabytes["dense"]),
            middle[kind] / middle["dense"],
        )
        for kind, goal in GOALS.items()
    ]
    report(figures, args.json)


if __name__ == "__main__":
    main()
