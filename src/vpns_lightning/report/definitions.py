"""The paper's figures and tables: what each shows, from which runs (VPNs, arXiv 2312.01397)."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from msgspec import UnsetType

from vpns_lightning.report.measures import (
    ACCURACY,
    CHANNELS,
    INPUT_SIZE,
    KIND,
    PAD_SIZE,
    SPARSITY,
    Axis,
    Measure,
    before_prompt,
    saving,
)
from vpns_lightning.report.runs import Run, number

Choose: TypeAlias = Callable[[Run], bool]
Name: TypeAlias = Callable[[Run], str]

SPARSITIES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SEEDS = (7, 9, 17)
BASELINES = ("Random", "OMP", "SNIP", "GraSP", "SynFlow", "LTH", "HYDRA", "BiP")
EIGHT = (
    *("CIFAR10", "CIFAR100", "TinyImageNet", "Flowers102"),
    *("DTD", "Food101", "OxfordPets", "StanfordCars"),
)


@dataclass(frozen=True)
class Definition:
    """A figure or table.

    Attributes:
        id: Its name in the paper: ``fig4``, ``figA11``, ``tabA3``.
        title: What it shows.
        choose: Whether a run started by hand belongs to it; those of its own grid always do.
        axes: One panel for each axis, on each data set and backbone.
        measures: One panel for each measure, unless they differ by suffix.
        line: Name of the curve a run belongs to.
        panel: Further division of runs into panels; empty for none.
        lines: Names of the paper's curves, in their order.
        datasets: The paper's data sets.
        sparsities: The paper's sparsities; a gap in them breaks a curve.
        seeds: The paper's seeds.
        any_grid: Also drawn from other grids, but for those of studies.
        study: Varies more than method, data and sparsity.
        grid: The reader's own grid that it shows, empty for runs by hand; None for the paper's.
        name: Of its files and on the page, where it is not the id.
        table: Columns, for what is a table only: ``data``, ``hyperparameters``, ``cost``.
    """

    id: str
    title: str
    choose: Choose
    axes: tuple[Axis, ...] = (SPARSITY,)
    measures: tuple[Measure, ...] = (ACCURACY,)
    line: Name = lambda run: run.grid_label
    panel: Name = lambda run: ""
    lines: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    sparsities: tuple[float, ...] = SPARSITIES
    seeds: tuple[int, ...] = SEEDS
    any_grid: bool = False
    study: bool = False
    grid: str | None = None
    name: str = ""
    table: str = ""

    @property
    def file(self) -> str:
        """Name of its files; a grid's name may hold anything."""
        return self.name or re.sub(r"[^\w.-]+", "-", self.id).strip("-.") or "grid"


def plainly(run: Run) -> bool:
    """Return whether a run is method against sparsity and no study."""
    return not (run.pilot or run.structured or "(transferred)" in run.label or "," in run.label)


def _is_one_of(*labels: str) -> Choose:
    return lambda run: plainly(run) and (run.label in labels or run.dense)


def _at_level(run: Run) -> str:
    # without its prompt VPNs is HYDRA, but here that is one of its kinds
    method = "VPNs" if run.label == "HYDRA" else run.label
    return f"{method}, {100 * run.record.sparsity_requested:g} %"


def _scaled(value: float | UnsetType | None, by: float) -> float | None:
    found = number(value)
    return None if found is None else found * by


THREE = ("Random", "OMP", "LTH")
DEFINITIONS: tuple[Definition, ...] = (
    Definition(
        id="fig1",
        title="Pilot study: prompts learned after pruning",
        study=True,
        choose=lambda run: run.pilot,
        measures=(
            Measure("test accuracy (%)", before_prompt),
            Measure("test accuracy (%)", lambda run: run.accuracy, suffix=" + prompt"),
        ),
        panel=lambda run: "fine-tuned" if run.record.stages["tune"].gradient_steps else "zero-shot",
        line=lambda run: run.label,
        lines=("Random", "OMP", "SNIP", "SynFlow", "HYDRA"),
    ),
    Definition(
        id="fig4",
        title="VPNs and the baselines on eight data sets",
        choose=lambda run: (
            run.record.backbone == "resnet18" and _is_one_of("VPNs", *BASELINES)(run)
        ),
        lines=("VPNs", *BASELINES),
        datasets=EIGHT,
    ),
    Definition(
        id="fig5",
        title="VPNs and the baselines on other architectures",
        choose=lambda run: (
            run.record.backbone != "resnet18" and _is_one_of("VPNs", *BASELINES)(run)
        ),
        lines=("VPNs", *BASELINES),
        datasets=("TinyImageNet",),
    ),
    Definition(
        id="fig6",
        title="Transfer: subnetworks found on ImageNet, tuned elsewhere",
        study=True,
        choose=lambda run: "(transferred)" in run.label,
        lines=("VPNs (transferred)", "HYDRA (transferred)", "OMP"),
        datasets=("CIFAR100", "TinyImageNet"),
    ),
    Definition(
        id="fig7",
        title="Prompts with other pruners: Random, OMP and LTH",
        choose=_is_one_of("VPNs", *THREE, *(f"VPNs w. {name}" for name in THREE)),
        lines=("VPNs", *THREE, *(f"VPNs w. {name}" for name in THREE)),
        datasets=("CIFAR100",),
    ),
    Definition(
        id="fig8",
        title="Structured pruning: accuracy and saving",
        study=True,
        choose=lambda run: run.structured,
        axes=(CHANNELS,),
        measures=(
            ACCURACY,
            Measure("multiply-adds, dense over pruned", saving),
            Measure(
                "parameters kept (million)",
                lambda run: _scaled(run.record.parameters_kept, 1e-6),
                best="",
            ),
        ),
        lines=("VPNs (structured)", "Slim", "DepGraph"),
        datasets=("CIFAR100",),
        sparsities=(),
    ),
    Definition(
        id="fig9",
        title="Time and gradient steps of a whole run",
        choose=plainly,
        measures=(
            Measure("time (minutes)", lambda run: _scaled(run.record.seconds, 1 / 60), best="min"),
            Measure(
                "gradient steps",
                lambda run: number(run.record.gradient_steps),
                decimals=0,
                best="min",
            ),
        ),
        lines=("VPNs", *BASELINES),
        sparsities=(0.5, 0.7, 0.9),
        seeds=(7,),
        any_grid=True,
    ),
    Definition(
        id="fig10",
        title="Input size, pad size and kind of prompt",
        study=True,
        choose=lambda run: False,
        axes=(INPUT_SIZE, PAD_SIZE, KIND),
        line=_at_level,
        datasets=("CIFAR100",),
        sparsities=(),
    ),
    Definition(
        id="figA11",
        title="The prompt in one stage, in both, in none",
        study=True,
        choose=lambda run: ", prompt in" in run.label,
        lines=(
            *("VPNs", "VPNs, prompt in mask finding only"),
            *("HYDRA, prompt in tuning only", "HYDRA"),
        ),
        datasets=("CIFAR100",),
    ),
    Definition(id="tabA1", title="Data sets", choose=lambda run: True, any_grid=True, table="data"),
    Definition(
        id="tabA2", title="Hyper-parameters", choose=lambda run: False, table="hyperparameters"
    ),
    Definition(
        id="tabA3",
        title="Epochs and gradient steps at equal sparsity",
        choose=plainly,
        any_grid=True,
        table="cost",
    ),
)
IDS = tuple(definition.id for definition in DEFINITIONS)
STUDIES = {definition.id for definition in DEFINITIONS if definition.study}
