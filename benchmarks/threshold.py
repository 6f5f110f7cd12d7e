"""Threshold refresh over all scores of a ResNet-18: ours over `abs`, `cat` and `kthvalue`.

    python benchmarks/threshold.py

The refresh is what runs after every step of mask finding: the threshold of 11.7 million scores and
the masks above it, although the other side computes the threshold alone. Before that, threshold and
masks are compared bit by bit, ties included. Memory is allocated as it is in a run; `--heap` keeps
freed memory in the process, which spares the other side most of its page faults.
"""

from __future__ import annotations

import sys
from functools import partial

import torch
import torchvision
from _harness import Figure, interleave, parser, ratio, report, settle, show
from torch import Tensor, nn

from vpns_lightning.sparsity import keep_highest, prune_count


def new_scores() -> list[Tensor]:
    """Return scores shaped and laid out as those of a ResNet-18 with 1,000 classes."""
    generator = torch.Generator().manual_seed(0)
    shapes = [
        layer.weight.shape
        for layer in torchvision.models.resnet18().modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    scores = [torch.randn(shape, generator=generator) for shape in shapes]
    return [s.contiguous(memory_format=torch.channels_last) if s.dim() == 4 else s for s in scores]


def reference(scores: list[Tensor], n_prune: int) -> Tensor:
    """Return the threshold the plain way."""
    return torch.cat([s.abs().flatten() for s in scores]).kthvalue(n_prune).values


def check(scores: list[Tensor], n_prune: int, masks: list[Tensor]) -> None:
    """Compare threshold and masks with those of a stable sort."""
    tied = [s.mul(64).round() / 64 for s in scores]
    for values in (scores, tied):
        threshold = keep_highest(values, n_prune, masks, absolute=True)
        assert torch.equal(threshold, reference(values, n_prune))
        flat = torch.cat([v.abs().flatten() for v in values])
        expected = torch.zeros(flat.numel(), dtype=torch.bool)
        expected[flat.argsort(descending=True, stable=True)[: flat.numel() - n_prune]] = True
        assert torch.equal(torch.cat([m.flatten() for m in masks]), expected)


def main() -> None:
    """Compare, then time."""
    settle(heap="--heap" in sys.argv)
    options = parser(__doc__, rounds=15)
    options.add_argument("--sparsity", type=float, nargs="+", default=[0.5, 0.9])
    options.add_argument("--heap", action="store_true", help="keep freed memory in the process")
    args = options.parse_args()
    scores = new_scores()
    masks = [torch.empty_like(s, dtype=torch.bool) for s in scores]
    total = sum(s.numel() for s in scores)
    figures: list[Figure] = []
    for sparsity in args.sparsity:
        n_prune = prune_count(total, sparsity)
        check(scores, n_prune, masks)
        print(f"{total} scores, sparsity {sparsity}: threshold and masks equal, ties included")
        timings = interleave(
            {
                "abs + cat + kthvalue": partial(reference, scores, n_prune),
                "threshold and masks": partial(keep_highest, scores, n_prune, masks, absolute=True),
            },
            1 if args.quick else args.rounds,
            warmup=2,
        )
        show(timings)
        plain, ours = timings.values()
        name = f"threshold and masks over kthvalue, {sparsity:.0%} sparsity"
        figures.append(ratio(name, 8, ours, plain, at_least=True))
    report(figures, args.json)


if __name__ == "__main__":
    main()
