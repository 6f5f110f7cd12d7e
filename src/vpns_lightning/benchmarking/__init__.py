"""How much of a pruning is felt: time, memory and bytes against the dense network."""

from vpns_lightning.benchmarking.measuring import Plan, compare_counts, measure, remarks
from vpns_lightning.benchmarking.memory import training_memory
from vpns_lightning.benchmarking.report import headline, markdown, show
from vpns_lightning.benchmarking.runtimes import (
    DEFAULT,
    RUNTIMES,
    Missing,
    Precision,
    Runtime,
    chosen_precision,
    chosen_runtimes,
    fold,
    two_of_four,
)
from vpns_lightning.benchmarking.timing import Rounds, interleave

__all__ = [
    "DEFAULT",
    "RUNTIMES",
    "Missing",
    "Plan",
    "Precision",
    "Rounds",
    "Runtime",
    "chosen_precision",
    "chosen_runtimes",
    "compare_counts",
    "fold",
    "headline",
    "interleave",
    "markdown",
    "measure",
    "remarks",
    "show",
    "training_memory",
    "two_of_four",
]
