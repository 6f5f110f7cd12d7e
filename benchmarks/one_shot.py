"""One-shot masks: the time of one against an epoch of tuning on CIFAR-100, and SynFlow alone.

    python benchmarks/one_shot.py                   ResNet-18 at 224 px, SynFlow on ResNet-50 too

An epoch is 50,000 images of a dense training step, measured on a batch. Methods that look at images
score 10 of each of 100 classes; they are timed on as many as a batch holds, and the passes over
the rest are counted as taking as long. Ranking and masking are timed whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from _harness import Figure, parser, report, settle
from steps import LightStage, dense_step, new_batch

from vpns_lightning.network import PromptedClassifier, RandomMapping
from vpns_lightning.pruners import OMP, SNIP, GraSP, Random, Saliency, SynFlow, Wanda

PX, CLASSES, SPARSITY = 224, 100, 0.9
EPOCH, SCORED = 50_000, 1000  # images
BATCH = 32
MINUTES = 300  # seconds for all rounds of SynFlow on ResNet-50


class ScoringStage(LightStage):
    """What a scoring pruner asks of its stage besides a loss, in one process."""

    global_rank, world_size, passes = 0, 1, 0


def new_network(backbone: str) -> PromptedClassifier:
    """Return a network of random weights with 1,000 classes, 100 of them mapped."""
    torch.manual_seed(0)
    mapping = RandomMapping()
    network = PromptedClassifier(backbone, CLASSES, source_classes=1000, mapping=mapping)
    network.fit_mapping()
    return network


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def mask_seconds(pruner: Saliency, network: PromptedClassifier) -> float:
    """Return the seconds from pretrained weights to masks."""
    images, labels = new_batch(PX, BATCH)
    labels = torch.arange(BATCH) % CLASSES
    stage = ScoringStage(network)

    def score() -> None:
        pruner.step(stage, "plain", (images, labels))
        pruner.end_epoch(stage)

    pruner.attach(network, SPARSITY)
    scoring = seconds(score) * SCORED / BATCH if pruner.epochs(1) else 0.0
    ranking = seconds(lambda: pruner.finish(network, SPARSITY))
    print(
        f"  {type(pruner).__name__:8} scoring {scoring:8.2f} s   masks {ranking:8.2f} s", flush=True
    )
    return scoring + ranking


def main() -> None:
    """Time one-shot masks and print their shares."""
    settle()
    options = parser(__doc__, rounds=3)
    args = options.parse_args()
    rounds = 2 if args.quick else 100
    methods: list[Callable[[], Saliency]] = [
        *(Random, OMP, partial(SynFlow, rounds=rounds)),
        *(partial(kind, samples_per_class=1) for kind in (SNIP, GraSP, Wanda)),
    ]
    batch = new_batch(PX, BATCH)
    step = dense_step(PX, batch)
    step()
    epoch = min(seconds(step) for _ in range(args.rounds)) * EPOCH / BATCH
    print(f"an epoch of dense tuning, ResNet-18, {PX} px: {epoch / 60:.0f} min", flush=True)
    figures = []
    for build in methods:
        pruner = build()
        share = 100 * mask_seconds(pruner, new_network("resnet18")) / epoch
        name = f"{type(pruner).__name__}'s mask, share of an epoch of CIFAR-100, {PX} px"
        figures.append(Figure(name, 100, share, share, "%"))
    spent = mask_seconds(SynFlow(rounds=rounds), new_network("resnet50"))
    figures.append(Figure(f"SynFlow, {rounds} rounds, ResNet-50", MINUTES, spent, spent, "s"))
    report(figures, args.json)


if __name__ == "__main__":
    main()
